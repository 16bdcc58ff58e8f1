package explain

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"levee/envelope"
	"levee/internal/issuance"
	"levee/internal/site"
	"levee/pki"
)

// statements explains one statement, or the lines of a journal.
func (t *Trust) statements(text []byte) ([]Item, error) {
	first, more, _ := bytes.Cut(text, []byte("\n"))
	m, err := envelope.ParseStatement(first, envelope.MaxMessage)
	if err != nil {
		if _, err := envelope.Parse(first, envelope.MaxMessage); err == nil {
			return []Item{t.message(first)}, nil
		}
		return nil, ErrUnknown
	}
	kind := string(m.Topic[bytes.LastIndexByte(m.Topic, '/')+1:])
	switch kind {
	case "site":
		return []Item{t.document(first)}, nil
	case string(issuance.Issuance), string(issuance.Revocation), string(issuance.Readmission):
		return []Item{t.journal(&m, text)}, nil
	}
	if len(more) > 0 {
		return nil, ErrUnknown
	}
	return []Item{t.order(&m, kind)}, nil
}

// KindDocument is the kind of a site document.
const KindDocument = "site document"

// statement says what every statement says.
func statement(kind string, m *envelope.Message) Item {
	item := Item{Kind: kind}
	item.say("signed as", "%s", m.KID)
	item.say("signed at", "%s", time.UnixMilli(m.Time).UTC().Format(time.RFC3339))
	return item
}

// message explains a published message: what it says is for its receivers.
func (t *Trust) message(raw []byte) Item {
	m, _ := envelope.Parse(raw, envelope.MaxMessage)
	item := statement("message", &m)
	item.say("topic", "%s", m.Topic)
	if !m.Signed() {
		item.say("signature", "none: whoever holds the sender's key could have written it")
		item.Unverified = true
		return item
	}
	if t.verifier == nil {
		item.Unverified = true
		return item
	}
	_, _, err := m.VerifySignature(t.verifier, time.UnixMilli(m.Time))
	item.refuse(err)
	return item
}

func (t *Trust) document(raw []byte) Item {
	m, _ := envelope.ParseStatement(raw, envelope.MaxMessage)
	item := statement(KindDocument, &m)
	item.May = []string{"tell every part of its site what to believe; a part refuses one with a lower number than it has seen"}
	root, verifier := t.Root, t.verifier
	if root == nil { // for what it says; nothing vouches for it
		item.Unverified = true
		item.say("content", "not shown: give the root with --root")
		return item
	}
	d, err := site.ParseDocument(raw, root, verifier, t.now)
	if err != nil {
		item.refuse(err)
		return item
	}
	item.say("site", "%s of %s", d.Site, d.TrustDomain)
	item.say("number", "%d", d.Number)
	item.say("policy", "%s", d.PolicyHash)
	for _, b := range d.Brokers {
		item.say("broker", "%s at %s", b.Name, b.Address)
	}
	for _, p := range d.Pins {
		item.say("pinned", "%s to key %s", p.Sender, p.SPKI)
	}
	for _, g := range d.Generations {
		item.say("generation", "of %s %d at least", g.Sender, g.Minimum)
	}
	for _, f := range []Fact{{"log key", d.LogKey}, {"grant key", d.GrantKey}} {
		if f.Value != "" {
			item.say(f.Name, "%s", f.Value)
		}
	}
	for _, key := range d.WitnessKeys {
		item.say("witness key", "%s", key)
	}
	return item
}

// authorityOf returns the authority in whose name a statement is signed, or that
// of the site's machines.
func (t *Trust) authorityOf(m *envelope.Message) pki.Authority {
	kid := m.KeyID()
	a := pki.Authority{TrustDomain: t.verifier.TrustDomain(), Site: kid.Site, Class: pki.ClassMachine}
	if kid.Role == "ca" && kid.Name == "people" {
		a.Class = pki.ClassPerson
	}
	return a
}

func (t *Trust) order(m *envelope.Message, kind string) Item {
	item := statement("statement of type "+printable(kind), m)
	if t.verifier == nil {
		item.Unverified = true
		return item
	}
	machines := t.authorityOf(m)
	machines.Class = pki.ClassMachine
	o, err := issuance.ParseOrder(m.Raw, t.Root, t.verifier, machines)
	if err != nil {
		item.refuse(err)
		return item
	}
	item.Kind = map[issuance.OrderKind]string{issuance.Revoke: "order to revoke", issuance.Readmit: "order to readmit", issuance.Join: "join token"}[o.Kind]
	item.say("id", "%s", o.ID)
	item.say("expires", "%s", time.UnixMilli(o.Expires).UTC().Format(time.RFC3339))
	if len(o.Targets) > 0 {
		item.say("targets", "%s", strings.Join(o.Targets, ", "))
	}
	if o.All {
		item.say("targets", "all machines that are not revoked")
	}
	if len(o.Serials) > 0 {
		item.say("serial numbers", "%s", strings.Join(o.Serials, ", "))
	}
	if o.SPKI != "" {
		item.say("for the key", "%s", o.SPKI)
	}
	item.say("reason", "%s", o.Reason)
	item.May = []string{"be carried out by the issuer of its site, once, until it expires"}
	item.refuse(o.Fresh(t.now))
	return item
}

// journal explains a journal, and verifies every line of it.
func (t *Trust) journal(m *envelope.Message, text []byte) Item {
	item := Item{Kind: "journal of what an authority issued"}
	item.say("signed as", "%s", m.KID)
	if t.verifier == nil {
		item.say("lines", "%d", bytes.Count(text, []byte("\n"))+1)
		item.Unverified = true
		return item
	}
	name := journalName(m.Payload)
	authority := t.authorityOf(m)
	check := issuance.NewChecker(t.Root, t.verifier, authority, name, issuance.Position{})
	item.say("authority", "%s", authority.Host())
	item.say("journal", "%s", name)
	counts := make(map[string]int)
	var last *issuance.Entry
	for line := range bytes.Lines(text) {
		e, err := check.Next(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			item.refuse(err)
			break
		}
		what := string(e.Kind)
		if e.Cause != "" {
			what += ", " + string(e.Cause)
		}
		counts[what]++
		last = &e
	}
	item.say("entries that verify", "%d", check.Position().Lines)
	for _, kind := range []string{"issuance, bundle", "issuance, renewal", "issuance, join", "issuance, readmission", "revocation", "readmission"} {
		if counts[kind] > 0 {
			item.say(kind, "%d", counts[kind])
		}
	}
	if last != nil {
		item.say("newest", "%s%s", time.UnixMilli(last.Time).UTC().Format(time.RFC3339), subject(last.Certificate))
	}
	item.May = []string{"prove to an auditor what was issued: a certificate that is in no journal was minted by somebody else with the authority's key"}
	return item
}

func subject(cert *x509.Certificate) string {
	if cert == nil {
		return ""
	}
	return fmt.Sprintf(", %s %s", cert.Subject.CommonName, serial(cert.SerialNumber))
}

// journalName reads the name of a journal from a payload that nothing vouches
// for: the checker then holds every line to it.
func journalName(payload []byte) string {
	_, rest, _ := strings.Cut(string(payload), `"journal":"`)
	name, _, _ := strings.Cut(rest, `"`)
	return name
}
