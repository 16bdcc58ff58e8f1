// Package revocation knows which certificates of a site no longer count: it
// verifies the lists that the site's issuer signs, keeps the newest, and
// answers from it at once.
//
// It guarantees that what it applies was signed by a certificate of role issuer
// of that very site, with the key that the site document pins for it, that a
// list never makes way for one of a lower number, or for another one of the same
// number, and that both hold across restarts: the newest list is kept on disk as
// it was signed, and verified again when it is read, but for the pin, by which it
// was judged when it came. Whoever asks while a list is applied gets the answer of
// the old list or of the new one. One exception: a list from the future, of clocks
// that were ahead, makes way for one of a lower number that revokes all that it
// does.
//
// It does not guarantee that it knows everything: whoever stands in between can
// withhold lists. So it says how old the newest is, and raises an alarm once it
// is stale; it stops nothing by itself. It believes what the issuer says, also
// of the issuer itself. Where the site document pins no issuer it believes
// nobody: whoever holds the site's machine CA can make one.
package revocation

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"levee/envelope"
	"levee/internal/durable"
	"levee/internal/wire"
	"levee/pki"
)

// FileName is where the newest list is in a part's state directory.
const FileName = "revocations"

// MaxAge is how old the newest list may be. Issuers publish each minute.
const MaxAge = 5 * time.Minute

// Document says which keys are pinned; *site.Document is one.
type Document interface {
	Pinned(sender string, leaf *x509.Certificate) (match, pinned bool)
}

// Config is what a Set needs. All fields are required.
type Config struct {
	Site     string
	Verifier envelope.ChainVerifier // below the root
	Document Document
	File     string        // where the newest list is kept
	Skew     time.Duration // how far from our clock a list may be
	Log      *slog.Logger
}

// Set is the newest list. It is safe for concurrent use.
type Set struct {
	config Config
	opened time.Time

	applying sync.Mutex // so that an older list never replaces a newer one
	current  atomic.Pointer[list]

	mu      sync.Mutex
	changed chan struct{} // closed by the next change

	syncing sync.Mutex
	saved   *list // what is in the file
}

// list is one list as its readers need it. It never changes.
type list struct {
	raw     []byte // the whole message; nil before the first one came
	signer  pki.Identity
	leaf    *x509.Certificate // the signer's
	number  uint64
	time    int64 // ts of the message
	revoked []wire.Revoked
	senders map[string]wire.Revoked
	serials map[wire.ID]bool
}

// Open reads the list that was kept, if there is one. One that does not hold
// any more is reported and passed over: a bad file must not keep a part from
// starting, and the next list is a minute away.
func Open(c Config, now time.Time) (*Set, error) {
	if !pki.ValidSite(c.Site) || c.Verifier == nil || c.Document == nil || c.File == "" || c.Skew <= 0 || c.Log == nil {
		return nil, errors.New("opening revocations: one of site, verifier, document, file, skew, logger is missing")
	}
	s := &Set{config: c, opened: now, changed: make(chan struct{})}
	s.current.Store(new(list))
	s.saved = s.current.Load()
	raw, err := durable.ReadFile(c.File, envelope.MaxMessage)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening revocations: %w", err)
	}
	kept, err := s.verify(raw)
	if err != nil {
		c.Log.Error("the kept revocations do not hold; nothing is revoked until a new list comes",
			slog.String("file", c.File), slog.Any("error", err))
		return s, nil
	}
	s.saved = kept
	s.current.Store(kept)
	c.Log.Info("revocations read", slog.Uint64("number", kept.number), slog.Int("entries", len(kept.revoked)),
		slog.Duration("age", now.Sub(time.UnixMilli(kept.time)).Round(time.Second)))
	return s, nil
}

// Apply verifies a signed message of revocations, whoever hands it over, and
// puts its list in force. changed says whether anything is revoked now that was
// not, or the reverse: most lists repeat the one before. Every error wraps an
// envelope.Reason.
//
// The list must be fresh: a key whose certificate has ended could sign lists of
// the time when it had not.
func (s *Set) Apply(raw []byte, now time.Time) (changed bool, err error) {
	if changed, err = s.apply(raw, now); err != nil {
		return false, fmt.Errorf("applying revocations: %w", err)
	}
	return changed, nil
}

func (s *Set) apply(raw []byte, now time.Time) (changed bool, err error) {
	fresh, err := s.verify(raw)
	if err != nil {
		return false, err
	}
	switch skew := s.config.Skew.Milliseconds(); {
	case fresh.time > now.UnixMilli()+skew:
		return false, refuse(envelope.Future, "it is from the future")
	case fresh.time < now.UnixMilli()-skew:
		return false, refuse(envelope.Stale, "it is stale")
	}
	// An issuer that is not pinned is none: whoever holds the machine CA makes
	// issuers of any name.
	if match, _ := s.config.Document.Pinned(fresh.signer.Sender(), fresh.leaf); !match {
		return false, refuse(envelope.BadPin, "it is signed with a key that the site document does not pin for "+fresh.signer.Sender())
	}
	s.applying.Lock()
	defer s.applying.Unlock()
	old := s.current.Load()
	if old.covers(fresh.signer, fresh.leaf) {
		return false, refuse(envelope.Revoked, "the certificate of "+fresh.signer.Sender()+" is revoked")
	}
	same := slices.Equal(fresh.revoked, old.revoked)
	ahead := old.time > now.UnixMilli()+s.config.Skew.Milliseconds()
	switch {
	case ahead && fresh.number < old.number && fresh.repeats(old):
		s.config.Log.Error("a list of revocations from the future made way for one of a lower number: clocks were ahead when it was signed",
			slog.Uint64("number", fresh.number), slog.Uint64("before", old.number), slog.Time("signed", time.UnixMilli(old.time)))
	case fresh.number < old.number:
		return false, refuse(envelope.BadContent, fmt.Sprintf("it is number %d, and number %d is in force", fresh.number, old.number))
	case fresh.number == old.number && !same:
		return false, refuse(envelope.BadContent, fmt.Sprintf("number %d is in force with other entries", old.number))
	case fresh.number == old.number && fresh.time <= old.time && !ahead:
		return false, nil
	}
	s.current.Store(fresh)
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	return !same, nil
}

// Changed returns a channel that is closed when the next list is in force. Take
// it before looking, so that nothing is missed.
func (s *Set) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Revoked reports whether leaf, a verified certificate of id, is revoked.
func (s *Set) Revoked(id pki.Identity, leaf *x509.Certificate) bool {
	return s.current.Load().covers(id, leaf)
}

// covers reports whether the list revokes a certificate.
func (l *list) covers(id pki.Identity, leaf *x509.Certificate) bool {
	if len(l.revoked) == 0 {
		return false
	}
	if r, ok := l.senders[id.Sender()]; ok && leaf.NotBefore.UnixMilli() < r.Before {
		return true
	}
	var serial wire.ID
	if leaf.SerialNumber.BitLen() > 8*len(serial) {
		return false // no list can name it
	}
	leaf.SerialNumber.FillBytes(serial[:])
	return l.serials[serial]
}

// repeats reports whether the list revokes whatever old does. The times may
// differ: those of old may be of a clock that was ahead.
func (l *list) repeats(old *list) bool {
	for _, r := range old.revoked {
		again, ok := l.senders[r.Sender]
		if r.Sender == "" {
			ok = l.serials[r.Serial]
		}
		if !ok || again.Generation < r.Generation {
			return false
		}
	}
	return true
}

// MinimumGeneration returns the lowest generation of the key of sender
// (site/role/name) whose messages count, 0 if the list asks for none. The site
// document may ask for more.
func (s *Set) MinimumGeneration(sender string) uint32 {
	return s.current.Load().senders[sender].Generation
}

var _ pki.Revocations = (*Set)(nil)

// Number returns the number of the list in force, 0 if none ever came.
func (s *Set) Number() uint64 { return s.current.Load().number }

// Stale returns how old the newest list is, and whether that is too old: a list
// from the future is, because then this clock or the issuer's is wrong. Where
// none ever came it counts from Open.
func (s *Set) Stale(now time.Time) (age time.Duration, stale bool) {
	since := s.opened
	if l := s.current.Load(); l.raw != nil {
		since = time.UnixMilli(l.time)
	}
	age = now.Sub(since)
	return age, age > MaxAge || age < -s.config.Skew
}

// Sync makes the list in force durable. Apply does not wait for that: to revoke
// must not depend on a disk.
func (s *Set) Sync() error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	l := s.current.Load()
	if l == s.saved {
		return nil
	}
	if err := durable.WriteFile(s.config.File, l.raw, 0o600); err != nil {
		return fmt.Errorf("keeping revocations: %w", err)
	}
	s.saved = l
	return nil
}
