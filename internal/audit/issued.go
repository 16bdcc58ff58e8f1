package audit

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"levee/internal/issuance"
	"levee/internal/records"
	"levee/internal/translog/leaf"
	"levee/internal/wire"
	"levee/pki"
)

// registry is what the log holds of the journals of what was issued and
// revoked. Of a line that was verified it keeps the hash alone, and that of its
// certificate.
type registry struct {
	journals map[journalKey]*journal
	lines    map[[sha256.Size]byte]struct{}
	issued   map[[sha256.Size]byte]struct{}
	known    map[pki.Class]bool // authorities of which the log holds an issuance
	senders  map[string][]revocation
	serials  map[wire.ID]int64 // when the first of its revocations was carried out, ms since the epoch

	signers []signer
	bySum   map[[sha256.Size]byte]int32
}

// journalKey names a journal of the site.
type journalKey struct {
	class pki.Class
	name  string
}

// journal is one journal, read as far as the log holds it in order.
type journal struct {
	check  *issuance.Checker
	newest map[string]int64 // by sender: from when its last certificate counts, ms since the epoch
	// ahead are lines that came before one that they follow, by their index.
	ahead map[uint64]line
}

// line is a journal's line and the entry of the log that holds it.
type line struct {
	issuance.Entry
	index    int64
	received int64 // ms since the epoch
	kind     leaf.Kind
}

// revocation ends the certificates of a sender that count from before `before`.
type revocation struct {
	At     int64 `json:"at"` // ms since the epoch
	Before int64 `json:"before"`
}

// signer is a certificate that signed a message.
type signer struct {
	id        pki.Identity
	sum       [sha256.Size]byte
	serial    wire.ID
	notBefore int64  // ms since the epoch
	where     string // its first message is
	received  int64  // when that was received, ms since the epoch
	messages  int
	last      sighting
	recent    []sighting // the newest, by no more than maxSightings
}

// sighting is a message that a certificate signed.
type sighting struct {
	Time  int64 `json:"ts"`    // ms since the epoch
	Index int64 `json:"index"` // of the entry
}

const (
	// maxAhead bounds the lines that may wait for one before them. A recorder
	// puts lines down out of order only when it crashes while it writes a few.
	maxAhead = 1024
	// maxJournals bounds the journals of a site: two of the deployer's, and one
	// of each issuer that it ever had.
	maxJournals = 256
	// maxSightings bounds what is remembered of each signer until it is known
	// whether its certificate was revoked before: two hours of digests, far more
	// than the import of a journal may take.
	maxSightings = 128
)

func newRegistry() *registry {
	return &registry{journals: make(map[journalKey]*journal), lines: make(map[[sha256.Size]byte]struct{}), issued: make(map[[sha256.Size]byte]struct{}),
		known: make(map[pki.Class]bool), senders: make(map[string][]revocation), serials: make(map[wire.ID]int64), bySum: make(map[[sha256.Size]byte]int32)}
}

func (a *audit) authority(class pki.Class) pki.Authority {
	return pki.Authority{TrustDomain: a.Verifier.TrustDomain(), Site: a.Document.Site, Class: class}
}

// journalErrorf says what is wrong with a line of a journal.
func journalErrorf(format string, args ...any) error {
	return asKind(KindJournal, fmt.Errorf(format, args...))
}

// checkLine checks an entry that holds a line of a journal.
func (a *audit) checkLine(index int64, l leaf.Leaf) error {
	e, err := issuance.ReadEntry(l.Data)
	if err != nil {
		return asKind(KindJournal, err)
	}
	if e.Authority.Site != a.Document.Site {
		return journalErrorf("it is a line of %s, another site", e.Authority.Site)
	}
	key := journalKey{e.Authority.Class, e.Journal}
	j := a.registry.journals[key]
	if j == nil {
		if len(a.registry.journals) == maxJournals {
			return journalErrorf("it is of one journal more than a site can have")
		}
		j = &journal{check: a.lines(key, issuance.Position{}), newest: make(map[string]int64), ahead: make(map[uint64]line)}
		a.registry.journals[key] = j
	}
	here := line{e, index, l.Received, l.Kind}
	switch at := j.check.Position().Lines; {
	case e.Index < at:
		_, same := a.registry.lines[sha256.Sum256(e.Raw)]
		return a.twice(here, same)
	case e.Index == at:
		err := a.accept(key, j, here)
		a.drain(key, j)
		return err
	}
	if other, ok := j.ahead[e.Index]; ok {
		return a.twice(here, bytes.Equal(other.Raw, e.Raw))
	}
	j.ahead[e.Index] = here
	if len(j.ahead) > maxAhead {
		a.skip(key, j)
	}
	return nil
}

func (a *audit) lines(key journalKey, at issuance.Position) *issuance.Checker {
	return issuance.NewChecker(a.Root, a.Verifier, a.authority(key.class), key.name, at)
}

// twice says what a line is whose place was taken before.
func (a *audit) twice(l line, same bool) error {
	if same {
		return journalErrorf("line %d of journal %s is in the log twice", l.Index, l.Journal)
	}
	return journalErrorf("journal %s has two lines of index %d: there are two histories of what %s issued", l.Journal, l.Index, a.authority(l.Authority.Class).Host())
}

// accept verifies the line that follows. One that is wrong vouches for nothing,
// and the next is read as if it followed.
func (a *audit) accept(key journalKey, j *journal, l line) error {
	sum := sha256.Sum256(l.Raw)
	a.registry.lines[sum] = struct{}{}
	e, err := j.check.Next(l.Raw)
	if err == nil && (e.Kind == issuance.Issuance) != (l.kind == leaf.KindIssuance) {
		err = fmt.Errorf("it is logged as %s", l.kind)
	}
	if err == nil {
		err = a.registry.apply(j, e, a.report)
	}
	if err != nil {
		j.check = a.lines(key, issuance.Position{Lines: l.Index + 1, Last: base64.RawURLEncoding.EncodeToString(sum[:])})
		return asKind(KindJournal, err)
	}
	return nil
}

// drain accepts what has waited for the line that came last.
func (a *audit) drain(key journalKey, j *journal) {
	for {
		l, ok := j.ahead[j.check.Position().Lines]
		if !ok {
			return
		}
		delete(j.ahead, l.Index)
		if err := a.accept(key, j, l); err != nil {
			a.report.find(inLog, KindJournal, entryName(l.index), "%v", err)
		}
	}
}

// skip gives up the lines that are missing before the first that waits.
func (a *audit) skip(key journalKey, j *journal) {
	next := j.next()
	a.report.find(inLog, KindJournal, entryName(next.index), "lines %d to %d of journal %s are not in the log, and line %d is", j.check.Position().Lines, next.Index-1, key.name, next.Index)
	j.check = a.lines(key, issuance.Position{Lines: next.Index, Last: next.Previous})
	a.drain(key, j)
}

// next returns the first line that waits.
func (j *journal) next() line { return j.ahead[slices.Min(slices.Collect(maps.Keys(j.ahead)))] }

// finishJournals names the lines that are missing although later ones came, but
// for what came last: a recorder at work may be writing it, in another order.
func (a *audit) finishJournals() {
	keys := slices.SortedFunc(maps.Keys(a.registry.journals), func(x, y journalKey) int {
		return cmp.Or(cmp.Compare(x.class, y.class), cmp.Compare(x.name, y.name))
	})
	for _, key := range keys {
		for j := a.registry.journals[key]; len(j.ahead) > 0 && j.next().received < a.logged-inHand.Milliseconds(); {
			a.skip(key, j)
		}
	}
}

// apply takes note of an entry that was verified.
func (r *registry) apply(j *journal, e issuance.Entry, report *Report) error {
	switch e.Kind {
	case issuance.Issuance:
		report.Issued++
		r.known[e.Authority.Class] = true
		r.issued[sha256.Sum256(e.Certificate.Raw)] = struct{}{}
		if id, err := pki.ParseIdentity(e.Certificate.URIs[0].String(), e.Authority.TrustDomain); err == nil { // Next has verified it
			j.newest[id.Sender()] = e.Certificate.NotBefore.UnixMilli()
		}
		return nil
	case issuance.Readmission:
		report.Readmitted++
		return nil
	}
	order, err := issuance.ReadOrder(e.Order, e.Authority)
	if err != nil {
		return err
	}
	report.Revoked++
	for _, target := range order.Targets {
		before := e.Time
		if newest, ok := j.newest[target]; ok {
			before = max(before, newest+1000) // certificates count in seconds
		}
		r.senders[target] = append(r.senders[target], revocation{e.Time, before})
	}
	for _, text := range order.Serials {
		var serial wire.ID
		if err := serial.UnmarshalText([]byte(text)); err != nil {
			return err
		}
		if at, ok := r.serials[serial]; !ok || e.Time < at {
			r.serials[serial] = e.Time
		}
	}
	return nil
}

// revoked returns when the first revocation that covers s was carried out; false
// if none was.
func (r *registry) revoked(s *signer) (at int64, ok bool) {
	at, ok = r.serials[s.serial]
	for _, v := range r.senders[s.id.Sender()] {
		if s.notBefore < v.Before && (!ok || v.At < at) {
			at, ok = v.At, true
		}
	}
	return at, ok
}

// signed notes that cert signed a message, and returns its signer.
func (r *registry) signed(id pki.Identity, cert *x509.Certificate, where func() string, received int64) *signer {
	sum := sha256.Sum256(cert.Raw)
	n, ok := r.bySum[sum]
	if !ok {
		n = int32(len(r.signers))
		s := signer{id: id, sum: sum, notBefore: cert.NotBefore.UnixMilli(), where: where(), received: received}
		if cert.SerialNumber.BitLen() <= 8*len(s.serial) {
			cert.SerialNumber.FillBytes(s.serial[:])
		}
		r.signers, r.bySum[sum] = append(r.signers, s), n
	}
	r.signers[n].messages++
	return &r.signers[n]
}

// see remembers a message of the log.
func (s *signer) see(at sighting) {
	if at.Time >= s.last.Time {
		s.last = at
	}
	if len(s.recent) >= 2*maxSightings {
		s.recent = append(s.recent[:0], s.recent[maxSightings:]...)
	}
	s.recent = append(s.recent, at)
}

// checkIssued holds every certificate that signed a message against what was
// issued.
func (a *audit) checkIssued() {
	unknown := make(map[string]bool)
	for i := range a.registry.signers {
		s := &a.registry.signers[i]
		class := s.id.Role.Class()
		_, issued := a.registry.issued[s.sum]
		switch {
		case issued:
		case !a.registry.known[class]:
			unknown[a.authority(class).Host()] = true
		case s.received+records.ImportOverdue.Milliseconds() > a.latest:
			a.report.AwaitingIssuance++
		default:
			a.report.find(between, KindNotIssued, s.where, "no journal has the certificate %s (SHA-256) of %s, which signed %d messages from here on: it was not issued",
				hex.EncodeToString(s.sum[:]), s.id.Sender(), s.messages)
		}
	}
	a.report.WithoutJournal = slices.Sorted(maps.Keys(unknown))
	if a.report.WithoutJournal == nil {
		a.report.WithoutJournal = []string{} // null is nothing to count
	}
}

// checkRevoked names the messages of the log that were signed after their
// certificate was revoked. Of a revocation that came to the log so late that
// not all are remembered, it names the last.
func (a *audit) checkRevoked() {
	type late struct {
		sighting
		*signer
		at int64
	}
	var all []late
	for i := range a.registry.signers {
		s := &a.registry.signers[i]
		found := false
		for _, m := range s.recent {
			if at, ok := a.after(s, m.Time); ok {
				all, found = append(all, late{m, s, at}), true
			}
		}
		if at, ok := a.after(s, s.last.Time); ok && !found {
			all = append(all, late{s.last, s, at})
		}
	}
	slices.SortFunc(all, func(x, y late) int { return cmp.Compare(x.Index, y.Index) })
	for _, l := range all {
		a.findRevoked(entryName(l.Index), l.signer, l.Time, l.at)
	}
}

// after reports whether what a certificate signed at the time ts was signed after
// its revocation, at, by more than clocks may differ.
func (a *audit) after(s *signer, ts int64) (at int64, ok bool) {
	at, ok = a.registry.revoked(s)
	return at, ok && ts > at+a.Policy.Skew().Milliseconds()
}

func (a *audit) findRevoked(where string, s *signer, ts, at int64) {
	a.report.find(between, KindRevoked, where, "of %s: it was signed at %s, and its certificate was revoked at %s", s.id.Sender(), clock(ts), clock(at))
}
