package pki

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"levee/internal/durable"
)

// Store holds the current credential of one identity and replaces it while
// connections are running. It is safe for concurrent use.
type Store struct {
	keyFile, chainFile string
	renewedFile        string // "": this one is not renewed
	verifier           *Verifier
	identity           Identity

	replacing sync.Mutex // so that an older reading never replaces a newer one; and of the next key
	current   atomic.Pointer[holding]
}

// holding is a credential, verified, and who waits for the next one.
type holding struct {
	credential *Credential
	identity   Identity
	bundles    bool          // it is not a renewed one
	replaced   chan struct{} // closed by the next one
}

// OpenStore loads the credential of the two files (see LoadCredential) and
// verifies it now: a credential that no peer would accept is an error here and
// not a riddle in another machine's log.
func OpenStore(keyFile, chainFile string, v *Verifier) (*Store, error) {
	return openStore(&Store{keyFile: keyFile, chainFile: chainFile, verifier: v})
}

// OpenRenewable is OpenStore for a credential that is renewed. Replace keeps
// the newer one in renewedFile, which need not exist, and the one before beside
// it. Of all that is there the store holds the one that was issued last and is
// valid now: clocks may have been ahead when the newest was issued, and be right
// again. If none is valid, one that has only expired is held: whoever shall renew
// it, or be readmitted, must be able to start.
func OpenRenewable(keyFile, chainFile, renewedFile string, v *Verifier) (*Store, error) {
	if renewedFile == "" {
		return nil, errors.New("opening credential: no file for the renewed one")
	}
	return openStore(&Store{keyFile: keyFile, chainFile: chainFile, renewedFile: renewedFile, verifier: v})
}

func openStore(s *Store) (*Store, error) {
	if s.verifier == nil {
		return nil, errors.New("opening credential: no verifier")
	}
	h, err := s.load(time.Now())
	if err != nil {
		return nil, fmt.Errorf("opening credential: %w", err)
	}
	s.identity = h.identity
	s.current.Store(h)
	return s, nil
}

// Identity returns whose credential the store holds. It never changes.
func (s *Store) Identity() Identity { return s.identity }

// Current returns the credential to use now. It is never nil.
func (s *Store) Current() *Credential { return s.current.Load().credential }

// Watch returns the credential to use now, and a channel that is closed when
// another one takes its place.
func (s *Store) Watch() (*Credential, <-chan struct{}) {
	h := s.current.Load()
	return h.credential, h.replaced
}

// Reload reads the files again. On an error, and when the new credential is
// another identity's, the store keeps what it has.
func (s *Store) Reload() error {
	s.replacing.Lock()
	defer s.replacing.Unlock()
	return s.reload(time.Now())
}

func (s *Store) reload(now time.Time) error {
	h, err := s.load(now)
	if err != nil {
		return fmt.Errorf("reloading credential: %w", err)
	}
	if h.identity != s.identity {
		return fmt.Errorf("reloading credential: it is of %s instead of %s", h.identity, s.identity)
	}
	old := s.current.Load()
	if h.credential.leaf.Equal(old.credential.leaf) {
		return nil
	}
	s.current.Store(h)
	close(old.replaced)
	return nil
}

// Replace keeps the renewed credential of key and chain (PEM, as LoadCredential
// reads them) on disk, at once or not at all, and uses it from then on. On an
// error the store keeps what it has, and NextKey its key; the disk may hold the
// one or the other.
func (s *Store) Replace(key, chain []byte) error {
	if s.renewedFile == "" {
		return errors.New("replacing credential: this one is not renewed")
	}
	s.replacing.Lock()
	defer s.replacing.Unlock()
	now := time.Now()
	credential, err := ParseCredential(key, chain)
	if err != nil {
		return fmt.Errorf("replacing credential: %w", err)
	}
	id, err := s.verifier.Verify(credential.leaf, credential.issuer, UsageSign, now)
	switch {
	case err != nil:
		return fmt.Errorf("replacing credential: %w", err)
	case id != s.identity:
		return fmt.Errorf("replacing credential: it is of %s instead of %s", id, s.identity)
	case credential.leaf.NotAfter.Before(s.Current().leaf.NotAfter):
		return fmt.Errorf("replacing credential: %w", ErrEndsEarlier)
	}
	if err := s.keepPrevious(credential, now); err != nil {
		return fmt.Errorf("replacing credential: %w", err)
	}
	if err := durable.WriteFile(s.renewedFile, slices.Concat(key, chain), 0o600); err != nil {
		return fmt.Errorf("replacing credential: %w", err)
	}
	if err := s.reload(now); err != nil {
		return err
	}
	// One that stays is of no harm: NextKey knows that it is in use, and Sweep
	// removes it.
	_ = durable.Remove(s.beside(fileNextKey))
	return nil
}

// keepPrevious keeps the renewed credential before next takes its file: should our
// clock be ahead, next is not valid yet once it is right, and the bundle's may
// have ended.
func (s *Store) keepPrevious(next *Credential, now time.Time) error {
	old, err := readRenewed(s.renewedFile)
	if h := s.current.Load(); err != nil && !h.bundles {
		old = h.credential
	}
	if old == nil || old.leaf.Equal(next.leaf) {
		return nil
	}
	if _, err := s.verify(old, now); err != nil {
		return nil // not valid yet: what was kept before it still counts
	}
	key, chain, err := MarshalCredential(old.key(), old.leaf, old.issuer)
	if err != nil {
		return fmt.Errorf("keeping the one before: %w", err)
	}
	if err := durable.WriteFile(s.beside(filePrevious), slices.Concat(key, chain), 0o600); err != nil {
		return fmt.Errorf("keeping the one before: %w", err)
	}
	return nil
}

// ErrEndsEarlier is the refusal of a credential that would end before the one
// it replaces.
var ErrEndsEarlier = errors.New("it ends earlier than the one it would replace")

// What lies beside the renewed credential.
const (
	fileNextKey  = "renewing.key"
	filePrevious = "renewed.previous"
)

func (s *Store) beside(name string) string {
	return filepath.Join(filepath.Dir(s.renewedFile), name)
}

// NextKey returns the key to ask for the next credential with: the same until
// Replace has succeeded or ForgetNextKey gives it up, through restarts as well.
// An answer that was lost can then be asked for again. It is on disk before it
// is returned. What holds no key of ours is replaced by a new one; where the
// reading itself fails there may be one, and that is an error.
func (s *Store) NextKey() (crypto.Signer, error) {
	if s.renewedFile == "" {
		return nil, errors.New("making the next key: this credential is not renewed")
	}
	s.replacing.Lock()
	defer s.replacing.Unlock()
	key, err := NewKey(s.identity.Role)
	if err != nil {
		return nil, fmt.Errorf("making the next key: %w", err)
	}
	kept, err := ReadKey(s.beside(fileNextKey))
	switch failed := (*fs.PathError)(nil); {
	case err == nil && fitsRole(kept, key) && !samePublic(kept, s.Current().leaf.PublicKey):
		return kept, nil
	case errors.As(err, &failed) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("reading the next key: %w", err)
	}
	b, err := MarshalKey(key)
	if err != nil {
		return nil, fmt.Errorf("making the next key: %w", err)
	}
	if err := durable.WriteFile(s.beside(fileNextKey), b, 0o600); err != nil {
		return nil, fmt.Errorf("keeping the next key: %w", err)
	}
	return key, nil
}

// ForgetNextKey gives up the key that NextKey keeps: nothing will come of it.
func (s *Store) ForgetNextKey() error {
	if s.renewedFile == "" {
		return nil
	}
	s.replacing.Lock()
	defer s.replacing.Unlock()
	if err := durable.Remove(s.beside(fileNextKey)); err != nil {
		return fmt.Errorf("forgetting the next key: %w", err)
	}
	return nil
}

// Sweep removes what a renewal that was cut short left: copies of keys that
// nobody needs. Only whoever renews this credential may call it.
func (s *Store) Sweep() error {
	if s.renewedFile == "" {
		return nil
	}
	s.replacing.Lock()
	defer s.replacing.Unlock()
	if kept, err := ReadKey(s.beside(fileNextKey)); err == nil && samePublic(kept, s.Current().leaf.PublicKey) {
		if err := durable.Remove(s.beside(fileNextKey)); err != nil {
			return fmt.Errorf("sweeping: %w", err)
		}
	}
	dir := filepath.Dir(s.renewedFile)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sweeping: %w", err)
	}
	for _, e := range entries {
		if of, ok := durable.Leftover(e.Name()); ok && (of == fileNextKey || of == filePrevious || of == filepath.Base(s.renewedFile)) {
			if err := durable.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("sweeping: %w", err)
			}
		}
	}
	return nil
}

// fitsRole reports whether a key that was kept is of the kind of fresh, which
// NewKey made for the role.
func fitsRole(kept, fresh crypto.Signer) bool {
	a, ok := kept.(*ecdsa.PrivateKey)
	b, want := fresh.(*ecdsa.PrivateKey)
	return ok == want && (!ok || a.Curve == b.Curve)
}

func samePublic(key crypto.Signer, public crypto.PublicKey) bool {
	own, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && own.Equal(public)
}

// load returns the credential that was issued last of those that are valid now,
// and if none is, of those that have only expired.
func (s *Store) load(now time.Time) (*holding, error) {
	issued, err := LoadCredential(s.keyFile, s.chainFile)
	if err != nil {
		return nil, err
	}
	found, errs := []*Credential{issued}, []error(nil)
	if s.renewedFile != "" {
		for _, file := range []string{s.renewedFile, s.beside(filePrevious)} {
			c, err := readRenewed(file)
			if errs = append(errs, err); c != nil {
				found = append(found, c)
			}
		}
	}
	h := &holding{replaced: make(chan struct{})}
	for _, c := range found {
		id, err := s.verify(c, now)
		if err != nil {
			errs = append(errs, err)
		} else if h.credential == nil || c.goesBefore(h.credential, now) {
			h.credential, h.identity, h.bundles = c, id, c == issued
		}
	}
	if h.credential == nil {
		return nil, errors.Join(errs...)
	}
	return h, nil
}

// goesBefore reports whether c is to be used rather than other.
func (c *Credential) goesBefore(other *Credential, now time.Time) bool {
	if ended := now.After(c.leaf.NotAfter); ended != now.After(other.leaf.NotAfter) {
		return !ended
	}
	return c.leaf.NotBefore.After(other.leaf.NotBefore)
}

// verify verifies a credential as of now or, if it may be renewed, as of its
// last moment.
func (s *Store) verify(c *Credential, now time.Time) (Identity, error) {
	if s.renewedFile != "" && now.After(c.leaf.NotAfter) {
		now = c.leaf.NotAfter
	}
	return s.verifier.Verify(c.leaf, c.issuer, UsageSign, now)
}

// readRenewed reads key and chain from one file. It returns nil if there is none,
// or nothing whole in it.
func readRenewed(path string) (*Credential, error) {
	b, err := readFile(path, maxKeyFile+maxChainFile, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading renewed credential: %w", err)
	}
	block, chain := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("reading renewed credential %s: no PEM", path)
	}
	c, err := ParseCredential(b[:len(b)-len(chain)], chain)
	if err != nil {
		return nil, fmt.Errorf("reading renewed credential %s: %w", path, err)
	}
	return c, nil
}
