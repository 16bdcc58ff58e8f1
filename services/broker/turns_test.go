package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// handshakes returns n connections whose handshakes share one slot, each with a
// byte to read.
func handshakes(t *testing.T, n int) []*shaking {
	t.Helper()
	one := newTurns(1)
	var all []*shaking
	for range n {
		client, server := net.Pipe()
		t.Cleanup(func() { client.Close(); server.Close() })
		go func() { _, _ = client.Write([]byte("x")) }()
		all = append(all, &shaking{outbox: newOutbox(server, 1<<20, time.Second, new(sync.WaitGroup), func(error) {}), turns: one, ended: make(chan struct{})})
		all[len(all)-1].within(time.Minute)
	}
	return all
}

func TestHandshakesComputeInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := handshakes(t, 3)
		computing, most := 0, 0
		var wg sync.WaitGroup
		for _, s := range all {
			wg.Go(func() {
				if _, err := s.Read(make([]byte, 1)); err != nil {
					t.Error(err)
				}
				computing++ // in a bubble's order, which the slot makes: the race detector would tell
				most = max(most, computing)
				time.Sleep(mostWork / 2)
				computing--
				s.finish()
			})
		}
		wg.Wait()
		if most != 1 {
			t.Errorf("%d handshakes computed at once on one slot", most)
		}
	})
}

// Whoever is waited for holds nobody up: a handshake that reads has no slot.
func TestSilentHandshakeHasNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := handshakes(t, 2)
		go func() {
			_, _ = all[0].Read(make([]byte, 1))
			_, _ = all[0].Read(make([]byte, 1)) // of which nothing comes
		}()
		synctest.Wait()
		if _, err := all[1].Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		all[1].finish()
	})
}

// A slot rests when much was computed, so that what has arrived is read.
func TestTurnsRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := handshakes(t, 3)
		var waited []time.Duration
		for _, s := range all {
			before := time.Now()
			if _, err := s.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			waited = append(waited, time.Since(before))
			time.Sleep(mostWork/2 + 1)
			s.finish()
		}
		if waited[0] != 0 || waited[1] != 0 || waited[2] != rest {
			t.Errorf("waited %s", waited)
		}
	})
}

// An end does not wait for a turn, and takes none.
func TestEndedHandshakeTakesNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := handshakes(t, 2)
		if _, err := all[0].Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		all[1].ended = ended
		failed := make(chan error, 1)
		go func() {
			_, err := all[1].Read(make([]byte, 1))
			all[1].finish()
			failed <- err
		}()
		synctest.Wait()
		close(ended)
		if err := <-failed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v", err)
		}
		all[0].finish()
		if n := len(all[0].turns.free); n != 1 {
			t.Errorf("%d slots", n)
		}
	})
}

// When more come than can be served, those that were begun are completed.
func TestHandshakeThatGoesOnComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := handshakes(t, 4)
		read := func(s *shaking) {
			if _, err := s.Read(make([]byte, 1)); err != nil {
				t.Error(err)
			}
		}
		all[3].began = true
		read(all[0])
		var order []int
		for i, s := range all[1:] {
			go func() {
				read(s)
				order = append(order, i+1)
				s.finish()
			}()
			synctest.Wait()
		}
		all[0].finish()
		synctest.Wait()
		if !slices.Equal(order, []int{3, 1, 2}) {
			t.Errorf("in the order %d", order)
		}
	})
}

// A handshake that could not be completed in time is not begun.
func TestHandshakeWithoutATurn(t *testing.T) {
	for _, test := range []struct {
		name  string
		late  time.Duration // that it speaks
		began bool
		want  time.Duration
	}{
		{"to begin", 0, false, time.Second / 2},
		{"to begin, and late", time.Second * 3 / 4, false, time.Second},
		{"to go on", 0, true, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			all := handshakes(t, 2)
			if _, err := all[0].Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			s, start := all[1], time.Now()
			s.within(time.Second)
			s.began = test.began
			time.Sleep(test.late)
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, errNoTurn) || time.Since(start) != test.want {
				t.Errorf("%s: %v after %s", test.name, err, time.Since(start))
			}
			s.finish()
			all[0].finish()
			time.Sleep(2 * rest)
			s.turns.mu.Lock()
			defer s.turns.mu.Unlock()
			if turns := s.turns; len(turns.free) != 1 || len(turns.waiting[0])+len(turns.waiting[1]) > 0 {
				t.Errorf("%s: %d slots, %d wait", test.name, len(turns.free), len(turns.waiting[0])+len(turns.waiting[1]))
			}
		})
	}
}

// A slot that is given at the moment when nobody wants it any more is not lost.
func TestTurnThatComesTooLateIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1)
		for range 100 {
			work, err := turns.take(false, time.Now().Add(time.Minute), nil)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				if work, err := turns.take(false, time.Now().Add(time.Minute), ended); err == nil {
					turns.give(work)
				}
			}()
			synctest.Wait()
			close(ended)
			turns.give(work)
			synctest.Wait()
			if len(turns.free) != 1 {
				t.Fatal("the slot is lost")
			}
		}
	})
}

// Addresses are banned for what clients do, not for what the broker has no time for.
func TestHandshakeWithoutATurnIsNobodysFault(t *testing.T) {
	s := open(t, rules(t, bounded("handshake_timeout: 1s", "failures: 1")))
	turns := s.broker.door.turns
	for range cap(turns.free) {
		if _, err := turns.take(true, time.Now().Add(time.Minute), nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(web1)))
	}
	s.counted("refused_too_many_pending", 3)
	for range cap(turns.free) {
		turns.give(0)
	}
	s.connect(web1)
}

// After the handshake a connection takes no turns.
func TestTurnsEndWithTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := handshakes(t, 2)
		if _, err := all[0].Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		all[1].finish()
		if _, err := all[1].Read(make([]byte, 1)); err != nil { // all[0] still has the only slot
			t.Error(err)
		}
		all[0].finish()
	})
}

// Who is banned may come back as often as it likes, and is not verified each time.
func TestBannedBeforeItIsVerified(t *testing.T) {
	bank := newBank(t)
	b := &Broker{site: "melb", host: "melb." + trustDomain, bans: newBans()}
	verified := 0
	config := b.judging(&tls.Config{VerifyConnection: func(tls.ConnectionState) error { verified++; return errAnonymous }})
	show := func(certs ...*x509.Certificate) error {
		return config.VerifyConnection(tls.ConnectionState{PeerCertificates: certs})
	}
	b.bans.identities[guest.Sender()] = &conduct{until: time.Now().Add(time.Minute)}
	if err := show(bank.credential(guest).Leaf); !errors.Is(err, Banned) || verified > 0 {
		t.Errorf("%v, verified %d times", err, verified)
	}
	b.bans.identities[guest.Sender()].until = time.Now()
	for i, certs := range [][]*x509.Certificate{{bank.credential(guest).Leaf}, {bank.credential(web1).Leaf}, {{}}, {}} {
		if err := show(certs...); err != errAnonymous || verified != i+1 {
			t.Errorf("certificates %d: %v, verified %d times", i, err, verified)
		}
	}
}
