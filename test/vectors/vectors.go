// Package vectors holds the test vectors of the envelope, one file for each
// case. README.md is their format, docs/envelope.md what they test.
//
// It guarantees that what All returns has the form of the README and nothing
// beside it. It judges no message: the implementations under test do.
package vectors

import (
	"bytes"
	"embed"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

//go:generate go run ./make .

//go:embed *.json
var files embed.FS

// Case is a receiver, and the messages that it is given in turn.
type Case struct {
	Name     string    `json:"name"`    // the file's, without .json
	Says     string    `json:"says"`    // what is wrong, in a few words
	Section  string    `json:"section"` // of docs/envelope.md
	Receiver Receiver  `json:"receiver"`
	Messages []Message `json:"messages"`
}

// Receiver is what the checks need to know.
type Receiver struct {
	Site    string            `json:"site"`
	Start   int64             `json:"start,omitempty"`   // ms since the epoch; 0: its windows remember everything
	Skew    int64             `json:"skew"`              // ms
	Keys    map[string]string `json:"keys,omitempty"`    // role keys in hexadecimal, by role
	Own     *Own              `json:"own,omitempty"`     // its own key; nil: it expects no acknowledgements
	Root    []byte            `json:"root,omitempty"`    // DER of the root certificate; nil: no signature can be verified
	Pins    map[string]string `json:"pins,omitempty"`    // base64url of SHA-256 of the SubjectPublicKeyInfo, by sender
	Minimum map[string]uint32 `json:"minimum,omitempty"` // lowest generation, by sender
}

// Own is a receiver's own key.
type Own struct {
	KID string `json:"kid"`
	Key string `json:"key"` // in hexadecimal
}

// Message is one message and what must come of it.
type Message struct {
	Now       int64  `json:"now"`                 // the receiver's clock, ms since the epoch
	Topic     string `json:"topic"`               // of the PUBLISH packet; of a statement: the one expected
	Publisher string `json:"publisher,omitempty"` // site/role/name; empty: nobody, the topic is none of ours
	MaxBytes  int    `json:"max_bytes"`           // of its class
	Signed    bool   `json:"signed"`              // whether its class must be signed
	Statement bool   `json:"statement,omitempty"` // it came inside another document
	Raw       []byte `json:"raw"`
	Expect    string `json:"expect"` // "accepted" or a reason of section 7
}

// KeyFile returns the key file of a bundle (package envelope/keys) that holds
// the receiver's role keys, under its own key or else one that no case uses.
func (r Receiver) KeyFile() ([]byte, error) {
	own := Own{KID: r.Site + "/auditor/vectors/1", Key: strings.Repeat("00", 32)}
	if r.Own != nil {
		own = *r.Own
	}
	parts := strings.Split(own.KID, "/")
	secret, err := hex.DecodeString(own.Key)
	if err != nil || len(parts) != 4 {
		return nil, fmt.Errorf("reading the receiver's own key, of %q: %w", own.KID, err)
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "LEVEE SENDER KEY", Bytes: secret,
		Headers: map[string]string{"Site": parts[0], "Role": parts[1], "Name": parts[2], "Generation": parts[3]}})
	for role, text := range r.Keys {
		key, err := hex.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("reading the key of role %s: %w", role, err)
		}
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "LEVEE ROLE KEY", Bytes: key,
			Headers: map[string]string{"Site": r.Site, "Role": role}})...)
	}
	return b, nil
}

// All returns the cases in the order of their names.
func All() ([]Case, error) { return load(files) }

func load(from fs.FS) ([]Case, error) {
	names, err := fs.Glob(from, "*.json")
	if err != nil {
		return nil, fmt.Errorf("reading vectors: %w", err)
	}
	if len(names) == 0 {
		return nil, errors.New("reading vectors: there are none")
	}
	cases := make([]Case, 0, len(names))
	for _, name := range names {
		b, err := fs.ReadFile(from, name)
		if err != nil {
			return nil, fmt.Errorf("reading vectors: %w", err)
		}
		c, err := decode(b)
		if err == nil && c.Name != strings.TrimSuffix(name, ".json") {
			err = fmt.Errorf("it calls itself %q", c.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("reading vector %s: %w", name, err)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

// decode refuses a member that the format does not have: it would be a
// condition of the case that nobody tests.
func decode(b []byte) (Case, error) {
	var c Case
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Case{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Case{}, errors.New("something follows the case")
	}
	if c.Name == "" || c.Says == "" || c.Section == "" || c.Receiver.Site == "" || c.Receiver.Skew <= 0 || len(c.Messages) == 0 {
		return Case{}, errors.New("a member is missing")
	}
	for i, m := range c.Messages {
		if m.Topic == "" || m.Publisher == "" && m.Expect != "topic" || m.MaxBytes <= 0 || len(m.Raw) == 0 || m.Expect == "" {
			return Case{}, fmt.Errorf("message %d lacks a member", i)
		}
	}
	return c, nil
}
