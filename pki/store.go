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

// holding is a credential and who waits for the next one.
type holding struct {
	credential *Credential
	replaced   chan struct{} // closed by the next one
}

// OpenStore loads the credential of the two files (see LoadCredential) and
// verifies it now: a credential that no peer would accept is an error here and
// not a riddle in another machine's log.
func OpenStore(keyFile, chainFile string, v *Verifier) (*Store, error) {
	return openStore(&Store{keyFile: keyFile, chainFile: chainFile, verifier: v})
}

// OpenRenewable is OpenStore for a credential that is renewed. Replace keeps
// the newer one in renewedFile, which need not exist, and of the two the store
// holds the one that was issued later, if it is good. One that has only expired
// is held as well: whoever shall renew it, or be readmitted, must be able to start.
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
	credential, id, err := s.load(time.Now())
	if err != nil {
		return nil, fmt.Errorf("opening credential: %w", err)
	}
	s.identity = id
	s.current.Store(&holding{credential: credential, replaced: make(chan struct{})})
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
	credential, id, err := s.load(now)
	if err != nil {
		return fmt.Errorf("reloading credential: %w", err)
	}
	if id != s.identity {
		return fmt.Errorf("reloading credential: it is of %s instead of %s", id, s.identity)
	}
	old := s.current.Load()
	if credential.leaf.Equal(old.credential.leaf) {
		return nil
	}
	s.current.Store(&holding{credential: credential, replaced: make(chan struct{})})
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
	if err := durable.WriteFile(s.renewedFile, slices.Concat(key, chain), 0o600); err != nil {
		return fmt.Errorf("replacing credential: %w", err)
	}
	if err := s.reload(now); err != nil {
		return err
	}
	// One that stays is of no harm: NextKey knows that it is in use, and Sweep
	// removes it.
	_ = durable.Remove(s.nextKeyFile())
	return nil
}

// ErrEndsEarlier is the refusal of a credential that would end before the one
// it replaces.
var ErrEndsEarlier = errors.New("it ends earlier than the one it would replace")

// fileNextKey lies beside the renewed credential.
const fileNextKey = "renewing.key"

func (s *Store) nextKeyFile() string {
	return filepath.Join(filepath.Dir(s.renewedFile), fileNextKey)
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
	kept, err := ReadKey(s.nextKeyFile())
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
	if err := durable.WriteFile(s.nextKeyFile(), b, 0o600); err != nil {
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
	if err := durable.Remove(s.nextKeyFile()); err != nil {
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
	if kept, err := ReadKey(s.nextKeyFile()); err == nil && samePublic(kept, s.Current().leaf.PublicKey) {
		if err := durable.Remove(s.nextKeyFile()); err != nil {
			return fmt.Errorf("sweeping: %w", err)
		}
	}
	dir := filepath.Dir(s.renewedFile)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sweeping: %w", err)
	}
	for _, e := range entries {
		if of, ok := durable.Leftover(e.Name()); ok && (of == fileNextKey || of == filepath.Base(s.renewedFile)) {
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

// load returns the credential that was issued last, of those that are good.
func (s *Store) load(now time.Time) (*Credential, Identity, error) {
	issued, err := LoadCredential(s.keyFile, s.chainFile)
	if err != nil {
		return nil, Identity{}, err
	}
	id, err := s.verify(issued, now)
	renewed, renewing := s.loadRenewed()
	if renewed != nil && (err != nil || renewed.leaf.NotBefore.After(issued.leaf.NotBefore)) {
		if id, renewing := s.verify(renewed, now); renewing == nil {
			return renewed, id, nil
		}
	}
	if err != nil {
		return nil, Identity{}, errors.Join(err, renewing)
	}
	return issued, id, nil
}

// verify verifies a credential as of now or, if it may be renewed, as of its
// last moment.
func (s *Store) verify(c *Credential, now time.Time) (Identity, error) {
	if s.renewedFile != "" && now.After(c.leaf.NotAfter) {
		now = c.leaf.NotAfter
	}
	return s.verifier.Verify(c.leaf, c.issuer, UsageSign, now)
}

// loadRenewed returns nil if nothing was renewed yet, or nothing whole is there.
func (s *Store) loadRenewed() (*Credential, error) {
	if s.renewedFile == "" {
		return nil, nil
	}
	b, err := readFile(s.renewedFile, maxKeyFile+maxChainFile, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading renewed credential: %w", err)
	}
	block, chain := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("reading renewed credential %s: no PEM", s.renewedFile)
	}
	c, err := ParseCredential(b[:len(b)-len(chain)], chain)
	if err != nil {
		return nil, fmt.Errorf("reading renewed credential %s: %w", s.renewedFile, err)
	}
	return c, nil
}
