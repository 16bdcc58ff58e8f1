// Package export hands a bundle on in another form. For foreign MQTT clients it
// writes the certificates, the key, the options files of Debian's mosquitto
// clients, and a page that says what any other client of MQTT 3.1.1 must be
// told. For a machine that joins it writes the bundle without key and certificate.
//
// It guarantees that what it writes comes from one bundle whose parts belong
// together and whose certificate is valid now, that it is there whole or not at
// all, for its owner's eyes alone, and that nothing that lay there is written
// over. Keys of certificates are those of people and guests: any other machine has
// one session, which a second client with its key would end.
//
// A foreign client verifies the broker's certificate and nothing else: no
// signature, no MAC, no digest. The key that it is given is not encrypted.
package export

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"levee/internal/config"
	"levee/internal/durable"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/policies"
)

// The files of an export. An export for mosquitto has besides a directory for each
// broker, named after it, with the options files; one for MQTTX FileMQTTX.
const (
	FileRoot   = "ca.crt"     // the one root
	FileChain  = "client.crt" // leaf and issuer
	FileKey    = "client.key" // PKCS#8, not encrypted, 0600
	FileReadme = "README.txt"
)

// Sessions is how many sessions of a person an export may choose from. Their
// terminals share them; the fourth belongs to `levee up`.
const Sessions = 3

// clients are the programs that read an options file of their own name from
// $XDG_CONFIG_HOME.
var clients = []string{"mosquitto_sub", "mosquitto_pub"}

// Options say what to export, and where to.
type Options struct {
	Bundle string // directory that provisioning made
	Out    string // directory that is missing or empty
	// Session is a person's session, 0 to Sessions-1. Nil chooses the last one,
	// which `levee watch` takes last; guests have no choice.
	Session *int
}

// Result is what was written. It holds no secret.
type Result struct {
	Dir        string    `json:"dir"`        // absolute
	Identity   string    `json:"identity"`   // site/role/name
	ClientID   string    `json:"client_id"`  // the only one that the files use
	NotAfter   time.Time `json:"not_after"`  // of the certificate
	Evaluation bool      `json:"evaluation"` // the root was made for evaluation
	Brokers    []Broker  `json:"brokers"`
	Read       []string  `json:"read"`    // the widest filters that policy grants
	Publish    []string  `json:"publish"` // likewise, of what is plain text
	Try        []string  `json:"try"`     // command lines of a POSIX shell
}

// Broker is where a client connects to, and the directory with its options.
type Broker struct {
	Name string `json:"name"`
	Host string `json:"host"`
	Port string `json:"port"`
}

// Mosquitto writes an export for mosquitto_sub and mosquitto_pub.
func Mosquitto(o Options, now time.Time) (*Result, error) {
	s, out, err := open(o, now)
	if err != nil {
		return nil, err
	}
	page, err := s.readme()
	if err != nil {
		return nil, err
	}
	if err := write(out, s.files(page)); err != nil {
		return nil, fmt.Errorf("writing the export: %w", err)
	}
	r := s.result(out)
	for _, line := range s.try() {
		r.Try = append(r.Try, "(cd "+quote(out)+" && "+line+")")
	}
	return r, nil
}

func (s *subject) result(out string) *Result {
	return &Result{
		Dir: out, Identity: s.id.Sender(), ClientID: s.clientID, NotAfter: s.credential.Leaf().NotAfter.UTC(),
		Evaluation: pki.IsEvaluation(s.trust.Root), Brokers: s.brokers, Read: s.rights.Subscriptions(), Publish: publications(s.rights),
	}
}

// subject is a bundle that passed every check, and what follows from it.
type subject struct {
	trust      *site.Trust
	credential *pki.Credential
	key        []byte // PEM of the credential's key
	id         pki.Identity
	rights     *policies.Rights
	clientID   string
	other      string // another session of the same person, empty for guests
	brokers    []Broker
}

// open checks the bundle, and returns where the export goes.
func open(o Options, now time.Time) (*subject, string, error) {
	s, err := openBundle(o, now)
	if err != nil {
		return nil, "", err
	}
	out, err := filepath.Abs(o.Out)
	return s, out, err
}

func openBundle(o Options, now time.Time) (*subject, error) {
	// Nothing here acts on a message, and the root is the one in the bundle.
	trust, err := site.OpenTrust(site.Settings{Bundle: config.Path(o.Bundle), Evaluation: true}, now)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; name the bundle of a person or a guest, such as levee-data/bundles/local/guest/guest-1", err)
	}
	if err != nil {
		return nil, err
	}
	store, err := pki.OpenRenewable(filepath.Join(o.Bundle, site.FileKey), filepath.Join(o.Bundle, site.FileChain), renewedFile(o.Bundle), trust.Verifier)
	if err != nil {
		return nil, fmt.Errorf("opening bundle %s: %w", o.Bundle, err)
	}
	credential := store.Current()
	if end := credential.Leaf().NotAfter; now.After(end) {
		return nil, fmt.Errorf("the certificate of %s expired on %s: fetch a new bundle from the deployer, then export again",
			credential.Leaf().Subject.CommonName, end.UTC().Format(time.RFC3339))
	}
	id, err := trust.Verifier.Verify(credential.Leaf(), credential.Issuer(), pki.UsageClient, now)
	if err != nil {
		return nil, fmt.Errorf("opening bundle %s: %w", o.Bundle, err)
	}
	if trust.Document.Site != id.Site {
		return nil, fmt.Errorf("opening bundle %s: the certificate is of site %q, the site document of %q", o.Bundle, id.Site, trust.Document.Site)
	}
	n, err := session(id, o.Session)
	if err != nil {
		return nil, err
	}
	key, _, err := pki.MarshalCredential(credential.Signer(), credential.Leaf(), credential.Issuer())
	if err != nil {
		return nil, fmt.Errorf("opening bundle %s: %w", o.Bundle, err)
	}
	s := &subject{trust: trust, credential: credential, key: key, id: id, rights: trust.Policy.Rights(id), clientID: clientID(id, n)}
	if id.Role.Class() == pki.ClassPerson {
		s.other = clientID(id, (n+Sessions-1)%Sessions)
	}
	for _, b := range trust.Document.Brokers {
		host, port, err := net.SplitHostPort(b.Address)
		if err != nil || !optionValue(host) || !optionValue(port) {
			return nil, fmt.Errorf("the site document's broker %s has address %q, which is not host:port", b.Name, b.Address)
		}
		s.brokers = append(s.brokers, Broker{Name: b.Name, Host: host, Port: port})
	}
	return s, nil
}

// renewedFile is where levee pki renew keeps a guest's newer credential: no
// configuration file says otherwise. People's certificates are not renewed.
func renewedFile(bundle string) string { return filepath.Join(bundle, "state", site.FileRenewed) }

// session returns the number of the session asked for, 0 for guests.
func session(id pki.Identity, asked *int) (int, error) {
	switch {
	case id.Role == pki.RoleGuest && asked == nil:
		return 0, nil
	case id.Role == pki.RoleGuest:
		return 0, fmt.Errorf("%s is a guest, and a guest has one session: leave --session out", id.Sender())
	case id.Role.Class() != pki.ClassPerson:
		return 0, fmt.Errorf("%s is a part of the site with one session: a second client with its key would end that, and speak in its name; "+
			"add a guest or a person to the inventory, and export that", id.Sender())
	case asked == nil:
		return Sessions - 1, nil
	case *asked < 0 || *asked >= Sessions:
		return 0, fmt.Errorf("session %d is not 0 to %d", *asked, Sessions-1)
	}
	return *asked, nil
}

// clientID returns the client identifier of a person's session.
func clientID(id pki.Identity, n int) string {
	if n == 0 {
		return id.ClientID()
	}
	return id.ClientID() + "_" + strconv.Itoa(n)
}

// publications returns the public filters of what the identity may publish.
// What is protected is left out, whatever policy says: a foreign client can seal
// nothing.
func publications(r *policies.Rights) []string {
	return slices.DeleteFunc(r.Publications(), func(filter string) bool { return !wire.IsPublic(filter) })
}

// try returns one command line that reads and one that writes, for the
// directory of the export.
func (s *subject) try() []string {
	environment := "XDG_CONFIG_HOME=" + s.brokers[0].Name + " "
	var lines []string
	filter := wire.Filter(wire.KindCPU, s.id.Site)
	if !s.rights.MaySubscribe(filter) {
		filter = wire.Public
	}
	if s.rights.MaySubscribe(filter) {
		lines = append(lines, environment+"mosquitto_sub -t "+quote(filter)+" | cat -v")
	}
	const lobby = "public/lobby"
	if s.rights.MayPublish(lobby) {
		command := "mosquitto_pub "
		if s.other != "" { // else it would end the session of the line above
			command += "-i " + s.other + " "
		}
		lines = append(lines, environment+command+"-t "+lobby+" -m 'hey from public'")
	}
	return lines
}

// optionValue reports whether a word survives as the value of one option in an
// options file, where blanks separate.
func optionValue(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// quote spells s as one word of a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// common returns what every export with a plain key consists of.
func (s *subject) common(page []byte) map[string][]byte {
	return map[string][]byte{
		FileRoot:   pki.MarshalCertificates(s.trust.Root),
		FileChain:  pki.MarshalCertificates(s.credential.Leaf(), s.credential.Issuer()),
		FileKey:    s.key,
		FileReadme: page,
	}
}

// files returns what an export for mosquitto consists of, by slash-separated path.
func (s *subject) files(page []byte) map[string][]byte {
	files := s.common(page)
	for _, b := range s.brokers {
		for _, client := range clients {
			files[b.Name+"/"+client] = s.options(b)
		}
	}
	return files
}

// options returns an options file: one option and its value a line. The paths
// are relative, because a value cannot hold a blank and the directory may move.
func (s *subject) options(b Broker) []byte {
	return fmt.Appendf(nil, `# %s at %s. The paths count from the directory above this one.
-h %s
-p %s
-i %s
-V mqttv311
-q 1
-k 30
--tls-version tlsv1.3
--cafile %s
--cert %s
--key %s
`, s.id.Sender(), b.Name, b.Host, b.Port, s.clientID, FileRoot, FileChain, FileKey)
}

// write makes out with every file of the export, or nothing.
func write(out string, files map[string][]byte) error {
	if err := vacant(out); err != nil {
		return err
	}
	parent := filepath.Dir(out)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(parent, ".export-*") // 0700
	if err != nil {
		return err
	}
	if err = fill(fresh, files); err == nil {
		err = replaceEmpty(fresh, out)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	return durable.SyncDir(parent)
}

// vacant refuses a path that anything lies at but an empty directory.
func vacant(out string) error {
	info, err := os.Lstat(out)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(out)
	if !info.IsDir() || err == nil && len(entries) > 0 {
		return fmt.Errorf("%s exists and is not an empty directory: choose another --out, or remove it", out)
	}
	return err
}

func fill(dir string, files map[string][]byte) error {
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if name == FileKey || name == FilePKCS12 || name == site.FileKeys {
			mode = 0o600
		}
		if err := durable.CreateFile(path, content, mode); err != nil {
			return err
		}
	}
	return nil
}

// replaceEmpty renames fresh to out, which may be an empty directory: that one
// goes, with whatever mode it had.
func replaceEmpty(fresh, out string) error {
	if err := os.Remove(out); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(fresh, out)
}

// publicBytes bounds one public message of the identity.
func (s *subject) publicBytes() int {
	return min(s.trust.Policy.Class(wire.KindPublic).MaxBytes, s.rights.Limits().MaxMessageBytes)
}
