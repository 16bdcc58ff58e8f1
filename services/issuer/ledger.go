package issuer

import (
	"cmp"
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

const (
	// admission is how long after its order a readmission lasts.
	admission = 24 * time.Hour
	// maxList bounds the revocation list in bytes of JSON: what a message holds
	// beside the longest chain of certificates.
	maxList = 20 << 10
	// Operators' orders fill half of it: the rest is for the people's authority,
	// so that an operator who invents targets cannot keep everybody from being
	// revoked.
	maxOperators     = wire.MaxRevoked / 2
	maxOperatorsList = maxList / 2
)

// subject is whom or what an entry of the list revokes.
type subject struct {
	sender string
	serial wire.ID
}

func subjectOf(r wire.Revoked) subject { return subject{sender: r.Sender, serial: r.Serial} }

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
	latest  int64            // the highest time of an entry with an order, ms since the epoch
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
		l.latest = max(l.latest, e.Time)
	}
	switch e.Kind {
	case issuance.Issuance:
		if err := l.issued(e); err != nil {
			return err
		}
	case issuance.Revocation:
		next := l.after(order, e.Time)
		if e.Number <= l.number {
			return fmt.Errorf("the number of the list falls from %d to %d", l.number, e.Number)
		}
		maps.Copy(l.before, next.before)
		for _, r := range next.list {
			if _, known := l.single[r.Serial]; !known && !r.Serial.IsZero() {
				l.single[r.Serial] = e.Time
			}
		}
		l.list, l.theirs, l.number = next.list, next.theirs, e.Number
	case issuance.Readmission:
		r := &readmission{from: e.Time, until: e.Time + admission.Milliseconds(), all: order.All,
			targets: make(map[string]bool), used: make(map[string]bool)}
		for _, target := range order.Targets {
			r.targets[target] = true
		}
		l.admits = append(l.admits, r)
	}
	l.entries = e.Index + 1
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

// outcome is what an order to revoke leads to.
type outcome struct {
	list   []wire.Revoked
	theirs map[subject]bool // as in the ledger
	before map[string]int64 // the identities that it revokes, as in the ledger
}

// after returns what an order to revoke leads to at the time at. Entries that
// nothing depends on any more go.
func (l *ledger) after(o *issuance.SignedOrder, at int64) outcome {
	next := outcome{theirs: make(map[subject]bool), before: make(map[string]int64)}
	generations := make(map[string]uint32)
	for _, target := range o.Targets {
		// A certificate that this clock, or the clock before a correction,
		// dated ahead is meant as well.
		next.before[target] = max(at, l.before[target])
		if c := l.newest[target]; c != nil {
			next.before[target] = max(next.before[target], c.notBefore+1000)
		}
		generations[target] = o.Generation
	}
	old := make(map[subject]bool)
	for _, r := range l.list {
		switch s := subjectOf(r); {
		case !r.Serial.IsZero() && r.Until < at:
			continue
		case r.Serial.IsZero() && next.before[r.Sender] != 0:
			generations[r.Sender] = max(generations[r.Sender], r.Generation)
			old[s] = true
			continue // it comes again below
		case r.Serial.IsZero() && r.Generation == 0 && r.Before+longest.Milliseconds() < at:
			continue // what it revoked has expired
		default:
			old[s] = true
			next.list = append(next.list, r)
			next.theirs[s] = l.theirs[s]
		}
	}
	add := func(r wire.Revoked) {
		s := subjectOf(r)
		if !old[s] || r.Serial.IsZero() {
			next.list = append(next.list, r)
		}
		next.theirs[s] = !o.ByAuthority && (!old[s] || l.theirs[s] || next.theirs[s])
		old[s] = true
	}
	for _, target := range o.Targets {
		// No list revokes what is issued after it: parts refuse that. What was
		// dated ahead goes by its serial number.
		add(wire.Revoked{Sender: target, Before: at, Generation: generations[target]})
		for _, c := range l.ahead(target, at) {
			add(wire.Revoked{Serial: c.serial, Until: c.notAfter})
		}
	}
	for _, text := range o.Serials {
		var serial wire.ID
		if serial.UnmarshalText([]byte(text)) != nil {
			continue // ReadOrder has checked the form; zero names no certificate
		}
		until := at + longest.Milliseconds()
		// One that has expired may have been forgotten, and a restart must come
		// to the same list.
		if c := l.serials[serial]; c != nil && c.notAfter >= at {
			until = c.notAfter
		}
		add(wire.Revoked{Serial: serial, Until: until})
	}
	return next
}

// ahead returns the certificates of a sender that begin at the time at or later,
// in the order of the journal.
func (l *ledger) ahead(sender string, at int64) (all []*certificate) {
	for _, c := range l.serials {
		if c.sender == sender && c.notBefore >= at {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b *certificate) int { return cmp.Compare(a.index, b.index) })
	return all
}

// longest is how long any certificate of a site can still count.
const longest = pki.MaxPersonLifetime + pki.Backdating

// next returns the number of the list that follows: from the clock, so that the
// true issuer overtakes a lost journal, and a stranger who signed lists for a
// while, with the next thing that it revokes. It rises even where the clock falls.
func (l *ledger) next(now time.Time) uint64 {
	return max(l.number+1, uint64(now.UnixMilli()))
}

// current returns the list in force and its number, 1 if nothing was ever
// revoked.
func (l *ledger) current() ([]wire.Revoked, uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return append([]wire.Revoked{}, l.list...), max(l.number, 1)
}

// carriedOut reports whether an order stands in the journal.
func (l *ledger) carriedOut(id wire.ID) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.orders[id]
}

// Revoked reports whether leaf, a verified certificate of id, is revoked. What
// was dropped from the list is still known here.
func (l *ledger) Revoked(id pki.Identity, leaf *x509.Certificate) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if leaf.NotBefore.UnixMilli() < l.before[id.Sender()] {
		return true
	}
	serial, ok := serialOf(leaf)
	if !ok {
		return true // none of ours
	}
	_, revoked := l.single[serial]
	return revoked
}

// revokedSince returns when an identity was revoked last, 0 if never.
func (l *ledger) revokedSince(sender string) int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.before[sender]
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

// readmitted reports whether an expired certificate may still connect, and
// whether it may renew. Where its machine was not named, but all were meant, only
// the newest certificate will do, or the newest's key: an older one may have been
// stolen since.
func (l *ledger) readmitted(sender string, leaf *x509.Certificate, newestKey bool, now time.Time) (connect, renew bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	at := now.UnixMilli()
	superseded := !newestKey && l.isSuperseded(sender, leaf)
	for _, r := range l.admits {
		if !r.covers(sender, at) {
			continue
		}
		connect = true
		if !r.used[sender] && (!superseded || r.targets[sender]) {
			renew = true
		}
	}
	return connect, renew
}

// known returns the certificate that was issued for a key, and whether it is the
// newest of its identity.
func (l *ledger) known(spki string) (c certificate, newest, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	found, ok := l.keys[spki]
	if !ok {
		return certificate{}, false, false
	}
	return *found, l.newest[found.sender] == found, true
}

// ours reports whether a certificate with that serial number was issued here,
// and has not been forgotten since it expired.
func (l *ledger) ours(serial wire.ID) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.serials[serial] != nil
}

// superseded reports whether a newer certificate of the same identity was
// issued than leaf, here or by provisioning.
func (l *ledger) superseded(sender string, leaf *x509.Certificate) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.isSuperseded(sender, leaf)
}

// isSuperseded is superseded, with l.mu held.
func (l *ledger) isSuperseded(sender string, leaf *x509.Certificate) bool {
	newest := l.newest[sender]
	serial, _ := serialOf(leaf)
	if c := l.carried[sender]; c != nil && c.notBefore > leaf.NotBefore.UnixMilli() {
		return true // a bundle replaced it
	}
	if newest == nil || newest.serial == serial {
		return false
	}
	// Two of one second have the same notBefore. Provisioning's are not in serials.
	return l.serials[serial] != nil || newest.notBefore > leaf.NotBefore.UnixMilli()
}

// prune forgets the certificates that expired before now, but no revocation.
func (l *ledger) prune(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := now.UnixMilli()
	maps.DeleteFunc(l.keys, func(_ string, c *certificate) bool { return c.notAfter < at && l.newest[c.sender] != c })
	maps.DeleteFunc(l.serials, func(_ wire.ID, c *certificate) bool { return c.notAfter < at })
	l.admits = slices.DeleteFunc(l.admits, func(r *readmission) bool { return r.until < at })
}

// crlEntries returns the revoked certificates that have not expired at now: of
// those that the journal or more names, and those revoked by their serial number.
func (l *ledger) crlEntries(more []certificate, now time.Time) []x509.RevocationListEntry {
	l.mu.RLock()
	defer l.mu.RUnlock()
	at := now.UnixMilli()
	when := make(map[wire.ID]int64)
	for serial, since := range l.single {
		if c := l.serials[serial]; c == nil || c.notAfter >= at {
			when[serial] = min(since, at)
		}
	}
	add := func(c *certificate) {
		if before := l.before[c.sender]; c.notBefore < before && c.notAfter >= at {
			when[c.serial] = min(before, at, cmp.Or(when[c.serial], at))
		}
	}
	for _, c := range l.serials {
		add(c)
	}
	for i := range more {
		add(&more[i])
	}
	entries := make([]x509.RevocationListEntry, 0, len(when))
	for _, serial := range slices.SortedFunc(maps.Keys(when), func(a, b wire.ID) int { return slices.Compare(a[:], b[:]) }) {
		entries = append(entries, x509.RevocationListEntry{SerialNumber: serialNumber(serial), RevocationTime: time.UnixMilli(when[serial])})
	}
	return entries
}

// preview returns what an order to revoke would lead to now, and the number of
// that list.
func (l *ledger) preview(o *issuance.SignedOrder, now time.Time) (outcome, uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.after(o, now.UnixMilli()), l.next(now)
}

// operators returns the entries that are there by operators' orders alone.
func (o *outcome) operators() (list []wire.Revoked) {
	for _, r := range o.list {
		if o.theirs[subjectOf(r)] {
			list = append(list, r)
		}
	}
	return list
}

// behind reports whether now is too far before the time of an order that was
// carried out: an auditor would take the entry for a replay.
func (l *ledger) behind(now time.Time) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return now.UnixMilli() < l.latest-issuance.MaxFall.Milliseconds()
}

// carry takes note of what provisioning issued. It stands in no journal of the
// issuer's.
func (l *ledger) carry(all []certificate) {
	newest := make(map[string]*certificate)
	for i := range all {
		if c := newest[all[i].sender]; c == nil || c.notBefore < all[i].notBefore {
			newest[all[i].sender] = &all[i]
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.carried = newest
}
