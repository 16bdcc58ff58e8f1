package issuer

import (
	"cmp"
	"crypto/x509"
	"maps"
	"slices"
	"time"

	"levee/internal/issuance"
	"levee/internal/wire"
	"levee/pki"
)

const (
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
	targets, back := o.Targets, o.TakesBack(at, l.latest)
	for _, target := range targets {
		generations[target] = o.Generation
	}
	for _, r := range l.list {
		// The clocks were ahead when these were revoked: as if it were now.
		if back && r.Before > at && !slices.Contains(o.Targets, r.Sender) {
			targets = append(slices.Clip(targets), r.Sender)
		}
	}
	for _, target := range targets {
		next.before[target] = at
		if back {
			continue // what was dated ahead goes by its serial number alone
		}
		// A certificate that this clock, or the clock before a correction,
		// dated ahead is meant as well.
		next.before[target] = max(at, l.before[target])
		if c := l.newest[target]; c != nil {
			next.before[target] = max(next.before[target], c.notBefore+1000)
		}
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
	for _, target := range targets {
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

// preview returns what an order to revoke would lead to now, and the number of
// that list.
func (l *ledger) preview(o *issuance.SignedOrder, now time.Time) (outcome, uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	at := now.UnixMilli()
	if o.TakesBack(at, l.latest) {
		return l.after(o, at), uint64(at) // parts refuse a number of the time that the clocks were at
	}
	return l.after(o, at), l.next(now)
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
