// Package records says where a recorder's files are, for those who make,
// write and audit them.
//
// It guarantees only that they agree; docs/records.md says what is in the
// files.
package records

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"time"

	"levee/internal/config"
	"levee/internal/site"
)

// The files of a recorder's bundle beside those of every bundle.
const (
	// FileLogKey is the log's signing key.
	FileLogKey = "log.key"
	// FileNewLog says that the log was never made. The start that makes it
	// removes the file.
	FileNewLog = "new-log"
	// FileMachines and FilePeople are the deployer's journals of what the
	// site's two authorities issued (docs/issuing.md).
	FileMachines = "issued.machine"
	FilePeople   = "issued.people"
	// FileSums holds SHA-256 of Summed, as sha256sum(1) writes and checks it.
	FileSums = "SHA256SUMS"
)

// ImportOverdue is how long what was issued may take to reach the log. The
// recorder asks each minute, and raises an alarm after this; an auditor expects
// no certificate in the log earlier.
const ImportOverdue = 15 * time.Minute

// NewLog is the content of FileNewLog.
const NewLog = "The first start of this recorder makes its log and removes this file.\n"

// Summed returns the names of the files that an audit reads and that no
// signature covers whole, in the order in which FileSums lists them. A key
// that changed by accident would otherwise show as messages that are wrong.
func Summed() []string { return []string{site.FileRoot, site.FilePolicy, site.FileKeys} }

// Sum returns the line of FileSums for a file of that name and content.
func Sum(name string, content []byte) string {
	return fmt.Sprintf("%x  %s\n", sha256.Sum256(content), name)
}

// Sums returns FileSums for files, by name.
func Sums(files map[string][]byte) []byte {
	var b []byte
	for _, name := range Summed() {
		b = append(b, Sum(name, files[name])...)
	}
	return b
}

// Settings are a recorder's configuration file.
type Settings struct {
	site.Settings `yaml:",inline"`
	// Watermark is the file that notes the log's newest checkpoint, away from
	// the log.
	Watermark config.Path `yaml:"watermark"`
	// MetricsListen is the loopback address and port where GET /metrics is
	// answered; nothing listens if it is absent.
	MetricsListen string `yaml:"metrics_listen,omitempty"`
}

// Log is the directory of the transparency log.
func (s Settings) Log() string { return filepath.Join(string(s.State), "log") }

// Segments is the directory of the segments.
func (s Settings) Segments() string { return filepath.Join(string(s.State), "segments") }

// Imported notes how far the journals were imported into the log.
func (s Settings) Imported() string { return filepath.Join(string(s.State), "imported") }

// LogKey is the log's signing key.
func (s Settings) LogKey() string { return filepath.Join(string(s.Bundle), FileLogKey) }

// Sums is the list of sums of the bundle's files.
func (s Settings) Sums() string { return filepath.Join(string(s.Bundle), FileSums) }
