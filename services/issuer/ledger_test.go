package issuer

import (
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"levee/internal/issuance"
	"levee/internal/wire"
	"levee/pki"
)

// book is a ledger, and writes its entries.
type book struct {
	*world
	*ledger
	n uint64
}

func (w *world) book() *book { return &book{world: w, ledger: newLedger(machines("melb"))} }

func (b *book) issue(h holder, cause issuance.Cause, at time.Time) {
	b.t.Helper()
	b.must(b.apply(issuance.Entry{Index: b.n, Time: at.UnixMilli(), Record: issuance.Record{Kind: issuance.Issuance, Certificate: h.leaf, Cause: cause}}))
	b.n++
}

func (b *book) entry(kind issuance.Kind, raw []byte, number uint64, at time.Time) issuance.Entry {
	e := issuance.Entry{Index: b.n, Time: at.UnixMilli(), Record: issuance.Record{Kind: kind, Order: raw, Number: number}}
	b.n++
	return e
}

func (b *book) revoke(o issuance.Order, by holder, at time.Time) {
	b.t.Helper()
	b.must(b.apply(b.entry(issuance.Revocation, b.order(issuance.Revoke, o, by, at), b.next(at), at)))
}

func (b *book) readmit(o issuance.Order, by holder, at time.Time) {
	b.t.Helper()
	b.must(b.apply(b.entry(issuance.Readmission, b.order(issuance.Readmit, o, by, at), b.number, at)))
}

const day = 24 * time.Hour

func serialText(h holder) string { return issuance.SerialText(h.leaf.SerialNumber) }

// A journal that contradicts itself is not taken up.
func TestLedgerRefusesEntries(t *testing.T) {
	w := newWorld(t)
	b, now, p := w.book(), time.Now(), w.holder(ann, time.Now())
	raw := w.order(issuance.Revoke, issuance.Order{Targets: []string{web1.Sender()}}, p, now)
	w.must(b.apply(b.entry(issuance.Revocation, raw, 10, now)))
	if b.apply(b.entry(issuance.Revocation, raw, 11, now)) == nil {
		t.Error("an order twice")
	}
	for _, number := range []uint64{9, 10} {
		if b.apply(b.entry(issuance.Revocation, w.order(issuance.Revoke, issuance.Order{Targets: []string{web1.Sender()}}, p, now), number, now)) == nil {
			t.Errorf("number %d after 10", number)
		}
	}
	for _, h := range []holder{w.holder(ann, now), w.holder(syd1, now)} {
		if _, err := describe(h.leaf, machines("melb")); err == nil {
			t.Errorf("a certificate of %s", h.id.Sender())
		}
	}
	if !b.Revoked(web2, &x509.Certificate{NotBefore: now, SerialNumber: new(big.Int).Lsh(big.NewInt(1), 130)}) {
		t.Error("a serial number that no list can name counts")
	}
}

// The clock falls between two orders: nothing that the first one did is undone.
func TestLedgerWhenTheClockFalls(t *testing.T) {
	w := newWorld(t)
	b, now, p := w.book(), time.Now(), w.holder(ann, time.Now())
	h := w.holder(web1, now)
	b.revoke(issuance.Order{Targets: []string{web1.Sender()}}, p, now.Add(time.Second))
	b.revoke(issuance.Order{Targets: []string{web1.Sender()}}, p, now.Add(-10*time.Minute))
	if !b.Revoked(web1, h.leaf) {
		t.Error("an earlier order admits it again")
	}
	if !b.behind(now.Add(time.Second - issuance.MaxFall - time.Millisecond)) {
		t.Error("the highest time was forgotten")
	}
	if r := (&readmission{from: 1000, until: 2000, all: true}); r.covers("x", 999) || !r.covers("x", 1000) || r.covers("x", 2000) {
		t.Error("when a readmission lasts")
	}
}

// What stays on the list, and what goes.
func TestListEntriesGo(t *testing.T) {
	w := newWorld(t)
	now, p := time.Now(), w.people("melb")
	b := w.book()
	h1, h2 := w.holder(web1, now), w.holder(web2, now)
	b.issue(h1, issuance.CauseRenewal, now)
	b.issue(h2, issuance.CauseRenewal, now)
	b.revoke(issuance.Order{Targets: []string{"melb/sensor/a"}, Generation: 3}, p, now)
	b.revoke(issuance.Order{Targets: []string{"melb/sensor/b"}}, p, now)
	b.revoke(issuance.Order{Serials: []string{serialText(h1)}}, p, now)
	b.revoke(issuance.Order{Serials: []string{serialText(h1)}}, p, now.Add(time.Second))
	if len(b.list) != 3 {
		t.Errorf("a serial number twice: %+v", b.list) // parts refuse such a list
	}
	// Again without a generation: the one asked for stays.
	b.revoke(issuance.Order{Targets: []string{"melb/sensor/a"}}, p, now.Add(2*time.Second))
	generation := func() (g uint32) {
		for _, r := range b.list {
			if r.Sender == "melb/sensor/a" {
				g = r.Generation
			}
		}
		return g
	}
	if generation() != 3 {
		t.Error("a generation was taken back")
	}
	has := func(sender string, serial bool) bool {
		for _, r := range b.list {
			if r.Sender == sender && r.Serial.IsZero() != serial {
				return true
			}
		}
		return false
	}
	// The certificate has ended.
	b.revoke(issuance.Order{Targets: []string{"melb/sensor/c"}}, p, now.Add(2*day))
	if has("", true) || !has("melb/sensor/b", false) {
		t.Errorf("after two days: %+v", b.list)
	}
	b.revoke(issuance.Order{Targets: []string{"melb/sensor/d"}}, p, now.Add(91*day))
	if has("melb/sensor/b", false) || !has("melb/sensor/a", false) || generation() != 3 {
		t.Errorf("after 91 days: %+v", b.list)
	}
}

// A ledger that forgets comes to the same list as one that was read again.
func TestListAfterARestartIsTheSame(t *testing.T) {
	w := newWorld(t)
	now, p := time.Now(), w.people("melb")
	old, newer := w.holder(web1, now.Add(-2*day)), w.holder(web2, now)
	raw := w.order(issuance.Revoke, issuance.Order{Serials: []string{serialText(old)}}, p, now)
	var lists []string
	for _, forget := range []bool{false, true} {
		b := w.book()
		b.issue(old, issuance.CauseRenewal, now.Add(-2*day))
		b.issue(newer, issuance.CauseRenewal, now)
		if forget {
			b.prune(now)
			if len(b.serials) != 1 {
				t.Fatalf("%d certificates are remembered", len(b.serials))
			}
		}
		w.must(b.apply(b.entry(issuance.Revocation, raw, 7, now)))
		lists = append(lists, fmt.Sprint(b.list))
	}
	if lists[0] != lists[1] {
		t.Errorf("%s\n%s", lists[0], lists[1])
	}
}

// A clock that was ahead has the ledger forget nothing that decides the next list:
// after a restart the same number is the same list.
func TestPruneLooksNoFurtherThanTheJournal(t *testing.T) {
	w := newWorld(t)
	now, p := time.Now(), w.people("melb")
	h := w.holder(web1, now)
	raw := w.order(issuance.Revoke, issuance.Order{Serials: []string{serialText(h)}}, p, now)
	var lists []string
	for _, ahead := range []time.Duration{0, 2 * day} {
		b := w.book()
		b.issue(h, issuance.CauseRenewal, now)
		b.prune(now.Add(ahead))
		w.must(b.apply(b.entry(issuance.Revocation, raw, 7, now)))
		lists = append(lists, fmt.Sprint(b.list))
	}
	if lists[0] != lists[1] {
		t.Errorf("number 7 is\n%s\nand\n%s", lists[0], lists[1])
	}
}

// Boundaries of identities: what begins at the very time of the order is not
// covered by the identity's entry, here nor at the parts, and goes by its serial
// number.
func TestRevocationAtTheVeryTime(t *testing.T) {
	w := newWorld(t)
	now, p := time.Now(), w.holder(ann, time.Now())
	b := w.book()
	h := w.holder(web1, now)
	b.issue(h, issuance.CauseRenewal, now)
	b.revoke(issuance.Order{Targets: []string{web1.Sender()}}, p, h.leaf.NotBefore)
	if len(b.list) != 2 || b.list[1].Serial.IsZero() {
		t.Errorf("the list is %+v", b.list)
	}
	c := w.book()
	c.revoke(issuance.Order{Targets: []string{web1.Sender()}}, p, h.leaf.NotBefore)
	if c.Revoked(web1, h.leaf) {
		t.Error("revoked here, and at no part")
	}
	// Named both ways it is still one entry, and an operator's.
	d := w.book()
	d.issue(h, issuance.CauseRenewal, now)
	d.revoke(issuance.Order{Targets: []string{web1.Sender()}, Serials: []string{serialText(h)}}, p, h.leaf.NotBefore)
	if n := len((&outcome{list: d.list, theirs: d.theirs}).operators()); n != 2 || len(d.list) != 2 {
		t.Errorf("%d of %d entries are operators'", n, len(d.list))
	}
}

// Each order lets a machine renew once. What is over is forgotten.
func TestReadmissionsAreUsedOnceEach(t *testing.T) {
	w := newWorld(t)
	now, p := time.Now(), w.holder(ann, time.Now())
	b := w.book()
	dead, newer := w.holder(web1, now.Add(-3*day)), w.holder(web1, now.Add(-2*day))
	b.issue(dead, issuance.CauseRenewal, now.Add(-3*day))
	b.issue(newer, issuance.CauseRenewal, now.Add(-2*day))
	o := issuance.Order{Targets: []string{web1.Sender()}}
	b.readmit(o, p, now)
	b.readmit(o, p, now)
	for i := range 2 {
		if _, renew := b.readmitted(web1.Sender(), dead.leaf, false, now); !renew {
			t.Errorf("named, with an older certificate, time %d: refused", i)
		}
		b.issue(w.holder(web1, now), issuance.CauseReadmission, now)
	}
	if _, renew := b.readmitted(web1.Sender(), dead.leaf, false, now); renew {
		t.Error("two readmissions let it renew three times")
	}
	b.issue(w.holder(web2, now.Add(2*day)), issuance.CauseRenewal, now.Add(2*day))
	b.prune(now.Add(2 * day))
	if len(b.admits) != 0 {
		t.Error("readmissions that are over stay in memory")
	}
	// Each machine's newest key is known although its certificate has ended: its answer may be lost.
	b.issue(w.holder(mon1, now.Add(60*day)), issuance.CauseRenewal, now.Add(60*day))
	b.prune(now.Add(60 * day))
	if len(b.keys) != 3 || len(b.serials) != 1 {
		t.Errorf("%d keys and %d serial numbers stay", len(b.keys), len(b.serials))
	}
}

// The X.509 list names nothing that has ended.
func TestX509ListForgets(t *testing.T) {
	w := newWorld(t)
	now, p := time.Now(), w.people("melb")
	b := w.book()
	h1, h2, h3 := w.holder(web1, now), w.holder(web2, now), w.holder(identity("melb", pki.RoleSensor, "web-3"), now)
	b.issue(h1, issuance.CauseRenewal, now)
	b.issue(h2, issuance.CauseRenewal, now)
	c, err := describe(h3.leaf, machines("melb"))
	w.must(err)
	b.revoke(issuance.Order{Serials: []string{serialText(h1)}, Targets: []string{web2.Sender(), h3.id.Sender()}}, p, now.Add(time.Second))
	if n := len(b.crlEntries([]certificate{c}, now.Add(time.Second))); n != 3 {
		t.Errorf("%d entries", n)
	}
	if n := len(b.crlEntries([]certificate{c}, now.Add(2*day))); n != 0 {
		t.Errorf("%d entries of what has ended", n)
	}
}

// A list has no more entries, and no more bytes, than parts take.
func TestTheListsCountIsBounded(t *testing.T) {
	list := make([]wire.Revoked, wire.MaxRevoked+1)
	for i := range list {
		list[i] = wire.Revoked{Sender: fmt.Sprintf("melb/sensor/w%d", i), Before: 1}
	}
	if fitsList("", list, wire.MaxRevoked, maxList) == nil || fitsList("", list[1:], wire.MaxRevoked, maxList) != nil {
		t.Error("parts refuse a list of more entries")
	}
	for i := range list {
		list[i].Sender += strings.Repeat("x", 100)
	}
	if fitsList("", list[:150], wire.MaxRevoked, maxList) == nil {
		t.Error("a list that no message holds")
	}
}
