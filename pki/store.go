package pki

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Store holds the current credential of one identity and replaces it while
// connections are running. It is safe for concurrent use.
type Store struct {
	keyFile, chainFile string
	verifier           *Verifier
	identity           Identity

	reloading sync.Mutex // so that an older reading never replaces a newer one
	current   atomic.Pointer[Credential]
}

// OpenStore loads the credential of the two files (see LoadCredential) and
// verifies it now: a credential that no peer would accept is an error here and
// not a riddle in another machine's log.
func OpenStore(keyFile, chainFile string, v *Verifier) (*Store, error) {
	if v == nil {
		return nil, errors.New("opening credential: no verifier")
	}
	s := &Store{keyFile: keyFile, chainFile: chainFile, verifier: v}
	credential, id, err := s.load()
	if err != nil {
		return nil, fmt.Errorf("opening credential: %w", err)
	}
	s.identity = id
	s.current.Store(credential)
	return s, nil
}

// Identity returns whose credential the store holds. It never changes.
func (s *Store) Identity() Identity { return s.identity }

// Current returns the credential to use now. It is never nil.
func (s *Store) Current() *Credential { return s.current.Load() }

// Reload reads the files again. On an error, and when the new credential is
// another identity's, the store keeps what it has.
func (s *Store) Reload() error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	credential, id, err := s.load()
	if err != nil {
		return fmt.Errorf("reloading credential: %w", err)
	}
	if id != s.identity {
		return fmt.Errorf("reloading credential: it is of %s instead of %s", id, s.identity)
	}
	s.current.Store(credential)
	return nil
}

func (s *Store) load() (*Credential, Identity, error) {
	credential, err := LoadCredential(s.keyFile, s.chainFile)
	if err != nil {
		return nil, Identity{}, err
	}
	id, err := s.verifier.Verify(credential.Leaf(), credential.Issuer(), UsageSign, time.Now())
	if err != nil {
		return nil, Identity{}, err
	}
	return credential, id, nil
}
