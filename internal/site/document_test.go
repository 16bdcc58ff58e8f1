package site_test

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

// document is one that is good in every respect.
func document() site.Document {
	hash := site.HashText([32]byte{1})
	return site.Document{ID: wire.NewID(), TrustDomain: trustDomain, Site: "melb", Number: 7,
		Brokers: []site.Broker{{Name: "b1", Address: "[::1]:8883"}, {Name: "b2", Address: "broker.bank.example:8883"}},
		LogKey:  "log+00000000+x", WitnessKeys: []string{"w+00000000+x"}, WitnessesNeeded: 1, WitnessedLogs: []string{"v+00000000+x"}, GrantKey: "k",
		Pins:       []site.Pin{{Sender: "melb/monitor/m1", SPKI: hash}, {Sender: "melb/monitor/m1", SPKI: site.HashText([32]byte{2})}},
		PolicyHash: hash, Generations: []site.Generation{{Sender: "melb/sensor/web-1", Minimum: 3}}}
}

func TestDocumentRoundTrip(t *testing.T) {
	l := layout(t, false)
	root, people := authority(t, l, "root"), authority(t, l, "melb/people-ca")
	now := time.Now()
	d := document()
	raw, err := site.Sign(d, people.Signer, people.Certificate, root.Certificate, now)
	if err != nil {
		t.Fatal(err)
	}
	got, err := site.ParseDocument(raw, root.Certificate, verifier(t, root), now)
	if err != nil {
		t.Fatal(err)
	}
	d.Issued = now.UnixMilli()
	if !reflect.DeepEqual(*got, d) {
		t.Errorf("%+v came back as %+v", d, *got)
	}
	m, err := envelope.ParseStatement(raw, site.MaxDocument)
	if err != nil || string(m.KID) != "melb/ca/people/7" || string(m.Topic) != "melb/bank_server/statement/site" || m.Nonce.Seq != 1 || m.Nonce.Boot != uint64(d.Issued) {
		t.Errorf("%s on %s, %+v, %v", m.KID, m.Topic, m.Nonce, err)
	}
}

// Sign makes only what ParseDocument accepts.
func TestDocumentsThatSayNothingGood(t *testing.T) {
	l := layout(t, false)
	root, people := authority(t, l, "root"), authority(t, l, "melb/people-ca")
	hash := site.HashText([32]byte{1})
	for name, change := range map[string]func(*site.Document){
		"no trust domain":                 func(d *site.Document) { d.TrustDomain = "" },
		"a site that none may be called":  func(d *site.Document) { d.Site = "ops" },
		"number zero":                     func(d *site.Document) { d.Number = 0 },
		"a number beyond 32 bits":         func(d *site.Document) { d.Number = 1 << 32 },
		"no broker":                       func(d *site.Document) { d.Brokers = nil },
		"a broker without a port":         func(d *site.Document) { d.Brokers[0].Address = "127.0.0.1" },
		"a broker with a scheme":          func(d *site.Document) { d.Brokers[0].Address = "tls://127.0.0.1:1" },
		"a broker without a name":         func(d *site.Document) { d.Brokers[0].Name = "" },
		"a pin of another site":           func(d *site.Document) { d.Pins[0].Sender = "syd/monitor/m1" },
		"a pin of a role that is none":    func(d *site.Document) { d.Pins[0].Sender = "melb/monitors/m1" },
		"a pin of a person":               func(d *site.Document) { d.Pins[0].Sender = "melb/operator/ann" },
		"a pin of half a sender":          func(d *site.Document) { d.Pins[0].Sender = "melb/monitor" },
		"a pin that is no hash":           func(d *site.Document) { d.Pins[0].SPKI = hash[1:] },
		"a pin in another spelling":       func(d *site.Document) { d.Pins[0].SPKI = hash[:42] + "B" },
		"a generation of another site":    func(d *site.Document) { d.Generations[0].Sender = "syd/sensor/web-1" },
		"a generation of a misspelt role": func(d *site.Document) { d.Generations[0].Sender = "melb/senser/web-1" },
		"a generation with its number":    func(d *site.Document) { d.Generations[0].Sender = "melb/sensor/web-1/2" },
		"generation zero":                 func(d *site.Document) { d.Generations[0].Minimum = 0 },
		"more witnesses than there are":   func(d *site.Document) { d.WitnessesNeeded = 2 },
		"less than no witness":            func(d *site.Document) { d.WitnessesNeeded = -1 },
		"two generations of one sender":   func(d *site.Document) { d.Generations = append(d.Generations, d.Generations[0]) },
	} {
		d := document()
		change(&d)
		if _, err := site.Sign(d, people.Signer, people.Certificate, root.Certificate, time.Now()); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := site.Sign(document(), authority(t, l, "syd/people-ca").Signer, people.Certificate, root.Certificate, time.Now()); err == nil {
		t.Error("another key than the certificate's: signed")
	}
}

// statement signs payload as the site document's statement, whatever it says.
func statement(t *testing.T, kid, topic string, at int64, payload []byte, by ca.Issuer, issuer *x509.Certificate) []byte {
	t.Helper()
	id, err := envelope.ParseKeyID([]byte(kid))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := envelope.NewSigner(by.Signer, by.Certificate, issuer)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := envelope.AppendStatement(nil, envelope.Header{KeyID: id, Time: at, Nonce: envelope.StatementNonce(at), Topic: topic}, payload, signer)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestDocumentsFromTheWrongHands(t *testing.T) {
	l, other := layout(t, false), layout(t, true)
	root, people, machines := authority(t, l, "root"), authority(t, l, "melb/people-ca"), authority(t, l, "melb/machine-ca")
	now := time.Now()
	sign := func(d site.Document, by, root ca.Issuer) []byte {
		raw, err := site.Sign(d, by.Signer, by.Certificate, root.Certificate, now)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	good := sign(document(), people, root)
	d := document()
	d.Issued = now.UnixMilli()
	payload, err := wire.Encode(&d)
	if err != nil {
		t.Fatal(err)
	}
	const kid, topic = "melb/ca/people/7", "melb/bank_server/statement/site"
	if _, err := site.ParseDocument(statement(t, kid, topic, d.Issued, payload, people, root.Certificate), root.Certificate, verifier(t, root), now); err != nil {
		t.Fatalf("the statement that the others differ from: %v", err)
	}
	foreign := document()
	foreign.Site, foreign.Pins, foreign.Generations = "syd", []site.Pin{}, []site.Generation{}
	elsewhere := document()
	elsewhere.TrustDomain = "other.example"
	leaf, err := ca.IssueLeaf(people, identity("melb", pki.RoleOperator, "ann"), people.Signer.Public(), ca.Names{}, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) []byte {
		changed := bytes.Replace(good, []byte(old), []byte(new), 1)
		if bytes.Equal(changed, good) {
			t.Fatalf("%q is not in the document", old)
		}
		return changed
	}
	with := func(member string) []byte {
		return append(append(payload[:len(payload)-1:len(payload)-1], ','), member...)
	}
	for name, raw := range map[string][]byte{
		"empty":                       nil,
		"over the bound":              append(bytes.Clone(good), make([]byte, site.MaxDocument)...),
		"an edited policy hash":       edit(site.HashText([32]byte{1}), site.HashText([32]byte{9})),
		"an edited number":            edit(`"number":7`, `"number":8`),
		"another root's":              sign(document(), authority(t, other, "melb/people-ca"), authority(t, other, "root")),
		"our people CA, another root": sign(document(), people, authority(t, other, "root")),
		"another root's CA, our root": sign(document(), authority(t, other, "melb/people-ca"), root),
		"the machine CA's":            sign(document(), machines, root),
		"another site's people CA":    sign(document(), authority(t, l, "syd/people-ca"), root),
		"for another site":            sign(foreign, people, root),
		"for another trust domain":    sign(elsewhere, people, root),
		"an operator's":               statement(t, kid, topic, d.Issued, payload, ca.Issuer{Certificate: leaf, Signer: people.Signer}, people.Certificate),
		"another number in kid":       statement(t, "melb/ca/people/8", topic, d.Issued, payload, people, root.Certificate),
		"another site in kid":         statement(t, "syd/ca/people/7", topic, d.Issued, payload, people, root.Certificate),
		"another role in kid":         statement(t, "melb/operator/people/7", topic, d.Issued, payload, people, root.Certificate),
		"another topic":               statement(t, kid, "melb/elsewhere/statement/site", d.Issued, payload, people, root.Certificate),
		"another time":                statement(t, kid, topic, d.Issued+1, payload, people, root.Certificate),
		"an unknown member":           statement(t, kid, topic, d.Issued, with(`"extra":1}`), people, root.Certificate),
		"an unknown member inside": statement(t, kid, topic, d.Issued,
			bytes.Replace(payload, []byte(`"spki"`), []byte(`"x":1,"spki"`), 1), people, root.Certificate),
		"a member missing": statement(t, kid, topic, d.Issued,
			bytes.Replace(payload, []byte(`"generations"`), []byte(`"generation"`), 1), people, root.Certificate),
	} {
		if got, err := site.ParseDocument(raw, root.Certificate, verifier(t, root), now); err == nil || got != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A document is verified as of when it was issued: it outlives its signer's
// certificate, and is none that the certificate's time does not cover.
func TestDocumentOfItsTime(t *testing.T) {
	l := layout(t, false)
	root, people := authority(t, l, "root"), authority(t, l, "melb/people-ca")
	v := verifier(t, root)
	ends := people.Certificate.NotAfter
	issued := time.Now()
	for name, test := range map[string]struct {
		issued, at time.Time
		want       bool
	}{
		"at once":                                 {issued, issued, true},
		"years later":                             {issued, ends.Add(365 * 24 * time.Hour), true},
		"in the last hour, a day later":           {ends.Add(-time.Hour), ends.Add(24 * time.Hour), true},
		"by a clock that is ahead a little":       {issued.Add(50 * time.Second), issued, true},
		"after the root ended":                    {issued, root.Certificate.NotAfter.Add(time.Second), false},
		"in the future":                           {issued.Add(2 * time.Minute), issued, false},
		"in the far future":                       {issued.Add(50 * 365 * 24 * time.Hour), issued, false},
		"after its signer's certificate ended":    {ends.Add(time.Second), ends.Add(time.Hour), false},
		"before its signer's certificate began":   {people.Certificate.NotBefore.Add(-time.Hour), issued, false},
		"before the first signer, looked at then": {people.Certificate.NotBefore.Add(-time.Hour), people.Certificate.NotBefore.Add(-time.Hour), false},
	} {
		raw, err := site.Sign(document(), people.Signer, people.Certificate, root.Certificate, test.issued)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		d, err := site.ParseDocument(raw, root.Certificate, v, test.at)
		if (err == nil) != test.want || (d != nil) != test.want {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
	raw, err := site.Sign(document(), people.Signer, people.Certificate, root.Certificate, issued.Add(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if d, signer, err := site.ParseIssued(raw, root.Certificate, v); err != nil || !signer.Equal(people.Certificate) || !d.Early(issued) || d.Early(issued.Add(24*time.Hour)) {
		t.Errorf("%v, %v", d, err)
	}
}

func TestPinnedAndGeneration(t *testing.T) {
	l := layout(t, false)
	leaf := authority(t, l, "melb/machine-ca").Certificate // any certificate has a key
	sum := site.HashText(pki.SPKIHash(leaf))
	d := site.Document{Pins: []site.Pin{{"melb/monitor/m1", site.HashText([32]byte{})}, {"melb/monitor/m1", sum}, {"melb/monitor/m2", site.HashText([32]byte{})}},
		Generations: []site.Generation{{"melb/sensor/web-1", 4}}}
	for sender, want := range map[string][2]bool{
		"melb/monitor/m1": {true, true}, "melb/monitor/m2": {false, true}, "melb/monitor/m3": {false, false}, "": {false, false},
	} {
		if match, pinned := d.Pinned(sender, leaf); [2]bool{match, pinned} != want {
			t.Errorf("%q: match %v, pinned %v", sender, match, pinned)
		}
	}
	if d.MinimumGeneration("melb/sensor/web-1") != 4 || d.MinimumGeneration("melb/sensor/web-2") != 1 {
		t.Error("wrong minimum generations")
	}
}

func FuzzParseDocument(f *testing.F) {
	l := layout(f, false)
	root := authority(f, l, "root")
	v := verifier(f, root)
	good, err := os.ReadFile(filepath.Join(l.Bundle(identity("melb", pki.RoleSensor, "web-1")), site.FileDocument))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(strings.Replace(string(good), `"site":"melb"`, `"site":"syd"`, 1)))
	now := time.Now()
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := site.ParseDocument(raw, root.Certificate, v, now)
		if (err == nil) != (d != nil) {
			t.Fatal("neither a document nor an error, or both")
		}
		if d != nil && !bytes.Equal(raw, good) {
			t.Fatalf("a document that nobody signed: %s", raw)
		}
	})
}

func TestNeededWitnesses(t *testing.T) {
	for _, tc := range [][3]int{{0, 0, 0}, {1, 0, 1}, {2, 0, 2}, {3, 0, 2}, {4, 0, 3}, {3, 1, 1}, {3, 3, 3}} {
		d := site.Document{WitnessKeys: make([]string, tc[0]), WitnessesNeeded: tc[1]}
		if got := d.Needed(); got != tc[2] {
			t.Errorf("%d keys, %d needed: %d", tc[0], tc[1], got)
		}
	}
}
