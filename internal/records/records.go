// Package records says where a recorder's files are, for those who make,
// write and audit them.
//
// It guarantees only that they agree; docs/records.md says what is in the
// files.
package records

import (
	"path/filepath"

	"levee/internal/config"
	"levee/internal/site"
)

// FileLogKey is the log's signing key in a recorder's bundle.
const FileLogKey = "log.key"

// Settings are a recorder's configuration file.
type Settings struct {
	site.Settings `yaml:",inline"`
	// Watermark is the file that notes the log's newest checkpoint, away from
	// the log.
	Watermark config.Path `yaml:"watermark"`
}

// Log is the directory of the transparency log.
func (s Settings) Log() string { return filepath.Join(string(s.State), "log") }

// Segments is the directory of the segments.
func (s Settings) Segments() string { return filepath.Join(string(s.State), "segments") }

// LogKey is the log's signing key.
func (s Settings) LogKey() string { return filepath.Join(string(s.Bundle), FileLogKey) }
