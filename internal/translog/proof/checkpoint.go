package proof

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxNote bounds a checkpoint with its signatures in bytes, maxState a state file.
const (
	maxNote  = 64 << 10
	maxState = 1 << 10
)

// A Checkpoint is a signed tree head whose signature was checked.
type Checkpoint struct {
	Origin string
	Tree   tlog.Tree
	Note   []byte // as signed, signatures included
}

// NewVerifier reads the log's public key (the vkey of a C2SP signed note) and
// insists that it was made for origin.
func NewVerifier(origin, vkey string) (note.Verifier, error) {
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("reading log's public key: %w", err)
	}
	if v.Name() != origin {
		return nil, fmt.Errorf("reading log's public key: it is for %q, not for %q", v.Name(), origin)
	}
	return v, nil
}

// CheckpointText spells the text that a checkpoint signs (C2SP tlog-checkpoint,
// without extension lines).
func CheckpointText(origin string, tree tlog.Tree) string {
	return origin + "\n" + strconv.FormatInt(tree.N, 10) + "\n" +
		base64.StdEncoding.EncodeToString(tree.Hash[:]) + "\n"
}

// ErrNotSigned says that a checkpoint lacks a good signature of its log.
var ErrNotSigned = errors.New("it is not signed with this log's key")

// OpenCheckpoint checks that raw is a checkpoint of the log named by v, signed
// with its key. Signatures by other keys are left to whoever knows those keys.
func OpenCheckpoint(raw []byte, v note.Verifier) (Checkpoint, error) {
	if len(raw) > maxNote {
		return Checkpoint{}, fmt.Errorf("reading checkpoint: longer than %d bytes", maxNote)
	}
	n, err := note.Open(raw, note.VerifierList(v))
	unsigned, invalid := (*note.UnverifiedNoteError)(nil), (*note.InvalidSignatureError)(nil)
	if errors.As(err, &unsigned) || errors.As(err, &invalid) {
		return Checkpoint{}, fmt.Errorf("reading checkpoint: %w", ErrNotSigned)
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("reading checkpoint: %w", err)
	}
	if err := checkSignatureLines(raw, n); err != nil {
		return Checkpoint{}, err
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[0] != v.Name() {
		return Checkpoint{}, fmt.Errorf("reading checkpoint: it is not one of the log %q", v.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return Checkpoint{}, errors.New("reading checkpoint: malformed size")
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("reading checkpoint: %w", err)
	}
	tree := tlog.Tree{N: size, Hash: root}
	if CheckpointText(v.Name(), tree) != n.Text {
		return Checkpoint{}, errors.New("reading checkpoint: its text has a second spelling")
	}
	return Checkpoint{Origin: v.Name(), Tree: tree, Note: bytes.Clone(raw)}, nil
}

// checkSignatureLines refuses what package note tolerates: repeated lines, and
// base64 with stray bits, which would let a changed byte pass.
func checkSignatureLines(raw []byte, n *note.Note) error {
	block := raw[len(n.Text)+1:]
	if bytes.Count(block, []byte("\n")) != len(n.Sigs)+len(n.UnverifiedSigs) {
		return errors.New("reading checkpoint: a signature is repeated")
	}
	for _, sigs := range [][]note.Signature{n.Sigs, n.UnverifiedSigs} {
		for _, sig := range sigs {
			if _, err := base64.StdEncoding.Strict().DecodeString(sig.Base64); err != nil {
				return errors.New("reading checkpoint: a signature has a second spelling")
			}
		}
	}
	return nil
}

// treeState is the writer's record of the integrated tree.
type treeState struct {
	Size uint64 `json:"size"`
	Root []byte `json:"root"`
}

// TreeState spells tree as the content of TreeStateFile.
func TreeState(tree tlog.Tree) ([]byte, error) {
	return json.Marshal(treeState{Size: uint64(tree.N), Root: tree.Hash[:]})
}

// ParseTreeState reads the content of TreeStateFile. It accepts only what
// TreeState spells.
func ParseTreeState(raw []byte) (tlog.Tree, error) {
	var s treeState
	if err := json.Unmarshal(raw, &s); err != nil {
		return tlog.Tree{}, fmt.Errorf("reading tree state: %w", err)
	}
	if s.Size > 1<<62 || len(s.Root) != tlog.HashSize {
		return tlog.Tree{}, errors.New("reading tree state: size or root out of range")
	}
	tree := tlog.Tree{N: int64(s.Size), Hash: tlog.Hash(s.Root)}
	if again, err := TreeState(tree); err != nil || !bytes.Equal(again, raw) {
		return tlog.Tree{}, errors.New("reading tree state: it has a second spelling")
	}
	return tree, nil
}
