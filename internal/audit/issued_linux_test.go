package audit

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/issuance"
	"levee/internal/records"
	"levee/internal/translog/leaf"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
	"levee/services/recorder"
)

// deployed returns the lines of the deployer's two journals.
func (b *bank) deployed(t testing.TB) (lines [][]byte) {
	t.Helper()
	for _, name := range []string{records.FileMachines, records.FilePeople} {
		text, err := os.ReadFile(filepath.Join(b.Bundle(recorderID), name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			lines = append(lines, bytes.TrimSuffix(line, []byte("\n")))
		}
	}
	return lines
}

// entries spells lines as entries of the log, received at the same time after b
// was made.
func (b *bank) entries(t testing.TB, after time.Duration, lines ...[]byte) (all [][]byte) {
	t.Helper()
	for _, raw := range lines {
		kind := leaf.KindRevocation
		if bytes.Contains(raw, []byte(`/statement/issuance"`)) {
			kind = leaf.KindIssuance
		}
		l, err := leaf.Leaf{Received: b.made.Add(after).UnixMilli(), Verdict: "accepted", Kind: kind, Data: raw}.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

// issuer is what the holder of the site's machine authority writes as iss-1.
type issuer struct {
	t       testing.TB
	bank    *bank
	by      ca.Issuer
	journal *issuance.Journal
}

func (b *bank) issuer(t testing.TB) *issuer {
	t.Helper()
	c := b.open(t)
	path := filepath.Join(b.Authority(), "melb", "machine-ca")
	key, err := pki.ReadKey(path + ".key")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ReadCertificate(path + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "journal")
	if err := issuance.Create(own); err != nil {
		t.Fatal(err)
	}
	j, err := issuance.Open(issuance.Config{Path: own, Name: "iss-1", Key: key, Issuer: cert, Root: c.Root, Verifier: c.Verifier}, nil, b.made)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return &issuer{t, b, ca.Issuer{Certificate: cert, Signer: key}, j}
}

// issue makes a certificate and returns its line, and what signs with it.
func (i *issuer) issue(id pki.Identity, after time.Duration) ([]byte, *envelope.Signer, *x509.Certificate) {
	i.t.Helper()
	at := i.bank.made.Add(after)
	key, err := pki.NewKey(id.Role)
	if err != nil {
		i.t.Fatal(err)
	}
	cert, err := ca.IssueLeaf(i.by, id, key.Public(), ca.Names{}, 24*time.Hour, at)
	if err != nil {
		i.t.Fatal(err)
	}
	signer, err := envelope.NewSigner(key, cert, i.by.Certificate)
	if err != nil {
		i.t.Fatal(err)
	}
	return i.append(issuance.Record{Kind: issuance.Issuance, Certificate: cert, Cause: issuance.CauseRenewal}, at), signer, cert
}

func (i *issuer) append(r issuance.Record, at time.Time) []byte {
	i.t.Helper()
	e, err := i.journal.Append(r, at)
	if err != nil {
		i.t.Fatal(err)
	}
	return e.Raw
}

// order carries out an order of the people's authority.
func (i *issuer) order(kind issuance.OrderKind, o issuance.Order, after time.Duration) []byte {
	i.t.Helper()
	path := filepath.Join(i.bank.Authority(), "melb", "people-ca")
	key, err := pki.ReadKey(path + ".key")
	if err != nil {
		i.t.Fatal(err)
	}
	cert, err := pki.ReadCertificate(path + ".pem")
	if err != nil {
		i.t.Fatal(err)
	}
	signer, err := envelope.NewSigner(key, cert, i.bank.open(i.t).Root)
	if err != nil {
		i.t.Fatal(err)
	}
	at := i.bank.made.Add(after)
	o.ID, o.Expires = wire.NewID(), at.Add(time.Minute).UnixMilli()
	raw, err := issuance.SignOrder(kind, o, "melb/ca/people", signer, at)
	if err != nil {
		i.t.Fatal(err)
	}
	record := issuance.Record{Kind: issuance.Readmission, Order: raw, Number: 1}
	if kind == issuance.Revoke {
		record.Kind = issuance.Revocation
	}
	return i.append(record, at)
}

// kinds counts findings by kind.
func (r *Report) kinds() map[string]int {
	got := make(map[string]int)
	for _, f := range r.Findings {
		got[f.Kind]++
	}
	return got
}

// statuses returns messages of the controller at those times, signed with by, or
// with its own certificate.
func (b *bank) statuses(t testing.TB, by *envelope.Signer, after ...time.Duration) (all []message) {
	t.Helper()
	s := b.sender(t, pki.RoleController, "lb-1", after[0])
	if by != nil {
		s.signer = by
	}
	for _, at := range after {
		s.now = b.made.Add(at)
		all = append(all, s.status())
	}
	return all
}

func TestIssued(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	i := b.issuer(t)
	lines := b.deployed(t)
	renewal, signer, _ := i.issue(identity(pki.RoleController, "lb-1"), time.Hour)
	messages := append(b.statuses(t, nil, time.Second, 20*time.Minute), b.statuses(t, signer, 2*time.Hour, 3*time.Hour)...)
	leaves := slices.Concat(b.entries(t, 0, lines...), [][]byte{messages[0].leaf(t), messages[1].leaf(t), messages[2].leaf(t), messages[3].leaf(t)},
		b.entries(t, 3*time.Hour, renewal, i.order(issuance.Readmit, issuance.Order{All: true}, 3*time.Hour))) // later than what it vouches for
	b.craft(t, recordsOf(messages...), leaves...)
	r := b.sound(t)
	if r.Issued != len(lines)+1 || r.Revoked != 0 || r.Readmitted != 1 || r.AwaitingIssuance != 0 || len(r.WithoutJournal) != 0 || r.Signatures != 4 {
		t.Errorf("%+v", r)
	}
}

// A certificate that nobody wrote down is found out by what it signed.
func TestNotIssued(t *testing.T) {
	t.Parallel()
	newBank(t)
	minted := func(t *testing.T, b *bank, after ...time.Duration) []message {
		return b.statuses(t, b.mint(t, identity(pki.RoleController, "lb-1"), 24*time.Hour, b.made), after...)
	}
	overdue := records.ImportOverdue
	for _, test := range []struct {
		name     string
		journals []string // of the bundle that the log holds
		after    []time.Duration
		logged   bool
		found    int
		awaiting int
		without  []string
	}{
		{"while its line may be on its way", []string{"machine", "people"}, []time.Duration{time.Second, overdue - time.Second}, true, 0, 1, nil},
		{"after that", []string{"machine", "people"}, []time.Duration{time.Second, 2 * time.Second, overdue + 2*time.Second}, true, 1, 0, nil},
		{"in a segment alone", []string{"machine"}, []time.Duration{time.Second, overdue + 2*time.Second}, false, 1, 0, nil},
		{"in a log older than journals", nil, []time.Duration{time.Second, time.Hour}, true, 0, 0, []string{"melb.bank.example"}},
		{"in a log with another authority's journal", []string{"people"}, []time.Duration{time.Second, time.Hour}, true, 0, 0, []string{"melb.bank.example"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			messages := minted(t, b, test.after...)
			var leaves [][]byte
			for _, line := range b.deployed(t) {
				for _, journal := range test.journals {
					if bytes.Contains(line, []byte(`"kid":"melb/ca/`+journal+`/1"`)) {
						leaves = append(leaves, b.entries(t, 0, line)...)
					}
				}
			}
			first := len(leaves)
			for _, m := range messages {
				if test.logged {
					leaves = append(leaves, m.leaf(t))
				}
			}
			b.craft(t, recordsOf(messages...), leaves...)
			r := b.verify(t)
			if got := r.kinds()[KindNotIssued]; got != test.found || r.AwaitingIssuance != test.awaiting || !slices.Equal(r.WithoutJournal, test.without) || test.logged && r.Found != test.found {
				t.Errorf("%+v", r)
			}
			if test.found == 0 {
				return
			}
			where := fmt.Sprintf("entry %d: no journal has the certificate", first)
			if !test.logged {
				where = ".seg: no journal has the certificate"
			}
			r.want(t, where, "of melb/controller/lb-1", fmt.Sprintf("signed %d messages", len(messages)))
			text, err := json.Marshal(r)
			if err != nil || !bytes.Contains(text, []byte(`"kind":"certificate_not_issued"`)) {
				t.Errorf("%s, %v", text, err)
			}
		})
	}
}

func TestSignedAfterRevocation(t *testing.T) {
	t.Parallel()
	newBank(t)
	const at = 10 * time.Minute
	lb1, skew := identity(pki.RoleController, "lb-1"), 30*time.Second
	for _, test := range []struct {
		name   string
		order  func(own *x509.Certificate) issuance.Order
		issued time.Duration // of the certificate that signs; 0: the deployer's
		signed time.Duration
		logged bool
		found  int
	}{
		{"by identity", target("melb/controller/lb-1"), 0, at + skew + time.Millisecond, true, 1},
		{"in a segment alone", target("melb/controller/lb-1"), 0, at + skew + time.Millisecond, false, 1},
		{"within what clocks may differ", target("melb/controller/lb-1"), 0, at + skew, true, 0},
		{"before", target("melb/controller/lb-1"), 0, at - time.Second, true, 0},
		{"another identity", target("melb/controller/lb-2"), 0, at + time.Hour, true, 0},
		{"by serial number", serial, time.Minute, at + time.Hour, true, 1},
		{"another serial number", func(*x509.Certificate) issuance.Order {
			return issuance.Order{Serials: []string{strings.Repeat("0123", 8)}}
		}, time.Minute, at + time.Hour, true, 0},
		{"a certificate of before", target("melb/controller/lb-1"), time.Minute, at + time.Hour, true, 1},
		{"a certificate of before by a clock ahead", target("melb/controller/lb-1"), at + 5*time.Minute, at + time.Hour, true, 1},
		{"a certificate of afterwards", target("melb/controller/lb-1"), -(at + 5*time.Minute), at + time.Hour, true, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			i := b.issuer(t)
			lines := b.deployed(t)
			var signer *envelope.Signer
			var cert *x509.Certificate
			issue := func(after time.Duration) {
				var line []byte
				line, signer, cert = i.issue(lb1, after)
				lines = append(lines, line)
			}
			if test.issued > 0 {
				issue(test.issued)
			}
			lines = append(lines, i.order(issuance.Revoke, test.order(cert), at))
			if test.issued < 0 {
				issue(-test.issued)
			}
			messages := b.statuses(t, signer, test.signed)
			leaves := b.entries(t, test.signed, lines...)
			if test.logged { // before the order comes: the import takes its time
				leaves = append([][]byte{messages[0].leaf(t)}, leaves...)
			}
			b.craft(t, recordsOf(messages...), leaves...)
			r := b.verify(t)
			if got := r.kinds()[KindRevoked]; got != test.found || r.Found != test.found || r.Revoked != 1 {
				t.Errorf("%+v", r)
			}
			where := "entry 0"
			if !test.logged {
				where = ".seg"
			}
			if test.found > 0 {
				r.want(t, where+": of melb/controller/lb-1: it was signed at "+clock(b.made.Add(test.signed).UnixMilli()), "revoked at "+clock(b.made.Add(at).UnixMilli()))
			}
		})
	}
}

func target(sender string) func(*x509.Certificate) issuance.Order {
	return func(*x509.Certificate) issuance.Order { return issuance.Order{Targets: []string{sender}} }
}

func serial(cert *x509.Certificate) issuance.Order {
	return issuance.Order{Serials: []string{issuance.SerialText(cert.SerialNumber)}}
}

// Journals in the log that are not what their authority wrote, or not all of it.
func TestJournals(t *testing.T) {
	t.Parallel()
	newBank(t)
	for _, test := range []struct {
		name string
		// lines returns what the log holds, of five lines of iss-1 and of five
		// that its key signed as well.
		lines func(own, fork [][]byte) [][]byte
		want  []string // nothing: all is well
		found int
	}{
		{"whole", func(own, _ [][]byte) [][]byte { return own }, nil, 0},
		{"in another order", func(own, _ [][]byte) [][]byte { return [][]byte{own[3], own[1], own[0], own[4], own[2]} }, nil, 0},
		{"without its end", func(own, _ [][]byte) [][]byte { return own[:3] }, nil, 0},
		{"a gap", func(own, _ [][]byte) [][]byte { return [][]byte{own[0], own[3], own[4]} },
			[]string{"entry 1: lines 1 to 2 of journal iss-1 are not in the log, and line 3 is"}, 1},
		{"two gaps", func(own, _ [][]byte) [][]byte { return [][]byte{own[1], own[4]} },
			[]string{"entry 0: lines 0 to 0 of journal iss-1", "entry 1: lines 2 to 3 of journal iss-1"}, 2},
		{"a line twice", func(own, _ [][]byte) [][]byte { return [][]byte{own[0], own[1], own[0]} }, []string{"entry 2: line 0 of journal iss-1 is in the log twice"}, 1},
		{"a line twice before its turn", func(own, _ [][]byte) [][]byte { return [][]byte{own[1], own[1], own[0]} }, []string{"entry 1: line 1 of journal iss-1 is in the log twice"}, 1},
		{"a fork", func(own, fork [][]byte) [][]byte { return append(slices.Clone(own), fork[2]) },
			[]string{"entry 5: journal iss-1 has two lines of index 2: there are two histories of what melb.bank.example issued"}, 1},
		{"a fork before its turn", func(own, fork [][]byte) [][]byte { return [][]byte{own[1], fork[1], own[0]} }, []string{"entry 1: journal iss-1 has two lines of index 1"}, 1},
		{"another history from a line on", func(own, fork [][]byte) [][]byte { return append(slices.Clone(own[:2]), fork[2:]...) },
			[]string{"entry 2:", "does not follow the line before"}, 1},
		{"a changed signature", func(own, _ [][]byte) [][]byte { return append([][]byte{flipped(own[0])}, own[1:]...) },
			[]string{"entry 0: journal iss-1 of melb.bank.example, line 0:", "line 1: it does not follow"}, 2},
		{"another site's", func(own, _ [][]byte) [][]byte {
			return [][]byte{bytes.ReplaceAll(own[0], []byte(`"melb/`), []byte(`"sydn/`))}
		},
			[]string{"entry 0: it is a line of sydn, another site"}, 1},
		{"the people's authority by name alone", func(own, _ [][]byte) [][]byte {
			return [][]byte{bytes.Replace(own[0], []byte("melb/ca/machine/1"), []byte("melb/ca/people/1"), 1)}
		}, []string{"entry 0:", "it is signed by the authority of melb.bank.example"}, 1},
		{"nothing of ours", func(_, _ [][]byte) [][]byte { return [][]byte{[]byte("hello /statement/issuance\"")} }, []string{"entry 0: reading an entry"}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			write := func() (lines [][]byte) {
				i := b.issuer(t)
				for range 4 {
					line, _, _ := i.issue(identity(pki.RoleController, "lb-1"), time.Second)
					lines = append(lines, line)
				}
				return append(lines, i.order(issuance.Revoke, issuance.Order{Targets: []string{"melb/sensor/web-2"}}, time.Second))
			}
			last := b.statuses(t, nil, time.Minute) // so that nothing is just being written
			b.craft(t, recordsOf(last...), append(b.entries(t, time.Second, test.lines(write(), write())...), last[0].leaf(t))...)
			r := b.verify(t)
			if r.kinds()[KindJournal] != test.found || r.Found != test.found {
				t.Errorf("%+v", r)
			}
			for _, want := range test.want {
				r.want(t, want)
			}
		})
	}
}

func flipped(line []byte) []byte {
	b := bytes.Clone(line)
	at := len(b) - 40
	b[at] ^= 1
	return b
}

// What came last may be being written, in another order.
func TestLinesJustNow(t *testing.T) {
	t.Parallel()
	newBank(t)
	for after, found := range map[time.Duration]int{inHand: 0, inHand + time.Millisecond: 1} {
		b := newBank(t)
		i := b.issuer(t)
		i.issue(identity(pki.RoleController, "lb-1"), time.Second)
		line, _, _ := i.issue(identity(pki.RoleController, "lb-1"), time.Second)
		last := message{b.statuses(t, nil, after)[0].raw, b.made.Add(after)}
		b.craft(t, recordsOf(last), append(b.entries(t, 0, line), last.leaf(t))...)
		if r := b.verify(t); r.Found != found {
			t.Errorf("%s later: %+v", after, r)
		}
	}
}

// A line is logged as what it is.
func TestKindsOfLines(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	line := b.deployed(t)[0]
	raw, err := leaf.Leaf{Received: b.made.UnixMilli(), Verdict: "accepted", Kind: leaf.KindRevocation, Data: line}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	b.craft(t, nil, raw)
	r := b.verify(t)
	r.want(t, "entry 0: it is logged as revocation")
	if r.Found != 1 || r.Issued != 0 {
		t.Errorf("%+v", r)
	}
}

// What waits for a line before it is bounded, and is checked all the same.
func TestLinesAheadAreBounded(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	i := b.issuer(t)
	line, _, cert := i.issue(identity(pki.RoleController, "lb-1"), time.Second)
	lines := [][]byte{line}
	for range maxAhead + 5 {
		lines = append(lines, i.append(issuance.Record{Kind: issuance.Issuance, Certificate: cert, Cause: issuance.CauseRenewal}, b.made.Add(time.Second)))
	}
	a := newAudit(b.open(t))
	for n, raw := range b.entries(t, time.Second, lines[1:]...) {
		a.takeLeaf(int64(n), raw)
		for _, j := range a.registry.journals {
			if len(j.ahead) > maxAhead {
				t.Fatalf("%d lines wait", len(j.ahead))
			}
		}
	}
	if a.report.Found != 1 || a.report.Issued != len(lines)-1 {
		t.Errorf("%d findings, %d issued", a.report.Found, a.report.Issued)
	}
	for n := range maxJournals + 3 {
		text := bytes.Replace(line, []byte(`"journal":"iss-1"`), fmt.Appendf(nil, `"journal":"iss-%d"`, n+10), 1)
		a.takeLeaf(0, b.entries(t, 0, text)[0])
	}
	if len(a.registry.journals) > maxJournals {
		t.Errorf("%d journals", len(a.registry.journals))
	}
}

// What a recorder imports of its bundle is what an audit asks for.
func TestImportedByARecorder(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	p, err := recorder.Open(b.configFile(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(b.State(recorderID), "imported")); err == nil {
			break
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r := b.sound(t)
	if want := len(b.deployed(t)); r.Issued != want || r.Entries != int64(want) || want < 7 {
		t.Errorf("%d entries, %d issued, want %d", r.Entries, r.Issued, want)
	}
}
