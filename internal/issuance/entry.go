package issuance

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
)

// Deployer names the journals that provisioning writes. No issuer may be called
// so.
const Deployer = "deployer"

// MaxLine bounds a line in bytes, without its newline.
const MaxLine = envelope.MaxMessage

// Kind says what an entry records. It is the type of its statement.
type Kind string

// The kinds of entries.
const (
	// Issuance records a certificate. It is written before the certificate is
	// handed out.
	Issuance Kind = "issuance"
	// Revocation records an order to revoke, before the list that follows it.
	Revocation Kind = "revocation"
	// Readmission records an order to let expired machines renew.
	Readmission Kind = "readmission"
)

// Cause says why a certificate was issued.
type Cause string

// The causes.
const (
	CauseBundle      Cause = "bundle"      // provisioning made it
	CauseRenewal     Cause = "renewal"     // its holder's certificate was valid
	CauseJoin        Cause = "join"        // a one-time token, which the entry carries
	CauseReadmission Cause = "readmission" // its holder's certificate had expired, and a person's order let it
)

func (c Cause) valid() bool {
	return slices.Contains([]Cause{CauseBundle, CauseRenewal, CauseJoin, CauseReadmission}, c)
}

// Record is what an entry says.
type Record struct {
	Kind Kind
	// Certificate and Cause are those of an issuance.
	Certificate *x509.Certificate
	Cause       Cause
	// Order is the signed order of a revocation, of a readmission, and of an
	// issuance whose cause is join; nil otherwise.
	Order []byte
	// Number is that of the revocation list after a revocation or readmission.
	Number uint64
}

// check refuses what no entry says.
func (r Record) check() error {
	issued := r.Kind == Issuance
	switch {
	case !issued && r.Kind != Revocation && r.Kind != Readmission:
		return fmt.Errorf("%q is no kind of entry", r.Kind)
	case issued != (r.Certificate != nil) || issued != r.Cause.valid() || !issued && r.Cause != "":
		return errors.New("certificate and cause belong to issuances, and only to them")
	case (r.Order != nil) != (!issued || r.Cause == CauseJoin):
		return errors.New("an order belongs to revocations, readmissions and joins, and only to them")
	case issued && r.Number != 0 || r.Number > 1<<53-1:
		return errors.New("the number of the list is out of place")
	}
	return nil
}

// Entry is one line of a journal.
type Entry struct {
	Record
	ID        wire.ID
	Journal   string
	Index     uint64
	Previous  string // SHA-256 of the line before in base64url, "" at index 0
	Time      int64  // ms since the epoch
	Authority pki.Authority
	Raw       []byte // the line, without its newline
}

// Position is how far a journal was read: how many lines, and the SHA-256 of
// the last in base64url, "" before the first.
type Position struct {
	Lines uint64
	Last  string
}

// after returns the position behind line.
func (p Position) after(line []byte) Position {
	sum := sha256.Sum256(line)
	return Position{Lines: p.Lines + 1, Last: base64.RawURLEncoding.EncodeToString(sum[:])}
}

// The payloads.
type (
	issued struct {
		ID          wire.ID `json:"id"`
		Journal     string  `json:"journal"`
		Index       uint64  `json:"index"`
		Previous    string  `json:"previous"`
		Certificate string  `json:"certificate"` // DER, base64url
		Cause       Cause   `json:"cause"`
		Order       string  `json:"order,omitempty"` // base64url
	}
	ordered struct {
		ID       wire.ID `json:"id"`
		Journal  string  `json:"journal"`
		Index    uint64  `json:"index"`
		Previous string  `json:"previous"`
		Order    string  `json:"order"` // base64url
		Number   uint64  `json:"number"`
	}
)

// authorityName is the third level of an authority's kid.
func authorityName(c pki.Class) string {
	if c == pki.ClassPerson {
		return "people"
	}
	return "machine"
}

func keyID(a pki.Authority) envelope.KeyID {
	return envelope.KeyID{Site: a.Site, Role: "ca", Name: authorityName(a.Class), Generation: 1}
}

func statementTopic(site, kind string) string { return site + "/" + wire.Root + "/statement/" + kind }

// author signs a journal's lines.
type author struct {
	authority pki.Authority
	signer    *envelope.Signer
	journal   string
}

func newAuthor(journal string, key crypto.Signer, issuer, root *x509.Certificate, v *pki.Verifier, now time.Time) (*author, error) {
	if !pki.ValidName(journal) {
		return nil, fmt.Errorf("%q is no name of a journal", journal)
	}
	if key == nil || root == nil || v == nil {
		return nil, errors.New("no key, no root or no verifier")
	}
	authority, err := v.VerifyAuthority(issuer, now)
	if err != nil {
		return nil, err
	}
	signer, err := envelope.NewSigner(key, issuer, root)
	if err != nil {
		return nil, err
	}
	return &author{authority: authority, signer: signer, journal: journal}, nil
}

// line returns the line that follows at.
func (a *author) line(r Record, at Position, now time.Time) (Entry, error) {
	if err := r.check(); err != nil {
		return Entry{}, err
	}
	e := Entry{Record: r, ID: wire.NewID(), Journal: a.journal, Index: at.Lines, Previous: at.Last, Time: now.UnixMilli(), Authority: a.authority}
	var payload wire.Payload = &ordered{ID: e.ID, Journal: e.Journal, Index: e.Index, Previous: e.Previous,
		Order: base64.RawURLEncoding.EncodeToString(r.Order), Number: r.Number}
	if r.Kind == Issuance {
		payload = &issued{ID: e.ID, Journal: e.Journal, Index: e.Index, Previous: e.Previous, Cause: r.Cause,
			Certificate: base64.RawURLEncoding.EncodeToString(r.Certificate.Raw), Order: base64.RawURLEncoding.EncodeToString(r.Order)}
	}
	text, err := wire.Encode(payload)
	if err != nil {
		return Entry{}, err
	}
	e.Raw, err = envelope.AppendStatement(nil, envelope.Header{KeyID: keyID(a.authority), Time: e.Time,
		Nonce: envelope.StatementNonce(e.Time), Topic: statementTopic(a.authority.Site, string(r.Kind))}, text, a.signer)
	if err != nil {
		return Entry{}, err
	}
	if len(e.Raw) > MaxLine {
		return Entry{}, fmt.Errorf("the entry would have %d bytes, more than %d", len(e.Raw), MaxLine)
	}
	return e, nil
}

// parse reads one line as a statement, and checks its place behind at. It
// checks no signature: nothing vouches for what it returns.
func parse(line []byte, journal string, at Position) (Entry, envelope.Message, error) {
	m, err := envelope.ParseStatement(line, MaxLine)
	if err != nil {
		return Entry{}, m, fmt.Errorf("%w (%s)", err, envelope.ReasonOf(err))
	}
	e, err := readEntry(&m)
	if err != nil {
		return Entry{}, m, err
	}
	switch {
	case e.Journal != journal:
		return Entry{}, m, fmt.Errorf("it is of journal %q", e.Journal)
	case e.Index != at.Lines:
		return Entry{}, m, fmt.Errorf("its index is %d", e.Index)
	case e.Previous != at.Last:
		return Entry{}, m, errors.New("it does not follow the line before")
	}
	return e, m, nil
}

// readEntry reads a statement as an entry.
func readEntry(m *envelope.Message) (Entry, error) {
	kid := m.KeyID()
	e := Entry{Time: m.Time, Raw: m.Raw, Authority: pki.Authority{Site: kid.Site, Class: pki.ClassMachine}}
	if kid.Name == authorityName(pki.ClassPerson) {
		e.Authority.Class = pki.ClassPerson
	}
	if kid != keyID(e.Authority) {
		return Entry{}, errors.New("its kid is no authority's")
	}
	for _, kind := range []Kind{Issuance, Revocation, Readmission} {
		if string(m.Topic) == statementTopic(kid.Site, string(kind)) {
			e.Kind = kind
		}
	}
	if err := e.read(m.Payload); err != nil {
		return Entry{}, err
	}
	return e, nil
}

// read reads the payload of an entry whose kind is known.
func (e *Entry) read(payload []byte) error {
	var order string
	if e.Kind == Issuance {
		var p issued
		if err := wire.DecodeExact(payload, &p); err != nil {
			return err
		}
		der, err := base64.RawURLEncoding.Strict().DecodeString(p.Certificate)
		if err != nil {
			return errors.New("its certificate is not base64url")
		}
		if e.Certificate, err = x509.ParseCertificate(der); err != nil {
			return err
		}
		e.ID, e.Journal, e.Index, e.Previous, e.Cause, order = p.ID, p.Journal, p.Index, p.Previous, p.Cause, p.Order
	} else {
		var p ordered
		if err := wire.DecodeExact(payload, &p); err != nil {
			return err
		}
		e.ID, e.Journal, e.Index, e.Previous, e.Number, order = p.ID, p.Journal, p.Index, p.Previous, p.Number, p.Order
	}
	if order != "" {
		b, err := base64.RawURLEncoding.Strict().DecodeString(order)
		if err != nil {
			return errors.New("its order is not base64url")
		}
		e.Order = b
	}
	return e.check()
}

// ReadEntry reads a line without checking who signed it, or where it stands: for
// whoever has checked it before.
func ReadEntry(line []byte) (Entry, error) {
	m, err := envelope.ParseStatement(line, MaxLine)
	if err != nil {
		return Entry{}, fmt.Errorf("reading an entry: %w (%s)", err, envelope.ReasonOf(err))
	}
	e, err := readEntry(&m)
	if err != nil {
		return Entry{}, fmt.Errorf("reading an entry: %w", err)
	}
	return e, nil
}
