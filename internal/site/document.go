package site

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
)

// MaxDocument bounds a site document in bytes.
const MaxDocument = envelope.MaxMessage

// Document is the payload of the site document: a site's one authenticated
// configuration. A key or pin that it lacks means that function is refused.
type Document struct {
	ID          wire.ID  `json:"id"`
	TrustDomain string   `json:"trust_domain"`
	Site        string   `json:"site"`
	Number      uint64   `json:"number"` // raised by one at each signing, never accepted lower
	Issued      int64    `json:"issued"` // ms since the epoch
	Brokers     []Broker `json:"brokers"`
	GrantKey    string   `json:"grant_key,omitempty"`    // the approver's; none: no command by a person
	LogKey      string   `json:"log_key,omitempty"`      // the log's verifier key (C2SP signed-note)
	WitnessKeys []string `json:"witness_keys,omitempty"` // whose cosignatures of that log count (C2SP tlog-cosignature)
	// WitnessesNeeded is how many of them a checkpoint needs; 0 is more than half.
	WitnessesNeeded int `json:"witnesses_needed,omitempty"`
	// WitnessedLogs are the verifier keys of other sites' logs, which this site's
	// recorder witnesses.
	WitnessedLogs []string     `json:"witnessed_logs,omitempty"`
	Pins          []Pin        `json:"pins"`
	PolicyHash    string       `json:"policy_hash"` // SHA-256 of the policy file, base64url
	Generations   []Generation `json:"generations"` // senders re-keyed: older generations are refused
}

// Broker is one broker of the site.
type Broker struct {
	Name    string `json:"name"`
	Address string `json:"address"` // host:port
}

// Pin ties a sender to one key: SHA-256 of its SubjectPublicKeyInfo, base64url.
type Pin struct {
	Sender string `json:"sender"` // site/role/name
	SPKI   string `json:"spki"`
}

// Generation is the lowest generation of a sender's key that counts.
type Generation struct {
	Sender  string `json:"sender"` // site/role/name
	Minimum uint32 `json:"minimum"`
}

// HashText spells a SHA-256 as the document does: 43 base64url characters.
func HashText(sum [sha256.Size]byte) string { return base64.RawURLEncoding.EncodeToString(sum[:]) }

func (d *Document) check() error {
	switch {
	case !pki.ValidTrustDomain(d.TrustDomain) || !pki.ValidSite(d.Site):
		return errors.New("its trust domain or site is outside the grammar")
	case d.Number == 0 || d.Number > 1<<32-1:
		return errors.New("its number is not 1 to 2^32-1")
	case len(d.Brokers) == 0:
		return errors.New("it lists no broker")
	case d.WitnessesNeeded < 0 || d.WitnessesNeeded > len(d.WitnessKeys):
		return fmt.Errorf("it needs %d witnesses and has keys of %d", d.WitnessesNeeded, len(d.WitnessKeys))
	}
	for _, b := range d.Brokers {
		if _, _, err := net.SplitHostPort(b.Address); err != nil || !pki.ValidName(b.Name) {
			return fmt.Errorf("its broker %q at %q has no name of ours, or no host:port", b.Name, b.Address)
		}
	}
	for _, p := range d.Pins {
		if sum, err := base64.RawURLEncoding.Strict().DecodeString(p.SPKI); !d.owns(p.Sender) || err != nil || len(sum) != sha256.Size {
			return fmt.Errorf("its pin of %q is not of a machine of this site, or no SHA-256", p.Sender)
		}
	}
	seen := make(map[string]bool)
	for _, g := range d.Generations {
		if !d.owns(g.Sender) || g.Minimum == 0 || seen[g.Sender] {
			return fmt.Errorf("its generation of %q is not of a machine of this site, or zero, or not the only one", g.Sender)
		}
		seen[g.Sender] = true
	}
	return nil
}

// owns reports whether sender is site/role/name of a machine of the site. A
// misspelt one would silently restrict nobody.
func (d *Document) owns(sender string) bool {
	id, err := envelope.ParseKeyID([]byte(sender + "/1"))
	return err == nil && id.Site == d.Site && pki.Role(id.Role).Class() == pki.ClassMachine
}

func (d *Document) keyID() envelope.KeyID {
	return envelope.KeyID{Site: d.Site, Role: "ca", Name: "people", Generation: uint32(d.Number)}
}

func (d *Document) topic() string { return d.Site + "/" + wire.Root + "/statement/site" }

// Sign returns the document as a statement signed by the site's people CA
// (docs/envelope.md, section 5): kid {site}/ca/people/{number}, chain = that CA and
// the root.
func Sign(d Document, key crypto.Signer, people, root *x509.Certificate, now time.Time) ([]byte, error) {
	d.Issued = now.UnixMilli()
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("signing the site document: %w", err)
	}
	signer, err := envelope.NewSigner(key, people, root)
	if err != nil {
		return nil, fmt.Errorf("signing the site document: %w", err)
	}
	payload, err := wire.Encode(&d)
	if err != nil {
		return nil, fmt.Errorf("signing the site document: %w", err)
	}
	raw, err := envelope.AppendStatement(nil, envelope.Header{KeyID: d.keyID(), Time: d.Issued,
		Nonce: envelope.StatementNonce(d.Issued), Topic: d.topic()}, payload, signer)
	if err != nil {
		return nil, fmt.Errorf("signing the site document: %w", err)
	}
	return raw, nil
}

// maxAhead is how far a document's time of issue may lie in the future: clocks
// differ.
const maxAhead = time.Minute

// Early reports whether the document says at the time at that it is yet to be
// issued: one of both clocks was wrong.
func (d *Document) Early(at time.Time) bool { return time.UnixMilli(d.Issued).After(at.Add(maxAhead)) }

// ParseDocument verifies a site document below root at the time at, and reads
// it. Its signer had to be valid when it was issued, as with everything that is
// signed: a site does not stand still when its people CA is followed by another.
// The root must be valid now.
// What is old is kept out by the numbers: which ones were seen before, this
// function does not know; Open does.
func ParseDocument(raw []byte, root *x509.Certificate, v *pki.Verifier, at time.Time) (*Document, error) {
	d, _, err := ParseIssued(raw, root, v)
	switch {
	case err != nil:
	case at.After(root.NotAfter):
		err = fmt.Errorf("reading the site document: the root expired on %s", root.NotAfter.UTC().Format(time.DateOnly))
	case d.Early(at):
		err = fmt.Errorf("reading the site document: it says that it was issued in the future, at %s: a clock is wrong", time.UnixMilli(d.Issued).UTC().Format(time.RFC3339))
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// ParseIssued is ParseDocument for who signs the next one: it takes the
// document's word for when it was issued, and returns the certificate of the
// people CA that signed it.
func ParseIssued(raw []byte, root *x509.Certificate, v *pki.Verifier) (*Document, *x509.Certificate, error) {
	d, people, err := parseIssued(raw, root, v)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the site document: %w", err)
	}
	return d, people, nil
}

func parseIssued(raw []byte, root *x509.Certificate, v *pki.Verifier) (*Document, *x509.Certificate, error) {
	m, err := envelope.ParseStatement(raw, MaxDocument)
	if err != nil {
		return nil, nil, fmt.Errorf("%w (%s)", err, envelope.ReasonOf(err).String())
	}
	people, issuer, err := m.Certificates()
	if err != nil {
		return nil, nil, err
	}
	if !issuer.Equal(root) {
		return nil, nil, errors.New("its chain does not end in our root")
	}
	authority, err := v.VerifyAuthority(people, time.UnixMilli(m.Time))
	if err != nil {
		return nil, nil, err
	}
	d, err := readDocument(&m, people, authority)
	return d, people, err
}

// readDocument reads what people, the CA of authority, signed.
func readDocument(m *envelope.Message, people *x509.Certificate, authority pki.Authority) (*Document, error) {
	if authority.Class != pki.ClassPerson {
		return nil, errors.New("it is not signed by a people CA")
	}
	if err := m.CheckSignature(people.PublicKey); err != nil {
		return nil, fmt.Errorf("%w (%s)", err, envelope.ReasonOf(err).String())
	}
	var d Document
	if err := wire.DecodeExact(m.Payload, &d); err != nil {
		return nil, err
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	switch {
	case d.TrustDomain != authority.TrustDomain || d.Site != authority.Site:
		return nil, errors.New("it is for another site than its signer's")
	case string(m.KID) != d.keyID().String() || string(m.Topic) != d.topic():
		return nil, errors.New("its kid or topic is not that of its site and number")
	case m.Time != d.Issued:
		return nil, errors.New("its time of issue is not its envelope's")
	}
	return &d, nil
}

// Pinned reports whether leaf's key is the one that the document pins for
// sender, and whether it pins any.
func (d *Document) Pinned(sender string, leaf *x509.Certificate) (match, pinned bool) {
	sum := HashText(sha256.Sum256(leaf.RawSubjectPublicKeyInfo))
	for _, p := range d.Pins {
		if p.Sender == sender {
			pinned = true
			match = match || p.SPKI == sum
		}
	}
	return match, pinned
}

// Needed returns how many witnesses a checkpoint needs, 0 if the site has none.
func (d *Document) Needed() int {
	if d.WitnessesNeeded == 0 && len(d.WitnessKeys) > 0 {
		return len(d.WitnessKeys)/2 + 1
	}
	return d.WitnessesNeeded
}

// MinimumGeneration returns the lowest generation of sender's key that counts.
func (d *Document) MinimumGeneration(sender string) uint32 {
	for _, g := range d.Generations {
		if g.Sender == sender {
			return g.Minimum
		}
	}
	return 1
}
