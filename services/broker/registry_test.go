package broker

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"levee/policies"
)

// fakeSession is a session that ends at once when it is told to, like one whose
// reader is woken by the closed connection.
func fakeSession(clientID string) *session {
	a, b := net.Pipe()
	_ = b.Close()
	var wg sync.WaitGroup
	s := &session{clientID: clientID, ended: make(chan struct{}), done: make(chan struct{})}
	s.out = newOutbox(a, 1, 1, &wg, func(error) {})
	s.tls = tls.Server(s.out, &tls.Config{})
	return s
}

// leaveAfter releases s a while after it is ended.
func leaveAfter(r *registry, s *session, d time.Duration) {
	<-s.ended
	time.Sleep(d)
	r.release(s)
	close(s.done)
}

func TestRegistryNewestWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry()
		old, other := fakeSession("a"), fakeSession("b")
		if got := r.claim(old, time.Second); got != None {
			t.Fatalf("first claim: %v", got)
		}
		if got := r.claim(other, time.Second); got != None || other.reason() != None {
			t.Fatalf("claim of another identifier: %v", got)
		}
		go leaveAfter(r, old, 300*time.Millisecond)
		start := time.Now()
		young := fakeSession("a")
		if got := r.claim(young, time.Second); got != None {
			t.Fatalf("second claim: %v", got)
		}
		if waited := time.Since(start); waited != 300*time.Millisecond {
			t.Errorf("granted after %v, with the old session still there", waited)
		}
		if old.reason() != Superseded || other.reason() != None || young.reason() != None {
			t.Errorf("ended: old %v, other %v, young %v", old.reason(), other.reason(), young.reason())
		}
	})
}

func TestRegistryRefusesWhenTheOldSessionStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry()
		old, young := fakeSession("a"), fakeSession("a")
		r.claim(old, time.Second)
		if got := r.claim(young, time.Second); got != TakeoverTimeout {
			t.Errorf("claim: %v", got)
		}
		// The old one is still the owner: the next must wait for it as well.
		r.release(young)
		if got := r.claim(fakeSession("a"), time.Second); got != TakeoverTimeout {
			t.Errorf("claim after the refusal: %v", got)
		}
	})
}

// P10: many at once; at no time are there two owners, and the newest remains.
func TestP10RegistryManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry()
		var mu sync.Mutex
		owners, granted := 0, 0
		var wg sync.WaitGroup
		var last *session
		for i := range 50 {
			s := fakeSession("a")
			last = s
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				if r.claim(s, time.Minute) == None {
					mu.Lock()
					owners++
					granted++
					if owners > 1 {
						t.Errorf("session %d: %d owners", i, owners)
					}
					mu.Unlock()
					<-s.ended
					time.Sleep(7 * time.Millisecond)
					mu.Lock()
					owners--
					mu.Unlock()
				}
				r.release(s)
				close(s.done)
			})
		}
		time.Sleep(10 * time.Second)
		mu.Lock()
		if last.reason() != None || owners != 1 {
			t.Errorf("the newest ended for %v, owners: %d", last.reason(), owners)
		}
		mu.Unlock()
		last.end(Draining)
		wg.Wait()
		if len(r.slots) != 0 {
			t.Errorf("%d slots are left", len(r.slots))
		}
		if granted < 2 {
			t.Errorf("only %d were granted", granted)
		}
	})
}

func TestAccountsOutliveSessions(t *testing.T) {
	r := newRegistry()
	limits := policies.Limits{MessagesPerSecond: 1, Burst: 2, BytesPerSecond: 1000}
	now := time.Unix(1_700_000_000, 0)
	a := r.open("melb/sensor/web-1", limits, now)
	if !a.messages.AllowN(now, 2) {
		t.Fatal("the burst is not there")
	}
	r.leave(a, now)
	r.sweep(now.Add(time.Minute))
	again := r.open("melb/sensor/web-1", limits, now)
	if again.messages.AllowN(now, 1) {
		t.Error("a new connection has a new burst")
	}
	if other := r.open("melb/sensor/web-2", limits, now); !other.messages.AllowN(now, 2) {
		t.Error("two identities share a bucket")
	}
	if !again.bytes.AllowN(now.Add(time.Hour), maxRead) {
		t.Error("one read does not fit into the bucket, so it would end the session")
	}
	r.sweep(now.Add(2 * keepAccount))
	if len(r.accounts) != 2 {
		t.Error("an account in use was forgotten")
	}
	r.leave(again, now)
	r.sweep(now.Add(keepAccount))
	if len(r.accounts) != 1 {
		t.Error("an idle account was kept")
	}
}

func TestStrikes(t *testing.T) {
	var a account
	now := time.Unix(1_700_000_000, 0)
	for i := range 19 {
		if a.strike(20, now.Add(time.Duration(i)*time.Second)) {
			t.Fatalf("strike %d is too many", i+1)
		}
	}
	if a.strike(20, now.Add(61*time.Second)) {
		t.Error("strikes older than a minute count")
	}
	for range 18 {
		a.strike(20, now.Add(62*time.Second))
	}
	if !a.strike(20, now.Add(63*time.Second)) {
		t.Error("twenty within a minute are not too many")
	}
}

func TestAllowance(t *testing.T) {
	var a allowance
	now := time.Unix(1_700_000_000, 0)
	for i := range 30 {
		if !a.spend(time.Second, 30*time.Second, now.Add(time.Duration(i)*time.Second)) {
			t.Fatalf("second %d is too much", i)
		}
	}
	if a.spend(time.Second, 30*time.Second, now.Add(59*time.Second)) {
		t.Error("31 s within a minute are allowed")
	}
	if !a.spend(time.Second, 30*time.Second, now.Add(2*time.Minute)) {
		t.Error("a minute later nothing is allowed")
	}
}

func TestAdmission(t *testing.T) {
	address := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := newAdmission(func() policies.Broker {
		return policies.Broker{Connections: 6, Pending: 4, AddressConnections: 3, AddressPending: 2}
	})
	enter := func(from string, want Reason) *ticket {
		t.Helper()
		got, r := a.enter(origin(address(from)))
		if r != want {
			t.Fatalf("%s: %v, want %v", from, r, want)
		}
		return got
	}
	one, two := enter("192.0.2.1:1", None), enter("192.0.2.1:2", None)
	enter("192.0.2.1:3", TooManyAddress) // pending
	one.settle()
	three := enter("[::ffff:192.0.2.1]:4", None) // the same address, spelt otherwise
	three.settle()
	two.settle()
	enter("192.0.2.1:5", TooManyAddress) // in all
	four, five := enter("[2001:db8::1]:1", None), enter("[2001:db8::2]:1", None)
	enter("[2001:db8::3]:1", TooManyAddress) // one /64
	six := enter("[2001:db8:0:1::3]:1", None)
	enter("198.51.100.7:1", TooMany)
	one.leave()
	seven := enter("198.51.100.7:1", None)
	two.leave()
	enter("198.51.100.7:2", TooManyPending)
	for _, x := range []*ticket{three, four, five, six, seven} {
		x.leave()
	}
	if a.total != 0 || a.pending != 0 || len(a.addresses) != 0 {
		t.Errorf("left over: %d, %d pending, %v", a.total, a.pending, a.addresses)
	}
	if p := origin(&net.UnixAddr{Name: "x"}); p.IsValid() {
		t.Errorf("origin of no address: %v", p)
	}
}

func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]Reason{}
	for r := None; r < reasons; r++ {
		if other, taken := seen[r.String()]; r.String() == "" || taken {
			t.Errorf("reason %d is called %q like %d", r, r, other)
		}
		seen[r.String()] = r
	}
	if got := fmt.Sprint(reasons.String(), Reason(255).String()); got != "unknownunknown" {
		t.Errorf("outside the set: %s", got)
	}
}
