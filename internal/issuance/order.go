package issuance

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
)

// Bounds of an order.
const (
	// MaxOrder bounds an order in bytes, so that an entry can carry it.
	MaxOrder = 12 << 10
	// MaxOrderLife bounds how long an order may be carried out.
	MaxOrderLife = 15 * time.Minute
	// MaxTargets bounds the identities, and the serial numbers, of one order.
	MaxTargets = 64
	// MaxGeneration and MaxOperatorGeneration bound the generation that the
	// people's authority and an operator may ask for: there is always one above
	// what an operator asked for.
	MaxGeneration         = 1_000_000
	MaxOperatorGeneration = 1_000

	maxReason = 200              // bytes
	maxAhead  = 30 * time.Second // of the signer's clock
)

// OrderKind says what an order asks for. It is the type of its statement.
type OrderKind string

// The kinds of orders.
const (
	// Revoke ends certificates: all of the targets, and single ones by serial.
	Revoke OrderKind = "revoke"
	// Readmit lets machines renew once although their certificate has expired.
	Readmit OrderKind = "readmit"
	// Join lets the holder of one key enrol as its one target. It is a token.
	Join OrderKind = "join"
)

// Order is what a person asks an issuer to do.
type Order struct {
	ID      wire.ID  `json:"id"`
	Expires int64    `json:"expires"` // ms since the epoch, MaxOrderLife after the statement's ts at most
	Targets []string `json:"targets"` // site/role/name
	All     bool     `json:"all"`     // readmit: every machine that is not revoked
	Serials []string `json:"serials"` // revoke: 32 lower-case hexadecimal digits
	SPKI    string   `json:"spki"`    // join: SHA-256 of the key's SubjectPublicKeyInfo, base64url
	// Generation, if set, is the lowest generation of message keys that
	// counts from now on, of every target of a revocation.
	Generation uint32 `json:"generation,omitempty"`
	Reason     string `json:"reason"` // for people
}

// SignedOrder is an order whose signature was checked.
type SignedOrder struct {
	Order
	Kind OrderKind
	Raw  []byte
	Time int64 // ms since the epoch, when it was signed
	// ByAuthority: it is signed as the people's authority, and not as a person.
	ByAuthority bool
	// Identities are those that Targets names, in its order.
	Identities []pki.Identity
	// Person is who signed it; zero if the people's authority did.
	Person pki.Identity
	// Leaf is the person's certificate; nil if the people's authority signed.
	Leaf *x509.Certificate
}

// Signer names who signed the order: "{site}/operator/{name}" or
// "{site}/ca/people".
func (o *SignedOrder) Signer(site string) string {
	if o.Leaf == nil {
		return keyID(pki.Authority{Site: site, Class: pki.ClassPerson}).Sender()
	}
	return o.Person.Sender()
}

// SerialText spells a certificate's serial number as orders and lists do.
func SerialText(serial *big.Int) string {
	if serial.Sign() < 0 || serial.BitLen() > 128 {
		return ""
	}
	return fmt.Sprintf("%032x", serial)
}

// SPKIText spells the key of a certificate or request as orders do: SHA-256 of
// its SubjectPublicKeyInfo, base64url.
func SPKIText(spki []byte) string {
	sum := sha256.Sum256(spki)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// SignOrder returns o as a statement of kind. signer signs for sender:
// "{site}/operator/{name}" with that person's certificate, or "{site}/ca/people"
// with the people's authority and the root.
func SignOrder(kind OrderKind, o Order, sender string, signer *envelope.Signer, now time.Time) ([]byte, error) {
	kid, err := envelope.ParseKeyID([]byte(sender + "/1"))
	if err != nil {
		return nil, fmt.Errorf("signing an order: %q names nobody", sender)
	}
	for _, list := range []*[]string{&o.Targets, &o.Serials} {
		if *list == nil {
			*list = []string{} // null is no JSON of ours
		}
	}
	payload, err := wire.Encode(&o)
	if err != nil {
		return nil, fmt.Errorf("signing an order: %w", err)
	}
	ts := now.UnixMilli()
	raw, err := envelope.AppendStatement(nil, envelope.Header{KeyID: kid, Time: ts, Nonce: envelope.StatementNonce(ts),
		Topic: statementTopic(kid.Site, string(kind))}, payload, signer)
	if err != nil {
		return nil, fmt.Errorf("signing an order: %w", err)
	}
	return raw, nil
}

// ParseOrder verifies an order for the issuer of authority: its form, that a
// person of the same site signed it who may give it, as of its own time, and
// that it names nobody of another site. Whether it is fresh, was carried out
// before, or its signer was revoked, is for the caller to ask. Operators order
// machines about, and let sensors, consoles and guests join; the people's
// authority orders everything of its site.
func ParseOrder(raw []byte, root *x509.Certificate, v *pki.Verifier, authority pki.Authority) (*SignedOrder, error) {
	o, err := parseOrder(raw, root, v, authority)
	if err != nil {
		return nil, fmt.Errorf("reading an order: %w", err)
	}
	return o, nil
}

func parseOrder(raw []byte, root *x509.Certificate, v *pki.Verifier, authority pki.Authority) (*SignedOrder, error) {
	o, m, err := readOrder(raw, authority)
	if err != nil {
		return nil, err
	}
	_, above, err := m.Certificates()
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", err, envelope.ReasonOf(err))
	}
	if above.Equal(root) {
		_, err := checkAuthor(m, root, v, pki.Authority{TrustDomain: authority.TrustDomain, Site: authority.Site, Class: pki.ClassPerson})
		return o, err
	}
	if o.Person, o.Leaf, err = m.VerifySignature(v, time.UnixMilli(m.Time)); err != nil {
		return nil, fmt.Errorf("%w (%s)", err, envelope.ReasonOf(err))
	}
	switch {
	case o.Person.Role != pki.RoleOperator || o.Person.Site != authority.Site || m.KeyID().Generation != 1:
		return nil, fmt.Errorf("%s may give no orders here", o.Person.Sender())
	case o.Generation > MaxOperatorGeneration:
		return nil, fmt.Errorf("%s may ask for generation %d at most", o.Person.Sender(), MaxOperatorGeneration)
	}
	for _, id := range o.Identities {
		if id.Role.Class() != pki.ClassMachine {
			return nil, fmt.Errorf("%s may order machines about, and %s is none", o.Person.Sender(), id.Sender())
		}
		// Who makes an issuer, revokes people; who makes a broker or a recorder,
		// decides what everybody hears or what is remembered.
		if o.Kind == Join && id.Role != pki.RoleSensor && id.Role != pki.RoleConsole && id.Role != pki.RoleGuest {
			return nil, fmt.Errorf("%s may let sensors, consoles and guests join, and %s is none", o.Person.Sender(), id.Sender())
		}
	}
	return o, nil
}

// ReadOrder reads an order without checking who signed it, or whether anybody
// did: for an order that stands in a journal, whose writer has checked it.
func ReadOrder(raw []byte, authority pki.Authority) (*SignedOrder, error) {
	o, _, err := readOrder(raw, authority)
	if err != nil {
		return nil, fmt.Errorf("reading an order: %w", err)
	}
	return o, nil
}

func readOrder(raw []byte, authority pki.Authority) (*SignedOrder, *envelope.Message, error) {
	m, err := envelope.ParseStatement(raw, MaxOrder)
	if err != nil {
		return nil, nil, fmt.Errorf("%w (%s)", err, envelope.ReasonOf(err))
	}
	o := &SignedOrder{Raw: raw, Time: m.Time,
		ByAuthority: m.KeyID() == keyID(pki.Authority{Site: authority.Site, Class: pki.ClassPerson})}
	for _, kind := range []OrderKind{Revoke, Readmit, Join} {
		if string(m.Topic) == statementTopic(authority.Site, string(kind)) {
			o.Kind = kind
		}
	}
	if o.Kind == "" {
		return nil, nil, errors.New("its topic is of another site, or of no order")
	}
	if err := wire.DecodeExact(m.Payload, &o.Order); err != nil {
		return nil, nil, err
	}
	if err := o.Order.check(o.Kind); err != nil {
		return nil, nil, err
	}
	for _, target := range o.Targets {
		id, err := parseTarget(target, authority)
		if err != nil {
			return nil, nil, err
		}
		if o.Kind != Revoke && id.Role.Class() != pki.ClassMachine {
			return nil, nil, fmt.Errorf("%s is no machine: people's certificates are the deployer's to renew", target)
		}
		o.Identities = append(o.Identities, id)
	}
	return o, &m, nil
}

// check refuses what no order of its kind says.
func (o *Order) check(kind OrderKind) error {
	spki, err := base64.RawURLEncoding.Strict().DecodeString(o.SPKI)
	isKey := err == nil && len(spki) == sha256.Size
	one := len(o.Targets) == 1
	switch {
	case o.ID.IsZero():
		return errors.New("it has no id")
	case len(o.Targets) > MaxTargets || len(o.Serials) > MaxTargets:
		return fmt.Errorf("more than %d targets or serial numbers", MaxTargets)
	case len(o.Reason) > maxReason:
		return fmt.Errorf("a reason of more than %d bytes", maxReason)
	case o.Generation > MaxGeneration:
		return fmt.Errorf("a generation above %d", MaxGeneration)
	case repeats(o.Targets) || repeats(o.Serials):
		return errors.New("it says something twice")
	case kind == Revoke && (o.All || o.SPKI != "" || len(o.Targets)+len(o.Serials) == 0 || o.Generation != 0 && len(o.Targets) == 0):
		return errors.New("a revocation names targets or serial numbers, and nothing else")
	case kind == Readmit && (o.SPKI != "" || len(o.Serials) != 0 || o.Generation != 0 || o.All == (len(o.Targets) > 0)):
		return errors.New("a readmission names targets or all, and nothing else")
	case kind == Join && (!isKey || !one || o.All || len(o.Serials) != 0 || o.Generation != 0):
		return errors.New("a token names one target and one key, and nothing else")
	}
	for _, serial := range o.Serials {
		if b, err := hex.DecodeString(serial); err != nil || len(b) != 16 || hex.EncodeToString(b) != serial {
			return errors.New("a serial number is not 32 lower-case hexadecimal digits")
		}
	}
	return nil
}

func repeats(list []string) bool {
	seen := make(map[string]bool, len(list))
	for _, s := range list {
		if seen[s] {
			return true
		}
		seen[s] = true
	}
	return false
}

// parseTarget reads site/role/name of the authority's site.
func parseTarget(s string, authority pki.Authority) (pki.Identity, error) {
	kid, err := envelope.ParseKeyID([]byte(s + "/1"))
	id := pki.Identity{TrustDomain: authority.TrustDomain, Site: kid.Site, Role: pki.Role(kid.Role), Name: kid.Name}
	if err != nil || id.Sender() != s || id.Role.Class() == pki.ClassNone || id.Site != authority.Site {
		return pki.Identity{}, fmt.Errorf("%q is no identity of this site", s)
	}
	return id, nil
}

// Fresh refuses an order that is not to be carried out at now: from the future
// by more than clocks may differ, expired, or meant to last too long.
func (o *SignedOrder) Fresh(now time.Time) error {
	ms := now.UnixMilli()
	switch {
	case o.Time > ms+maxAhead.Milliseconds():
		return errors.New("the order is from the future")
	case o.Expires <= o.Time || o.Expires-o.Time > MaxOrderLife.Milliseconds():
		return fmt.Errorf("the order does not expire within %s", MaxOrderLife)
	case ms > o.Expires:
		return errors.New("the order has expired")
	}
	return nil
}

// TakesBack reports whether following o at the time at, ms since the epoch, takes
// the time of a journal back, whose highest of an entry with an order is latest.
// The clocks were ahead then, and only the people's authority can say so: by a
// revocation, which makes the list anew.
func (o *SignedOrder) TakesBack(at, latest int64) bool {
	return o.Kind == Revoke && o.ByAuthority && at < latest-MaxFall.Milliseconds()
}

// fits refuses an entry that records another thing than its order asks for.
func (o *SignedOrder) fits(e *Entry) error {
	var ok bool
	switch e.Kind {
	case Revocation:
		ok = o.Kind == Revoke
	case Readmission:
		ok = o.Kind == Readmit
	case Issuance:
		ok = o.Kind == Join && SPKIText(e.Certificate.RawSubjectPublicKeyInfo) == o.SPKI &&
			e.Certificate.Subject.CommonName == o.Identities[0].ClientID()
	}
	if !ok {
		return errors.New("it does something else than its order says")
	}
	return nil
}
