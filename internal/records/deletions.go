package records

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"levee/internal/durable"
	"levee/internal/wire"
)

// Deletion declares that a segment was deleted after its retention.
type Deletion struct {
	File  string `json:"file"`  // its name
	Ended int64  `json:"ended"` // ms since the epoch: everything in it was received before
	At    int64  `json:"at"`    // ms since the epoch, when it was deleted
}

// LeastRetention is how long a recorder that deletes anything keeps it at least:
// auditors must have come by.
const LeastRetention = 24 * time.Hour

// maxDeletions bounds the file of deletions: a segment each hour for 30 years.
const maxDeletions = 32 << 20

// Deletions is the file that declares which segments were deleted after their
// retention, a line each.
func (s Settings) Deletions() string { return filepath.Join(string(s.State), "deleted") }

// Declare adds a line to a file of deletions, durably. One that is declared
// already is not declared again.
func Declare(path string, d Deletion) error {
	b, err := durable.ReadFile(path, maxDeletions)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	known, err := parseDeletions(path, b)
	if err != nil {
		return err
	}
	for _, k := range known {
		if k.File == d.File {
			return nil
		}
	}
	line, err := wire.Encode(&d)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(append(b, line...), '\n'), 0o600)
}

// ReadDeletions reads a file of deletions; one that is not there declares none.
func ReadDeletions(path string) ([]Deletion, error) {
	b, err := durable.ReadFile(path, maxDeletions)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseDeletions(path, b)
}

func parseDeletions(path string, b []byte) (all []Deletion, err error) {
	for line := range bytes.Lines(b) {
		var d Deletion
		if err := wire.DecodeExact(bytes.TrimSuffix(line, []byte("\n")), &d); err != nil || d.File == "" || d.Ended > d.At || d.Ended < 0 {
			return nil, fmt.Errorf("reading %s: line %d declares no deletion", path, len(all)+1)
		}
		all = append(all, d)
	}
	return all, nil
}
