package issuer

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"levee/internal/issuance"
	"levee/internal/wire"
	"levee/pki"
)

// admission is how long after its order a readmission lasts.
const admission = 24 * time.Hour

// certificate is what the ledger keeps of one that was issued.
type certificate struct {
	sender    string
	serial    wire.ID
	spki      string // as issuance.SPKIText spells it
	index     uint64 // of its journal entry
	notBefore int64  // ms since the epoch
	notAfter  int64  // ms since the epoch
}

// readmission is an order that lets expired machines renew once.
type readmission struct {
	from, until int64 // ms since the epoch
	all         bool
	targets     map[string]bool
	used        map[string]bool // senders that have renewed under it
}

func (r *readmission) covers(sender string, at int64) bool {
	return r.from <= at && at < r.until && (r.all || r.targets[sender])
}

// ledger is what follows from the journal's entries, and from nothing else: a
// restart comes to the same. It is safe for concurrent use.
type ledger struct {
	authority pki.Authority

	mu      sync.RWMutex
	orders  map[wire.ID]bool
	keys    map[string]*certificate  // by SPKI, the newest of each that has not expired
	serials map[wire.ID]*certificate // that have not expired
	newest  map[string]*certificate  // by sender
	before  map[string]int64         // by sender: revoked if notBefore is earlier, ms since the epoch
	single  map[wire.ID]int64        // revoked one by one, and when, ms since the epoch
	admits  []*readmission
	list    []wire.Revoked
	theirs  map[subject]bool // on the list by operators' orders alone
	number  uint64           // of list; 0 before the first revocation
	latest  int64            // the highest time of an entry with an order since time was taken back, ms since the epoch
	written int64            // the time of the newest entry, ms since the epoch
	entries uint64
	carried map[string]*certificate // by sender, the newest that provisioning issued
}

func newLedger(authority pki.Authority) *ledger {
	return &ledger{
		authority: authority, orders: make(map[wire.ID]bool), keys: make(map[string]*certificate),
		serials: make(map[wire.ID]*certificate), newest: make(map[string]*certificate),
		before: make(map[string]int64), single: make(map[wire.ID]int64),
	}
}

// serialOf returns a certificate's serial number as lists spell it. All of ours
// have 128 bits at most.
func serialOf(cert *x509.Certificate) (id wire.ID, ok bool) {
	if cert.SerialNumber.Sign() <= 0 || cert.SerialNumber.BitLen() > 8*len(id) {
		return id, false
	}
	cert.SerialNumber.FillBytes(id[:])
	return id, true
}

// apply takes note of a journal entry.
func (l *ledger) apply(e issuance.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var order *issuance.SignedOrder
	if e.Order != nil {
		var err error
		if order, err = issuance.ReadOrder(e.Order, l.authority); err != nil {
			return err
		}
		if l.orders[order.ID] {
			return fmt.Errorf("order %s stands in the journal twice", order.ID)
		}
		l.orders[order.ID] = true
	}
	switch e.Kind {
	case issuance.Issuance:
		if err := l.issued(e); err != nil {
			return err
		}
	case issuance.Revocation:
		next := l.after(order, e.Time)
		back := order.TakesBack(e.Time, l.latest)
		if e.Number <= l.number && !back {
			return fmt.Errorf("the number of the list falls from %d to %d", l.number, e.Number)
		}
		maps.Copy(l.before, next.before)
		for _, r := range next.list {
			if _, known := l.single[r.Serial]; !known && !r.Serial.IsZero() {
				l.single[r.Serial] = e.Time
			}
		}
		l.list, l.theirs, l.number = next.list, next.theirs, e.Number
		if back {
			l.latest = e.Time
		}
	case issuance.Readmission:
		r := &readmission{from: e.Time, until: e.Time + admission.Milliseconds(), all: order.All,
			targets: make(map[string]bool), used: make(map[string]bool)}
		for _, target := range order.Targets {
			r.targets[target] = true
		}
		l.admits = append(l.admits, r)
	}
	if order != nil {
		l.latest = max(l.latest, e.Time)
	}
	l.entries, l.written = e.Index+1, e.Time
	return nil
}

func (l *ledger) issued(e issuance.Entry) error {
	c, err := describe(e.Certificate, l.authority)
	if err != nil {
		return fmt.Errorf("entry %d: %w", e.Index, err)
	}
	c.index = e.Index
	l.keys[c.spki], l.serials[c.serial], l.newest[c.sender] = &c, &c, &c
	if e.Cause == issuance.CauseReadmission {
		if r := l.admitted(c.sender, e.Time); r != nil {
			r.used[c.sender] = true
		}
	}
	return nil
}

// describe returns what the ledger keeps of one of the authority's
// certificates.
func describe(cert *x509.Certificate, authority pki.Authority) (certificate, error) {
	if len(cert.URIs) != 1 {
		return certificate{}, fmt.Errorf("a certificate with %d URIs", len(cert.URIs))
	}
	id, err := pki.ParseIdentity(cert.URIs[0].String(), authority.TrustDomain)
	if err != nil {
		return certificate{}, err
	}
	serial, ok := serialOf(cert)
	if id.Authority() != authority || !ok {
		return certificate{}, fmt.Errorf("a certificate of %s, or with a serial number of more than 128 bits", id)
	}
	return certificate{sender: id.Sender(), serial: serial, spki: issuance.SPKIText(cert.RawSubjectPublicKeyInfo),
		notBefore: cert.NotBefore.UnixMilli(), notAfter: cert.NotAfter.UnixMilli()}, nil
}

// admitted returns the readmission under which an expired machine may renew at
// the time at; nil if there is none that it has not used. l.mu must be held.
func (l *ledger) admitted(sender string, at int64) *readmission {
	for _, r := range l.admits {
		if r.covers(sender, at) && !r.used[sender] {
			return r
		}
	}
	return nil
}

// prune forgets the certificates that expired before now, but no revocation. It
// looks no further than the newest entry: a clock that is ahead would have it
// forget what decides the next list, and a restart come to another one.
func (l *ledger) prune(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := min(now.UnixMilli(), l.written)
	maps.DeleteFunc(l.keys, func(_ string, c *certificate) bool { return c.notAfter < at && l.newest[c.sender] != c })
	maps.DeleteFunc(l.serials, func(_ wire.ID, c *certificate) bool { return c.notAfter < at })
	l.admits = slices.DeleteFunc(l.admits, func(r *readmission) bool { return r.until < at })
}

// carry takes note of what provisioning issued, and reports whether it is
// something else than before. It stands in no journal of the issuer's.
func (l *ledger) carry(all []certificate) (changed bool) {
	newest := make(map[string]*certificate)
	for i := range all {
		if c := newest[all[i].sender]; c == nil || c.notBefore < all[i].notBefore {
			newest[all[i].sender] = &all[i]
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	changed = !maps.EqualFunc(newest, l.carried, func(a, b *certificate) bool { return a.serial == b.serial })
	l.carried = newest
	return changed
}
