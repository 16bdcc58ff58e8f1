package issuer

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"levee/internal/issuance"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

// Journal keeps what was issued; *issuance.Journal is one.
type Journal interface {
	Append(r issuance.Record, now time.Time) (issuance.Entry, error)
	Read(index uint64, lines int, size int64) ([][]byte, error)
	Position() issuance.Position
}

// Publisher publishes the revocation list; *session.Session is one.
type Publisher interface {
	Publish(topic wire.Topic, payload any) error
	// Ready is closed when there is a connection for the first time.
	Ready() <-chan struct{}
}

// Pins say which keys are pinned; *site.Document is one.
type Pins interface {
	Pinned(sender string, leaf *x509.Certificate) (match, pinned bool)
}

// Credentials are the issuer's own certificate and key; *pki.Store is one.
type Credentials interface {
	Current() *pki.Credential
	// Replace keeps a key and a chain (PEM), and uses them from now on.
	Replace(key, chain []byte) error
	// Reload goes back to what is valid now of what is kept.
	Reload() error
}

// Config is what an issuer needs. All fields but More and Seen are required.
type Config struct {
	Identity  pki.Identity // the issuer's own
	Authority ca.Issuer    // of the site's machines
	Root      *x509.Certificate
	Verifier  *pki.Verifier
	Pins      Pins
	// Credentials are the issuer's own; Key returns their private key, for an
	// issuer whose key is pinned.
	Credentials Credentials
	Key         func() (crypto.Signer, error)
	// Lifetime is that of every certificate; the authority's end ends it earlier.
	Lifetime time.Duration
	// More are further certificates of this authority: those that provisioning
	// issued. The X.509 list names them once they are revoked, and a readmission of
	// all admits none that a later one of them replaced.
	More func() ([]*x509.Certificate, error)
	// Seen is told how far the journal has come.
	Seen func(issuance.Position) error
	Log  *slog.Logger
}

// Issuer decides who gets a certificate. It is safe for concurrent use.
type Issuer struct {
	config    Config
	authority pki.Authority
	ledger    *ledger
	journal   Journal
	refusals  *tally
	orders    *limiter[string] // by signer
	changed   chan struct{}    // of one: the list has changed
	issued    map[issuance.Cause]*atomic.Uint64

	deciding sync.Mutex // from looking into the ledger until the journal has it
	crl      crlCache
}

// New checks the configuration. Restore then takes every entry of the journal,
// and Continue the journal itself.
func New(c Config) (*Issuer, error) {
	switch longest := pki.MaxMachineLifetime; {
	case c.Authority.Certificate == nil || c.Authority.Signer == nil || c.Root == nil || c.Verifier == nil || c.Pins == nil ||
		c.Credentials == nil || c.Key == nil || c.Log == nil:
		return nil, errors.New("opening an issuer: authority, root, verifier, pins, credentials or logger is missing")
	case c.Lifetime <= 0 || c.Lifetime > longest:
		return nil, fmt.Errorf("opening an issuer: lifetime %s is not within %s", c.Lifetime, longest)
	case c.Identity.Role != pki.RoleIssuer:
		return nil, fmt.Errorf("opening an issuer: %s is none", c.Identity.Sender())
	case c.Identity.Name == issuance.Deployer:
		return nil, fmt.Errorf("opening an issuer: %q is the name of provisioning's journals", issuance.Deployer)
	}
	issued := make(map[issuance.Cause]*atomic.Uint64)
	for _, cause := range []issuance.Cause{issuance.CauseRenewal, issuance.CauseJoin, issuance.CauseReadmission} {
		issued[cause] = new(atomic.Uint64)
	}
	return &Issuer{config: c, issued: issued, authority: c.Identity.Authority(), ledger: newLedger(c.Identity.Authority()),
		refusals: newTally(c.Log), orders: newLimiter[string](ordersEach, ordersAtOnce), changed: make(chan struct{}, 1)}, nil
}

// Restore takes note of an entry that the journal holds already.
func (s *Issuer) Restore(e issuance.Entry) error { return s.ledger.apply(e) }

// Continue has the issuer write its entries into j, whose entries it knows.
func (s *Issuer) Continue(j Journal) {
	s.journal = j
	s.ledger.carry(s.more())
	s.ledger.prune(time.Now())
}

// refusal is an answer to somebody who gets nothing.
type refusal struct {
	status int
	reason Reason
	text   string
	retry  time.Duration // when to ask again; 0: not like this
	cause  error         // for the log alone
}

func (r *refusal) Error() string {
	if r.cause != nil {
		return fmt.Sprintf("%s: %s: %v", r.reason, r.text, r.cause)
	}
	return fmt.Sprintf("%s: %s", r.reason, r.text)
}

func refuse(status int, reason Reason, text string) *refusal {
	return &refusal{status: status, reason: reason, text: text}
}

func (r *refusal) because(err error) *refusal {
	r.cause = err
	return r
}

func (r *refusal) after(d time.Duration) *refusal {
	r.retry = d
	return r
}

// renew issues the next certificate of a peer for the key of its request. The
// identity and the names are those of the peer's certificate. Take is asked
// whether that is too often, once the request is known to be good.
func (s *Issuer) renew(ctx context.Context, p *peer, request *x509.CertificateRequest, take func() bool, now time.Time) (*x509.Certificate, error) {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	sender := p.id.Sender()
	if s.ledger.Revoked(p.id, p.leaf) {
		return nil, refuse(http.StatusForbidden, ReasonRevoked, "the certificate is revoked")
	}
	if s.ledger.endedSince(p.leaf, now) {
		// A clock that was set back would renew whatever was stolen since.
		return nil, refuse(http.StatusServiceUnavailable, ReasonExpired,
			"the certificate had ended when this issuer carried out an order: its clock was wrong then, or is now").after(time.Minute)
	}
	again, err := s.checkKey(p.id, p.leaf, request)
	if err != nil {
		return nil, err
	}
	if !take() {
		return nil, refuse(http.StatusTooManyRequests, ReasonRate, "too many renewals").after(time.Minute)
	}
	if again != nil && (now.UnixMilli() < again.notAfter || !p.expired) {
		// The answer to an earlier attempt was lost: it is given again.
		if leaf, err := s.handedOut(p.id, *again, now); leaf != nil || err != nil {
			return leaf, err
		}
	}
	cause, mayRenew := issuance.CauseRenewal, true
	if p.expired {
		cause = issuance.CauseReadmission
		// Whoever has the key of the newest certificate lost no more than the
		// answer: that one expired before it was ever used.
		_, mayRenew = s.ledger.readmitted(sender, p.leaf, again != nil, now)
	}
	if !mayRenew {
		return nil, refuse(http.StatusForbidden, ReasonExpired, "the certificate has expired, and its readmission is used or for a newer one")
	}
	if s.ledger.superseded(sender, p.leaf) {
		s.config.Log.Warn("renewed with a certificate that is not the newest: an answer was lost, or two hold this identity",
			slog.String("sender", sender))
	}
	names, err := namesOf(p.leaf)
	if err != nil {
		return nil, refuse(http.StatusForbidden, ReasonProfile, "the certificate's names cannot be renewed").because(err)
	}
	if err := awaited(ctx); err != nil {
		return nil, err
	}
	return s.issue(p.id, request, names, issuance.Record{Kind: issuance.Issuance, Cause: cause}, p.leaf, now)
}

// awaited refuses to begin an issue that nobody waits for any more. What a slow
// disk makes late would use up readmissions, and hold up those who still wait.
func awaited(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return refuse(http.StatusServiceUnavailable, ReasonJournal, "the journal is too slow").because(ctx.Err()).after(time.Minute)
}

// checkKey holds a request to the rules of keys: a new one each time, but for
// senders that are known by theirs. It returns what was issued for the very
// same key before, if that is to be handed out again.
func (s *Issuer) checkKey(id pki.Identity, leaf *x509.Certificate, request *x509.CertificateRequest) (again *certificate, err error) {
	asked := issuance.SPKIText(request.RawSubjectPublicKeyInfo)
	same := leaf != nil && asked == issuance.SPKIText(leaf.RawSubjectPublicKeyInfo)
	match, pinned := s.config.Pins.Pinned(id.Sender(), &x509.Certificate{RawSubjectPublicKeyInfo: request.RawSubjectPublicKeyInfo})
	known, newest, used := s.ledger.known(asked)
	if used && known.sender != id.Sender() {
		return nil, refuse(http.StatusForbidden, ReasonKey, "the key is another's")
	}
	if keepsKey(id.Role) || pinned {
		if pinned && !match || !pinned && leaf != nil && !same {
			return nil, refuse(http.StatusForbidden, ReasonKey, "this sender keeps its key, which the site document pins")
		}
		return nil, nil
	}
	switch {
	case same:
		return nil, refuse(http.StatusForbidden, ReasonKey, "a renewal needs a new key")
	case used && newest:
		return &known, nil
	case used:
		return nil, refuse(http.StatusForbidden, ReasonKey, "the key was used before")
	default:
		return nil, nil
	}
}

// keepsKey reports whether parts of role r are known by their key: receivers
// want it pinned.
func keepsKey(r pki.Role) bool { return r == pki.RoleMonitor || r == pki.RoleApprover }

// join issues the first certificate of the one target of a token, to whoever
// holds the key that the token names.
func (s *Issuer) join(ctx context.Context, token []byte, request *x509.CertificateRequest, now time.Time) (*x509.Certificate, error) {
	order, err := s.readOrder(token, now)
	if err != nil {
		return nil, err
	}
	s.deciding.Lock()
	defer s.deciding.Unlock()
	asked := issuance.SPKIText(request.RawSubjectPublicKeyInfo)
	switch {
	case order.Kind != issuance.Join:
		return nil, refuse(http.StatusForbidden, ReasonOrder, "the order is no token")
	case asked != order.SPKI:
		return nil, refuse(http.StatusForbidden, ReasonKey, "the token is for another key")
	}
	id := order.Identities[0]
	if order.Time <= s.ledger.revokedSince(id.Sender()) {
		return nil, refuse(http.StatusForbidden, ReasonRevoked, "the token is older than the revocation of its target")
	}
	again, err := s.checkKey(id, nil, request)
	if err != nil {
		return nil, err
	}
	if s.ledger.carriedOut(order.ID) {
		if again == nil {
			return nil, refuse(http.StatusConflict, ReasonUsed, "the token was used before")
		}
		if leaf, err := s.handedOut(id, *again, now); leaf != nil || err != nil {
			return leaf, err
		}
		return s.issue(id, request, ca.Names{}, issuance.Record{Kind: issuance.Issuance, Cause: issuance.CauseRenewal}, nil, now)
	}
	if again != nil {
		return nil, refuse(http.StatusForbidden, ReasonKey, "the key was used before")
	}
	if until := s.ledger.holds(id.Sender(), now); until != 0 && order.Leaf != nil {
		// One person would take a living machine's place.
		return nil, refuse(http.StatusForbidden, ReasonOrder, fmt.Sprintf("%s holds a certificate until %s: revoke it first, or let the people's authority sign the token",
			id.Sender(), time.UnixMilli(until).UTC().Format(time.RFC3339)))
	}
	if err := awaited(ctx); err != nil {
		return nil, err
	}
	return s.issue(id, request, ca.Names{}, issuance.Record{Kind: issuance.Issuance, Cause: issuance.CauseJoin, Order: token}, nil, now)
}

// issue makes a certificate, writes it into the journal, and only then returns it.
// One that would end before shown, which may be nil, serves nobody: its owner
// would go on with shown.
func (s *Issuer) issue(id pki.Identity, request *x509.CertificateRequest, names ca.Names, r issuance.Record, shown *x509.Certificate, now time.Time) (*x509.Certificate, error) {
	leaf, err := ca.IssueLeaf(s.config.Authority, id, request.PublicKey, names, s.config.Lifetime, now)
	if err != nil {
		return nil, refuse(http.StatusForbidden, ReasonProfile, "no certificate can be issued for this identity and key").because(err)
	}
	if since := s.ledger.revokedSince(id.Sender()); leaf.NotBefore.UnixMilli() < since {
		// It is backdated, and would be revoked before it is used.
		wait := time.UnixMilli(since).Sub(leaf.NotBefore)
		return nil, refuse(http.StatusServiceUnavailable, ReasonRevoked, "the identity was revoked just now; ask again").after(wait)
	}
	if shown != nil && leaf.NotAfter.Before(shown.NotAfter) {
		return nil, refuse(http.StatusServiceUnavailable, ReasonProfile,
			"a new certificate would end before the one that it renews").after(shown.NotAfter.Sub(leaf.NotAfter))
	}
	r.Certificate = leaf
	e, err := s.record(r, now)
	if err != nil {
		return nil, err
	}
	s.issued[r.Cause].Add(1)
	s.config.Log.Info("certificate issued", slog.String("sender", id.Sender()), slog.String("cause", string(r.Cause)),
		slog.String("serial", issuance.SerialText(leaf.SerialNumber)), slog.Time("not_after", leaf.NotAfter), slog.Uint64("entry", e.Index))
	return leaf, nil
}

// record writes an entry and lets it count.
func (s *Issuer) record(r issuance.Record, now time.Time) (issuance.Entry, error) {
	e, err := s.journal.Append(r, now)
	if err != nil {
		return issuance.Entry{}, refuse(http.StatusServiceUnavailable, ReasonJournal, "the journal cannot be written").because(err).after(time.Minute)
	}
	if err := s.ledger.apply(e); err != nil {
		// What was just decided cannot contradict itself.
		return issuance.Entry{}, refuse(http.StatusInternalServerError, ReasonJournal, "the journal contradicts itself").because(err)
	}
	return e, nil
}

// handedOut returns a certificate from its journal entry. It returns nil for one
// that is not valid yet: the clock was ahead when it was issued, its owner has no
// use for it, and gets another for the same key.
func (s *Issuer) handedOut(id pki.Identity, c certificate, now time.Time) (*x509.Certificate, error) {
	if now.UnixMilli() >= c.notAfter {
		return nil, refuse(http.StatusForbidden, ReasonKey, "the key was used before")
	}
	lines, err := s.journal.Read(c.index, 1, issuance.MaxLine)
	if err == nil && len(lines) != 1 {
		err = errors.New("the entry is gone")
	}
	var e issuance.Entry
	if err == nil {
		e, err = issuance.ReadEntry(lines[0])
	}
	if err != nil || e.Certificate == nil {
		return nil, refuse(http.StatusServiceUnavailable, ReasonJournal, "the journal cannot be read").because(err).after(time.Minute)
	}
	if s.ledger.Revoked(id, e.Certificate) {
		return nil, refuse(http.StatusForbidden, ReasonRevoked, "the certificate for this key is revoked")
	}
	if e.Certificate.CheckSignatureFrom(s.config.Authority.Certificate) != nil {
		return nil, refuse(http.StatusForbidden, ReasonKey, "the key was used before, under an authority that was replaced")
	}
	if now.Before(e.Certificate.NotBefore) {
		return nil, nil
	}
	return e.Certificate, nil
}

// namesOf returns the names by which a server is reached, from its certificate.
func namesOf(leaf *x509.Certificate) (ca.Names, error) {
	names := ca.Names{DNS: leaf.DNSNames}
	for _, ip := range leaf.IPAddresses {
		a, ok := netip.AddrFromSlice(ip)
		if !ok {
			return ca.Names{}, errors.New("an address of the wrong length")
		}
		names.IPs = append(names.IPs, a.Unmap())
	}
	return names, nil
}
