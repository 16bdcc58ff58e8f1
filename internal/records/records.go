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
	"strings"
	"time"

	"levee/internal/config"
	"levee/internal/siem"
	"levee/internal/site"
	"levee/pki"
)

// The files of a recorder's bundle beside those of every bundle.
const (
	// FileLogKey is the log's signing key.
	FileLogKey = "log.key"
	// FileWitnessKey is the key by which the site's recorder cosigns other sites'
	// logs.
	FileWitnessKey = "witness.key"
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
	// Retention is how long segments are kept; they stay for ever if it is absent.
	// The log is never shortened.
	Retention time.Duration `yaml:"retention,omitempty"`
	// LogListen is the address and port where auditors read the log, and other
	// sites' recorders have theirs cosigned; nothing listens if it is absent.
	LogListen string `yaml:"log_listen,omitempty"`
	// Witnesses say where the witnesses of the site document are asked.
	Witnesses []Witness `yaml:"witnesses,omitempty"`
	// WitnessInterval is how often they are asked; 10s if absent.
	WitnessInterval time.Duration `yaml:"witness_interval,omitempty"`
	// SIEM is where security events go (docs/siem.md); nowhere if it is absent.
	SIEM siem.Settings `yaml:"siem,omitempty"`
}

// Witness is another site's recorder, as ours asks it.
type Witness struct {
	Name    string `yaml:"name"`    // as in its key
	Address string `yaml:"address"` // host:port
}

// DefaultWitnessInterval is how often witnesses are asked.
const DefaultWitnessInterval = 10 * time.Second

// LogHost returns the DNS name by which a recorder is known to whoever dials it;
// host is its site's. It is not the site's own: foreign MQTT clients would take a
// recorder for the broker.
func LogHost(host string) string { return "log." + host }

// LogOrigin names the log of a recorder, WitnessName the witness that it is: its
// identity without the scheme, but that the role is told apart.
func LogOrigin(id pki.Identity) string { return id.Host() + "/" + string(id.Role) + "/" + id.Name }

// WitnessName is described at LogOrigin.
func WitnessName(id pki.Identity) string { return id.Host() + "/witness/" + id.Name }

// LogOwner returns the recorder whose log has that origin.
func LogOwner(origin, trustDomain string) (pki.Identity, error) {
	id, err := pki.ParseIdentity("spiffe://"+origin, trustDomain)
	if err != nil || id.Role != pki.RoleRecorder {
		return pki.Identity{}, fmt.Errorf("%q is no recorder's log of %s", origin, trustDomain)
	}
	return id, nil
}

// WitnessOwner returns the recorder that is the witness of that name.
func WitnessOwner(name, trustDomain string) (pki.Identity, error) {
	host, rest, _ := strings.Cut(name, "/")
	recorder, ok := strings.CutPrefix(rest, "witness/")
	if !ok {
		return pki.Identity{}, fmt.Errorf("%q is no recorder's witness of %s", name, trustDomain)
	}
	return LogOwner(host+"/"+string(pki.RoleRecorder)+"/"+recorder, trustDomain)
}

// Log is the directory of the transparency log.
func (s Settings) Log() string { return filepath.Join(string(s.State), "log") }

// Segments is the directory of the segments.
func (s Settings) Segments() string { return filepath.Join(string(s.State), "segments") }

// Held notes what the recorder holds of whom.
func (s Settings) Held() string { return filepath.Join(string(s.State), "held") }

// Imported notes how far the journals were imported into the log.
func (s Settings) Imported() string { return filepath.Join(string(s.State), "imported") }

// LogKey is the log's signing key.
func (s Settings) LogKey() string { return filepath.Join(string(s.Bundle), FileLogKey) }

// WitnessKey is the key by which other sites' logs are cosigned.
func (s Settings) WitnessKey() string { return filepath.Join(string(s.Bundle), FileWitnessKey) }

// Witnessed is the directory of what was cosigned for other sites.
func (s Settings) Witnessed() string { return filepath.Join(string(s.State), "witnessed") }

// Cosigned is the newest checkpoint of the log that enough witnesses have
// cosigned.
func (s Settings) Cosigned() string { return filepath.Join(string(s.State), "cosigned") }

// Sums is the list of sums of the bundle's files.
func (s Settings) Sums() string { return filepath.Join(string(s.Bundle), FileSums) }
