package proof

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// AlgorithmCosignature is the signature type of a witness's key (C2SP
// tlog-cosignature, "Format"): no key of a log has it.
const AlgorithmCosignature = 0x04

// cosignatureSize is a cosignature in bytes, without its key's hash.
const cosignatureSize = 8 + ed25519.SignatureSize

// CosignatureText spells what a witness signs (C2SP tlog-cosignature, "Ed25519
// signed message"): text is a checkpoint's, without its signatures; seconds are
// those since the Unix epoch.
func CosignatureText(text string, seconds int64) []byte {
	return []byte("cosignature/v1\ntime " + strconv.FormatInt(seconds, 10) + "\n" + text)
}

// WitnessKey spells a witness's public key as its verifier key (C2SP
// signed-note) and returns the hash by which its signatures name it.
func WitnessKey(name string, public ed25519.PublicKey) (vkey string, hash uint32) {
	key := append([]byte{AlgorithmCosignature}, public...)
	sum := sha256.Sum256(append([]byte(name+"\n"), key...))
	hash = binary.BigEndian.Uint32(sum[:])
	return fmt.Sprintf("%s+%08x+%s", name, hash, base64.StdEncoding.EncodeToString(key)), hash
}

// A Witness checks the cosignatures of one witness. It is a note.Verifier.
type Witness struct {
	name   string
	hash   uint32
	public ed25519.PublicKey
}

// NewWitness reads a witness's public key. It accepts what WitnessKey spells and
// nothing else; a log's key is no witness's.
func NewWitness(vkey string) (*Witness, error) {
	parts := strings.SplitN(vkey, "+", 3) // the base64 may hold a +
	if len(parts) != 3 || parts[0] == "" || strings.ContainsFunc(parts[0], func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("reading a witness's key: %q is none", vkey)
	}
	key, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(key) != 1+ed25519.PublicKeySize || key[0] != AlgorithmCosignature {
		return nil, fmt.Errorf("reading a witness's key: %q is no Ed25519 key for cosignatures", vkey)
	}
	w := &Witness{name: parts[0], public: key[1:]}
	spelt, hash := WitnessKey(w.name, w.public)
	if spelt != vkey {
		return nil, fmt.Errorf("reading a witness's key: %q has another hash, or a second spelling", vkey)
	}
	w.hash = hash
	return w, nil
}

// Name returns the witness's name.
func (w *Witness) Name() string { return w.name }

// KeyHash returns the hash by which signatures name the key.
func (w *Witness) KeyHash() uint32 { return w.hash }

// Verify reports whether sig is the witness's for a checkpoint's text.
func (w *Witness) Verify(text, sig []byte) bool {
	if len(sig) != cosignatureSize {
		return false
	}
	seconds := binary.BigEndian.Uint64(sig)
	return seconds <= math.MaxInt64 && ed25519.Verify(w.public, CosignatureText(string(text), int64(seconds)), sig[8:])
}

// A Cosignature is a witness's word that, at that time, the checkpoint was the
// newest that it had seen of the log, and continued all others.
type Cosignature struct {
	Witness string
	Time    time.Time
}

// Cosignatures returns who of the witnesses has cosigned cp, in the order of
// witnesses. Signatures by others do not count; one in a witness's name that is
// wrong is an error.
func Cosignatures(cp Checkpoint, witnesses []*Witness) ([]Cosignature, error) {
	if len(witnesses) == 0 {
		return nil, nil
	}
	known := make([]note.Verifier, len(witnesses))
	for i, w := range witnesses {
		known[i] = w
	}
	n, err := note.Open(cp.Note, note.VerifierList(known...))
	if unsigned := (*note.UnverifiedNoteError)(nil); errors.As(err, &unsigned) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading cosignatures: %w", err)
	}
	if err := checkSignatureLines(cp.Note, n); err != nil {
		return nil, err
	}
	var all []Cosignature
	for _, w := range witnesses {
		for _, sig := range n.Sigs {
			if sig.Name != w.name || sig.Hash != w.hash {
				continue
			}
			raw, err := base64.StdEncoding.DecodeString(sig.Base64)
			if err != nil || len(raw) != 4+cosignatureSize {
				return nil, errors.New("reading cosignatures: one has the wrong length")
			}
			all = append(all, Cosignature{Witness: w.name, Time: time.Unix(int64(binary.BigEndian.Uint64(raw[4:])), 0).UTC()})
		}
	}
	return all, nil
}

// ErrNotWitnessed says that too few witnesses have cosigned.
var ErrNotWitnessed = errors.New("too few witnesses have cosigned")

// Quorum says whose cosignatures count, and how many a checkpoint needs.
type Quorum struct {
	Witnesses []string // verifier keys
	Need      int      // 1 to len(Witnesses)
}

// Open reads the keys. Two of one name, or one key under two names, would let one
// witness count twice.
func (q Quorum) Open() ([]*Witness, error) {
	var all []*Witness
	for _, vkey := range q.Witnesses {
		w, err := NewWitness(vkey)
		if err != nil {
			return nil, err
		}
		for _, other := range all {
			if other.name == w.name || bytes.Equal(other.public, w.public) {
				return nil, fmt.Errorf("reading witnesses' keys: %s stands twice, or has the key of another", w.name)
			}
		}
		all = append(all, w)
	}
	if q.Need < 1 || q.Need > len(all) {
		return nil, fmt.Errorf("reading witnesses' keys: %d of %d is no quorum", q.Need, len(all))
	}
	return all, nil
}

// Witnessed checks that raw is a checkpoint of the log named by v that a quorum
// has cosigned, and that the tree verified, whose tiles are below fsys, is it or
// continues it. It returns the checkpoint and who cosigned it. The error is
// ErrNotWitnessed if too few have, and ErrInconsistent if the verified tree is
// older than what was witnessed, or has another history: then it was rolled back,
// or forked.
func Witnessed(fsys fs.FS, raw []byte, v note.Verifier, q Quorum, verified tlog.Tree) (Checkpoint, []Cosignature, error) {
	witnesses, err := q.Open()
	if err != nil {
		return Checkpoint{}, nil, err
	}
	cp, err := OpenCheckpoint(raw, v)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	by, err := Cosignatures(cp, witnesses)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	if len(by) < q.Need {
		return cp, by, fmt.Errorf("a checkpoint of %d entries: %w: %d of the %d that it needs", cp.Tree.N, ErrNotWitnessed, len(by), q.Need)
	}
	return cp, by, Consistent(fsys, cp.Tree, verified)
}
