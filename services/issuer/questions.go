package issuer

import (
	"crypto/x509"
	"slices"
	"time"

	"levee/internal/issuance"
	"levee/internal/wire"
	"levee/pki"
)

// What an issuer asks of its ledger before it decides.

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

// revokedWhole reports whether an identity is revoked, and has no certificate
// since that this issuer knows of: a readmission could help it to nothing.
func (l *ledger) revokedWhole(sender string) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	before := l.before[sender]
	if before == 0 {
		return false
	}
	counts := func(c *certificate) bool {
		if c == nil || c.sender != sender || c.notBefore < before {
			return false
		}
		_, single := l.single[c.serial]
		return !single
	}
	if counts(l.newest[sender]) || counts(l.carried[sender]) {
		return false
	}
	for _, c := range l.serials {
		if counts(c) {
			return false
		}
	}
	return true
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

// behind reports whether now is too far before the time of an order that was
// carried out: an auditor would take the entry for a replay.
func (l *ledger) behind(now time.Time) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return now.UnixMilli() < l.latest-issuance.MaxFall.Milliseconds()
}

// refuses reports whether an order comes too far before one that was carried
// out, and does not take the time back.
func (l *ledger) refuses(o *issuance.SignedOrder, now time.Time) bool {
	if !l.behind(now) {
		return false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return !o.TakesBack(now.UnixMilli(), l.latest)
}

// endedSince reports whether the clock is behind, and a certificate had ended at
// the time of an order that was carried out, whatever the clock says of it now.
func (l *ledger) endedSince(leaf *x509.Certificate, now time.Time) bool {
	if !l.behind(now) {
		return false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return leaf.NotAfter.UnixMilli() < l.latest
}

// holds returns until when a sender has a certificate of this journal that
// counts, 0 if it has none.
func (l *ledger) holds(sender string, now time.Time) (until int64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	c := l.newest[sender]
	if c == nil || c.notAfter <= now.UnixMilli() || c.notBefore < l.before[sender] {
		return 0
	}
	if _, revoked := l.single[c.serial]; revoked {
		return 0
	}
	return c.notAfter
}

// knows reports whether a sender ever had a certificate, of this journal or of
// provisioning's, or is on the list.
func (l *ledger) knows(sender string) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.newest[sender] != nil || l.carried[sender] != nil ||
		slices.ContainsFunc(l.list, func(r wire.Revoked) bool { return r.Sender == sender })
}

// admitsAlready reports whether readmissions in force let whoever an order names
// renew, for half of what the order would at least.
func (l *ledger) admitsAlready(o *issuance.SignedOrder, now time.Time) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	at := now.Add(admission / 2).UnixMilli()
	if o.All {
		return slices.ContainsFunc(l.admits, func(r *readmission) bool { return r.all && at < r.until && len(r.used) == 0 })
	}
	for _, target := range o.Targets {
		if !slices.ContainsFunc(l.admits, func(r *readmission) bool { return r.targets[target] && at < r.until && !r.used[target] }) {
			return false
		}
	}
	return true
}
