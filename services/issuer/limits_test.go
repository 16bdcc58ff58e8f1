package issuer

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/wire"
	"levee/pki"
)

// A machine that renews in a loop is stopped, and no other with it.
func TestRenewalsAreLimited(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{lifetime: pki.MaxMachineLifetime})
	h := w.holder(web1, time.Now())
	for range 10 {
		key := w.key(pki.RoleSensor)
		r.issued(r.renew(h, key), web1, key)
	}
	a := r.renew(h, w.key(pki.RoleSensor))
	r.refused("the eleventh", a, 429, ReasonRate)
	if a.header.Get("Retry-After") == "" {
		t.Error("it does not say when")
	}
	key := w.key(pki.RoleSensor)
	r.issued(r.renew(w.holder(web2, time.Now()), key), web2, key)
	if n := len(r.entries()); n != 11 {
		t.Errorf("%d entries", n)
	}
}

func TestJoinsAndRequestsAreLimited(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	r.server.joins.every, r.server.requests.every = 1e-6, 1e-6 // nothing comes back, however slow this machine is
	for range 5 {
		r.refused("within the limit", r.do(nil, "POST", "/v1/join", []byte("x")), 400, ReasonRequest)
	}
	r.refused("the sixth attempt", r.do(nil, "POST", "/v1/join", []byte("x")), 429, ReasonRate)
	h := w.holder(vera, time.Now())
	var limited bool
	for range 25 {
		limited = limited || r.do(&h, "GET", "/v1/crl", nil).status == 429
	}
	if !limited {
		t.Error("25 requests at once were answered")
	}
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter[int](time.Second, 2)
		take := func(want ...bool) {
			t.Helper()
			for i, ok := range want {
				if got := l.take(1, time.Now()); got != ok {
					t.Errorf("%d: %v", i, got)
				}
			}
		}
		take(true, true, false)
		if !l.take(2, time.Now()) {
			t.Error("one key spent another's tokens")
		}
		time.Sleep(time.Second)
		take(true, false)
		// Invented keys do not make it grow, and do not free anybody.
		for i := range 2 * maxBuckets {
			l.take(i+10, time.Now())
		}
		if len(l.buckets) > maxBuckets {
			t.Errorf("%d buckets", len(l.buckets))
		}
		take(false)
		time.Sleep(10 * time.Second)
		if !l.take(-1, time.Now()) || len(l.buckets) > 2 {
			t.Errorf("there is no room again: %d buckets", len(l.buckets))
		}
	})
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:5": "192.0.2.1", "[::ffff:192.0.2.1]:5": "192.0.2.1", "[2001:db8:1:2:3:4:5:6]:7": "2001:db8:1:2::", "[fe80::1%eth0]:7": "fe80::",
	} {
		if got := addressOf(in); got != netip.MustParseAddr(want) {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if addressOf("nowhere").IsValid() {
		t.Error("nowhere is an address")
	}
}

// Whoever connects and says nothing, or little, is cut off; and there are only
// so many of them from one address.
func TestSlowClients(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	var silent []net.Conn
	for range maxPerAddress {
		c, err := net.Dial("tcp", r.address)
		w.must(err)
		defer c.Close()
		silent = append(silent, c)
	}
	// One too many is closed at once, and so it is for a good client: a bounded
	// number of descriptors is what is left of the attack.
	one, err := net.Dial("tcp", r.address)
	w.must(err)
	defer one.Close()
	w.must(one.SetReadDeadline(time.Now().Add(4 * time.Second)))
	if _, err := one.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("one connection too many: %v", err)
	}
	// The rest end by their deadline, whether they are silent or drip.
	var dripping sync.WaitGroup
	for i, c := range silent {
		dripping.Go(func() {
			if i%2 == 0 {
				for range 40 {
					if _, err := c.Write([]byte{22}); err != nil {
						return
					}
					time.Sleep(250 * time.Millisecond)
				}
			}
			_ = c.SetReadDeadline(time.Now().Add(headTimeout + 10*time.Second))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("connection %d was held for ever", i)
			}
		})
	}
	dripping.Wait()
	// Room again.
	key := w.key(pki.RoleSensor)
	r.issued(r.renew(w.holder(web1, time.Now()), key), web1, key)
}

// A head or a body that never comes whole ends too.
func TestSlowRequests(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	h := w.holder(web1, time.Now())
	var waiting sync.WaitGroup
	for name, head := range map[string]string{
		"half a head": "POST " + pathRenew + " HTTP/1.1\r\nHost: x\r\n",
		"half a body": "POST " + pathRenew + " HTTP/1.1\r\nHost: x\r\nContent-Length: 400\r\n\r\nAAAA",
	} {
		c, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*h.tls()}})
		w.must(err)
		_, err = io.WriteString(c, head)
		w.must(err)
		waiting.Go(func() {
			defer c.Close()
			_ = c.SetReadDeadline(time.Now().Add(readTimeout + 10*time.Second))
			if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s was waited for", name)
			}
		})
	}
	long, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*h.tls()}})
	w.must(err)
	defer long.Close()
	_, _ = io.WriteString(long, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 32<<10)+"\r\n\r\n")
	b, _ := io.ReadAll(long)
	if !strings.Contains(string(b), " 431 ") {
		t.Errorf("a head of 32 KiB: %q", b)
	}
	waiting.Wait()
	if n := len(r.entries()); n != 0 {
		t.Errorf("%d entries", n)
	}
}

// Only TLS 1.3, nothing resumed, and one request for each connection.
func TestConnections(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	h := w.holder(web1, time.Now())
	if c, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*h.tls()}}); err == nil {
		c.Close()
		t.Error("TLS 1.2 was spoken")
	}
	cache := tls.NewLRUClientSessionCache(4)
	for range 2 {
		c, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true, ClientSessionCache: cache, ServerName: "melb.bank.example",
			Certificates: []tls.Certificate{*h.tls()}, NextProtos: []string{"h2", "http/1.1"}})
		w.must(err)
		_, err = io.WriteString(c, "GET /v1/crl HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/crl HTTP/1.1\r\nHost: x\r\n\r\n")
		w.must(err)
		b, _ := io.ReadAll(c)
		state := c.ConnectionState()
		if state.DidResume || state.NegotiatedProtocol != "http/1.1" || strings.Count(string(b), "HTTP/1.1 ") != 1 {
			t.Errorf("resumed %v, %q, %d answers", state.DidResume, state.NegotiatedProtocol, strings.Count(string(b), "HTTP/1.1 "))
		}
		c.Close()
	}
	if c, err := net.Dial("tcp", r.address); err == nil {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
		_, _ = io.ReadAll(c)
		c.Close()
	}
	if r.issuer.refusals.count(ReasonHandshake) == 0 {
		t.Error("handshakes that failed were not counted")
	}
}

// A certificate that is revoked while its connection is open gets nothing on it.
func TestRevokedDuringAConnection(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	h := w.holder(web1, time.Now())
	c, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*h.tls()}})
	w.must(err)
	defer c.Close()
	w.must(c.Handshake())
	p := w.holder(ann, time.Now())
	// The handshake of the server has ended when it has taken something.
	_, err = io.WriteString(c, "GET /v1/crl HTTP/1.1\r\n")
	w.must(err)
	r.carriedOut(w.order("revoke", orderOf(web1), p, time.Now()))
	_, err = io.WriteString(c, "Host: x\r\n\r\n")
	w.must(err)
	b, _ := io.ReadAll(c)
	if strings.Contains(string(b), "200 OK") {
		t.Errorf("a revoked machine got %q", b)
	}
}

// bus is a publisher that keeps what it is given.
type bus struct {
	mu    sync.Mutex
	ready chan struct{}
	lists []wire.Revocations
	topic []wire.Topic
}

func (b *bus) Ready() <-chan struct{} { return b.ready }

func (b *bus) Publish(topic wire.Topic, payload any) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := wire.Encode(payload); err != nil {
		return err
	}
	b.topic = append(b.topic, topic)
	b.lists = append(b.lists, *payload.(*wire.Revocations))
	return nil
}

func (b *bus) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.lists)
}

// The list goes out when there is somebody to hear it, each minute, on change,
// and what has changed last goes out before the end.
func TestPublishes(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		a := w.issuers[machines("melb")]
		s, err := New(Config{Identity: iss1, Authority: a, Root: w.root.Certificate, Verifier: w.verifier, Pins: pins{}, Lifetime: time.Hour,
			Credentials: new(pki.Store), Key: nil0, Log: new(logBuffer).logger()})
		if err != nil {
			t.Fatal(err)
		}
		b := &bus{ready: make(chan struct{})}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.publish(ctx, b); close(done) }()
		steps := []struct {
			do   func()
			want int
		}{
			{func() {}, 0},
			{func() { close(b.ready) }, 1},
			{func() { time.Sleep(publishEach) }, 2},
			{func() { time.Sleep(3 * publishEach) }, 5},
			{func() { s.changed <- struct{}{} }, 6},
			{func() { s.changed <- struct{}{}; stop(); <-done }, 7},
		}
		for i, step := range steps {
			step.do()
			synctest.Wait()
			if got := b.count(); got != step.want {
				t.Errorf("step %d: %d lists, want %d", i, got, step.want)
			}
		}
		want := wire.Topic{Kind: wire.KindRevocations, Site: "melb", Role: "issuer", Name: "iss-1"}
		if slices.ContainsFunc(b.topic, func(t wire.Topic) bool { return t != want }) {
			t.Errorf("topics %v", b.topic)
		}
		for _, l := range b.lists {
			if l.Number != 1 || l.Revoked == nil || l.Issued == 0 {
				t.Errorf("list %+v", l)
			}
		}
	})
}

// docs/issuing.md lists every reason there is.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/issuing.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range Reasons() {
		if !strings.Contains(string(page), "| `"+string(reason)+"` |") {
			t.Errorf("the page lacks %s", reason)
		}
	}
}

// A sender that has many addresses renews no more than a hundred times at once,
// and leaves room for the buckets of others.
func TestRenewalsFromManyAddresses(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{lifetime: pki.MaxMachineLifetime})
	now, n := time.Now(), 0
	for i := range maxBuckets {
		from := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0, byte(i >> 8), byte(i)})
		if r.server.mayRenew(web1.Sender(), from, now) {
			n++
		}
	}
	if n != 100 || len(r.server.renewals.buckets) != 100 {
		t.Errorf("%d renewals at once, %d buckets", n, len(r.server.renewals.buckets))
	}
	if !r.server.mayRenew(web2.Sender(), netip.MustParseAddr("127.0.0.1"), now) {
		t.Error("another sender is locked out")
	}
	// Ten times as often as from one address, and no more.
	n = 0
	for i := range 100 {
		if r.server.mayRenew(web1.Sender(), netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), now.Add(10*time.Minute)) {
			n++
		}
	}
	if n != 10 {
		t.Errorf("%d more in ten minutes", n)
	}
}

// An address that has spent its tokens does not spend its sender's.
func TestOneAddressSpendsItsOwn(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{lifetime: pki.MaxMachineLifetime})
	now, thief := time.Now(), netip.MustParseAddr("127.0.0.2")
	for range 1000 {
		r.server.mayRenew(web1.Sender(), thief, now)
	}
	if !r.server.mayRenew(web1.Sender(), netip.MustParseAddr("127.0.0.1"), now) {
		t.Error("its owner is held up")
	}
}

// Joining is limited in all as well as by address, and cacerts by address.
func TestAnonymousLimits(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	for i := range 5 {
		if a := r.do(nil, "GET", "/.well-known/est/cacerts", nil); a.status != 200 {
			t.Fatalf("question %d: %d", i, a.status)
		}
	}
	r.refused("the sixth", r.do(nil, "GET", "/.well-known/est/cacerts", nil), 429, ReasonRate)
	r.server.joins = newLimiter[netip.Addr](time.Millisecond, 1000)
	for r.server.allJoins.take(struct{}{}, time.Now().Add(time.Hour)) {
	}
	r.refused("too many in all", r.do(nil, "POST", "/v1/join", []byte("{}")), 429, ReasonRate)
}

// Who has left is not remembered.
func TestListenerForgets(t *testing.T) {
	l := newListener(nil, func(net.Addr) {})
	for i := range 100 {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		if !l.enter(a) {
			t.Fatal("refused")
		}
		l.leave(a)
	}
	if len(l.open) != 0 || l.all != 0 {
		t.Errorf("%d addresses, %d connections", len(l.open), l.all)
	}
}
