package proof

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// cosigner is a witness that signs whatever it is told to.
type cosigner struct {
	name    string
	private ed25519.PrivateKey
	vkey    string
	hash    uint32
	seconds uint64
	over    func(text string, seconds int64) []byte
}

func newCosigner(t testing.TB, name string) *cosigner {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &cosigner{name: name, private: private, seconds: 1_700_000_000, over: CosignatureText}
	c.vkey, c.hash = WitnessKey(name, public)
	return c
}

func (c *cosigner) Name() string    { return c.name }
func (c *cosigner) KeyHash() uint32 { return c.hash }
func (c *cosigner) Sign(text []byte) ([]byte, error) {
	sig := binary.BigEndian.AppendUint64(nil, c.seconds)
	return append(sig, ed25519.Sign(c.private, c.over(string(text), int64(c.seconds)))...), nil
}

// The example of C2SP tlog-cosignature, section "Ed25519 signed message".
func TestCosignatureText(t *testing.T) {
	root, err := tlog.ParseHash("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")
	if err != nil {
		t.Fatal(err)
	}
	got := string(CosignatureText(CheckpointText("example.com/behind-the-sofa", tlog.Tree{N: 20852163, Hash: root}), 1679315147))
	if want := "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"; got != want {
		t.Errorf("%q", got)
	}
}

func TestNewWitnessRefuses(t *testing.T) {
	good := newCosigner(t, "perth.bank.example/witness/rec-1").vkey
	if w, err := NewWitness(good); err != nil || w.Name() != "perth.bank.example/witness/rec-1" {
		t.Fatal(err)
	}
	name, rest, _ := strings.Cut(good, "+")
	hash, key, _ := strings.Cut(rest, "+")
	_, logKey, err := note.GenerateKey(nil, name)
	if err != nil {
		t.Fatal(err)
	}
	short, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	for what, vkey := range map[string]string{
		"nothing": "", "a name": name, "no key": name + "+" + hash, "no name": "+" + rest, "a name with a space": "a b+" + rest, "another name": "x+" + rest,
		"another hash": name + "+00000000+" + key, "a hash in capitals": name + "+" + strings.ToUpper(hash) + "x+" + key, "a log's key": logKey,
		"a short key": name + "+" + hash + "+" + base64.StdEncoding.EncodeToString(short[:32]), "more behind it": good + "\n", "a name that is no text": "\xff+" + rest,
	} {
		if w, err := NewWitness(vkey); err == nil {
			t.Errorf("%s: %q is read as %s", what, vkey, w.Name())
		}
	}
	if _, err := note.NewVerifier(good); err == nil {
		t.Error("a witness's key is one of a log")
	}
}

func TestCosignatures(t *testing.T) {
	l := grown(t, 300)
	text := CheckpointText(testOrigin, tlog.Tree{N: 300, Hash: l.roots[300]})
	log, err := NewVerifier(testOrigin, l.vkey)
	if err != nil {
		t.Fatal(err)
	}
	a, b, stranger := newCosigner(t, "a"), newCosigner(t, "b"), newCosigner(t, "stranger")
	plain := newCosigner(t, "b") // signs as a log does, in a witness's name
	plain.over = func(text string, _ int64) []byte { return []byte(text) }
	early := newCosigner(t, "b")
	early.over = func(text string, s int64) []byte { return CosignatureText(text, s-1) }
	endless := newCosigner(t, "b")
	endless.seconds = math.MaxInt64 + 1
	impostor := newCosigner(t, "b")
	impostor.hash = b.hash
	for name, tc := range map[string]struct {
		by   []note.Signer
		ask  []*cosigner
		want []string
		bad  bool
	}{
		"nobody":                   {nil, []*cosigner{a, b}, nil, false},
		"nobody asked":             {[]note.Signer{a}, nil, nil, false},
		"one":                      {[]note.Signer{b}, []*cosigner{a, b}, []string{"b"}, false},
		"both, in another order":   {[]note.Signer{b, a}, []*cosigner{a, b}, []string{"a", "b"}, false},
		"a stranger":               {[]note.Signer{stranger}, []*cosigner{a, b}, nil, false},
		"a stranger beside one":    {[]note.Signer{stranger, a}, []*cosigner{a, b}, []string{"a"}, false},
		"of the name, another key": {[]note.Signer{newCosigner(t, "b")}, []*cosigner{a, b}, nil, false},
		"a key's hash, not its":    {[]note.Signer{a, impostor}, []*cosigner{a, b}, nil, true},
		"over the text alone":      {[]note.Signer{plain}, []*cosigner{plain}, nil, true},
		"of another time":          {[]note.Signer{early}, []*cosigner{early}, nil, true},
		"beyond time":              {[]note.Signer{endless}, []*cosigner{endless}, nil, true},
	} {
		cp, err := OpenCheckpoint(sign(t, text, append([]note.Signer{l.signer}, tc.by...)...), log)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var ask []*Witness
		for _, c := range tc.ask {
			w, err := NewWitness(c.vkey)
			if err != nil {
				t.Fatal(err)
			}
			ask = append(ask, w)
		}
		by, err := Cosignatures(cp, ask)
		var names []string
		for _, c := range by {
			names = append(names, c.Witness)
			if !c.Time.Equal(time.Unix(1_700_000_000, 0)) {
				t.Errorf("%s: at %v", name, c.Time)
			}
		}
		if !slices.Equal(names, tc.want) || (err != nil) != tc.bad {
			t.Errorf("%s: %v, %v", name, names, err)
		}
	}
}

func TestQuorumRefuses(t *testing.T) {
	a, b := newCosigner(t, "a"), newCosigner(t, "b")
	alias, _ := WitnessKey("c", ed25519.PublicKey(a.private[ed25519.SeedSize:]))
	for name, q := range map[string]Quorum{
		"nobody": {nil, 0}, "none needed": {[]string{a.vkey}, 0}, "more than there are": {[]string{a.vkey}, 2}, "less than none": {[]string{a.vkey}, -1},
		"one twice": {[]string{a.vkey, a.vkey}, 1}, "one key under two names": {[]string{a.vkey, alias}, 2}, "no key": {[]string{"x"}, 1},
		"two of one name": {[]string{b.vkey, newCosigner(t, "b").vkey}, 2},
	} {
		if _, err := q.Open(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What an audit asks: that enough witnesses have seen what the log still is.
func TestWitnessed(t *testing.T) {
	l := grown(t, 100, 300)
	a, b := newCosigner(t, "a"), newCosigner(t, "b")
	log, err := NewVerifier(testOrigin, l.vkey)
	if err != nil {
		t.Fatal(err)
	}
	tree := func(n int64) tlog.Tree { return tlog.Tree{N: n, Hash: l.roots[n]} }
	signed := func(tree tlog.Tree, by ...note.Signer) []byte {
		return sign(t, CheckpointText(testOrigin, tree), append([]note.Signer{l.signer}, by...)...)
	}
	other := tree(100)
	other.Hash[0] ^= 1
	q := Quorum{[]string{a.vkey, b.vkey}, 2}
	for name, tc := range map[string]struct {
		raw      []byte
		need     int
		verified tlog.Tree
		want     error
	}{
		"both":            {signed(tree(100), a, b), 2, tree(300), nil},
		"the newest":      {signed(tree(300), b, a), 2, tree(300), nil},
		"one of one":      {signed(tree(100), b), 1, tree(300), nil},
		"one of two":      {signed(tree(100), b), 2, tree(300), ErrNotWitnessed},
		"nobody":          {signed(tree(100)), 1, tree(300), ErrNotWitnessed},
		"rolled back":     {signed(tree(300), a, b), 2, tree(100), ErrInconsistent},
		"another history": {signed(other, a, b), 2, tree(300), ErrInconsistent},
		"another's":       {sign(t, CheckpointText(testOrigin, tree(100)), a, b), 2, tree(300), ErrNotSigned},
	} {
		q.Need = tc.need
		cp, by, err := Witnessed(l.files, tc.raw, log, q, tc.verified)
		if !errors.Is(err, tc.want) || tc.want == nil && (err != nil || len(by) < tc.need || cp.Tree.N == 0) {
			t.Errorf("%s: %v by %v, %v", name, cp.Tree, by, err)
		}
	}
}

// A witness's key has one spelling, and nothing but the witness's own signature
// over the text counts, whatever lines are in a checkpoint.
func FuzzCosignatures(f *testing.F) {
	a := newCosigner(f, "a")
	l := grown(f, 3)
	text := CheckpointText(testOrigin, tlog.Tree{N: 3, Hash: l.roots[3]})
	signed := sign(f, text, l.signer, a)
	f.Add(a.vkey, signed)
	f.Add(a.vkey+"=", signed[:len(signed)-2])
	log, err := NewVerifier(testOrigin, l.vkey)
	if err != nil {
		f.Fatal(err)
	}
	own, err := NewWitness(a.vkey)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, vkey string, raw []byte) {
		if w, err := NewWitness(vkey); err == nil {
			if again, _ := WitnessKey(w.name, w.public); again != vkey {
				t.Errorf("%q is spelt again as %q", vkey, again)
			}
		}
		cp, err := OpenCheckpoint(raw, log)
		if err != nil {
			return
		}
		by, err := Cosignatures(cp, []*Witness{own})
		if err == nil && len(by) > 0 && CheckpointText(cp.Origin, cp.Tree) != text {
			t.Errorf("%q counts as cosigned", raw)
		}
	})
}
