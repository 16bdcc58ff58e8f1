package vectors

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

//go:embed digests/*.json
var digestFiles embed.FS

// DigestCase is a digest whose signature was verified, and what a receiver has
// seen of its sender.
type DigestCase struct {
	Name    string `json:"name"`    // the file's, without .json
	Says    string `json:"says"`    // what is particular, in a few words
	Nonce   string `json:"nonce"`   // of the digest's own envelope
	Payload string `json:"payload"` // the digest
	Seen    []Seen `json:"seen,omitempty"`
	Expect  string `json:"expect"`            // an outcome of section 8
	Missing int    `json:"missing,omitempty"` // numbers of the range neither seen nor declared dropped
}

// Seen is one message, whole.
type Seen struct {
	Boot string `json:"boot"`
	Seq  uint64 `json:"seq"`
	Raw  []byte `json:"raw"`
}

// Digests returns the cases of section 8 in the order of their names.
func Digests() ([]DigestCase, error) {
	names, err := fs.Glob(digestFiles, "digests/*.json")
	if err != nil {
		return nil, fmt.Errorf("reading vectors: %w", err)
	}
	cases := make([]DigestCase, 0, len(names))
	for _, name := range names {
		b, err := digestFiles.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading vectors: %w", err)
		}
		c, err := decodeDigest(b)
		if err == nil && c.Name != strings.TrimSuffix(path.Base(name), ".json") {
			err = fmt.Errorf("it calls itself %q", c.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("reading vector %s: %w", name, err)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

func decodeDigest(b []byte) (DigestCase, error) {
	var c DigestCase
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return DigestCase{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return DigestCase{}, errors.New("something follows the case")
	}
	if c.Name == "" || c.Says == "" || c.Nonce == "" || c.Payload == "" || c.Expect == "" {
		return DigestCase{}, errors.New("a member is missing")
	}
	return c, nil
}
