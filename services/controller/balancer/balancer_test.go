package balancer

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"levee/services/controller"
)

const web = "web-1"

// start runs a balancer until the test ends, and then requires that it leaves
// neither a goroutine nor a listener.
func start(t *testing.T, pools ...Pool) *Balancer {
	t.Helper()
	if len(pools) == 0 {
		pools = []Pool{{Name: web, Listen: "127.0.0.1:0"}}
	}
	ignore := goleak.IgnoreCurrent()
	b, err := New(Config{Pools: pools, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		for _, p := range pools {
			if conn, err := net.Dial("tcp", b.Addr(p.Name).String()); err == nil {
				conn.Close()
				t.Errorf("pool %s still listens", p.Name)
			}
		}
		if err := b.Apply(context.WithoutCancel(ctx), web, controller.Wanted{}); err == nil {
			t.Error("a stopped balancer applied a state")
		}
		goleak.VerifyNone(t, ignore)
	})
	// Run takes a state only once its own backends are there.
	for _, p := range pools {
		if err := b.Apply(ctx, p.Name, controller.Wanted{}); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func apply(t *testing.T, b *Balancer, want controller.Wanted) {
	t.Helper()
	if err := b.Apply(t.Context(), web, want); err != nil {
		t.Fatal(err)
	}
}

// clientFrom returns a client whose connections come from ip.
func clientFrom(t *testing.T, ip string) *http.Client {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	transport := &http.Transport{DialContext: dialer.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func get(t *testing.T, client *http.Client, b *Balancer) (*http.Response, string) {
	t.Helper()
	r, err := client.Get("http://" + b.Addr(web).String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(body)
}

// backends returns which backends answer n requests, and how often each.
func backends(t *testing.T, client *http.Client, b *Balancer, n int) map[string]int {
	t.Helper()
	answered := make(map[string]int)
	for range n {
		r, body := get(t, client, b)
		if r.StatusCode != http.StatusOK {
			t.Fatalf("status %d: %s", r.StatusCode, body)
		}
		answered[body]++
	}
	return answered
}

func limit(perSecond float64, burst int, lasts time.Duration) controller.Wanted {
	return controller.Wanted{RateLimit: &controller.RateLimit{
		PerSecond: perSecond, Burst: burst, Until: time.Now().Add(lasts),
	}}
}

func scaled(n int, lasts time.Duration) controller.Wanted {
	return controller.Wanted{Scaling: &controller.Scaling{Servers: n, Until: time.Now().Add(lasts)}}
}

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 1000 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

func TestRateLimitRefusesOneAddressAndNoOther(t *testing.T) {
	b := start(t)
	attacker, customer := clientFrom(t, "127.0.0.1"), clientFrom(t, "127.0.0.2")

	backends(t, attacker, b, 50) // inert until armed

	// Far slower than the test, so that no token comes back while it runs.
	apply(t, b, limit(0.01, 3, time.Hour))
	backends(t, attacker, b, 3)
	for range 5 {
		r, _ := get(t, attacker, b)
		seconds, err := strconv.Atoi(r.Header.Get("Retry-After"))
		if r.StatusCode != http.StatusTooManyRequests || err != nil || seconds < 1 || seconds > 100 {
			t.Fatalf("status %d, Retry-After %q: want 429, and 1 to 100 seconds", r.StatusCode, r.Header.Get("Retry-After"))
		}
	}
	backends(t, customer, b, 3)
	if r, _ := get(t, customer, b); r.StatusCode != http.StatusTooManyRequests {
		t.Errorf("the second address has no limit: status %d", r.StatusCode)
	}
	if s := b.State(web); !s.RateLimited || s.Refused != 6 {
		t.Errorf("state %+v, want a rate limit with 6 refused", s)
	}

	apply(t, b, controller.Wanted{})
	backends(t, attacker, b, 10)
	if s := b.State(web); s.RateLimited {
		t.Errorf("state %+v after the end", s)
	}
}

func TestRateLimitLapsesByItself(t *testing.T) {
	b := start(t)
	client := clientFrom(t, "127.0.0.1")
	apply(t, b, limit(0.001, 1, 500*time.Millisecond))
	backends(t, client, b, 1)
	if r, _ := get(t, client, b); r.StatusCode != http.StatusTooManyRequests || r.Header.Get("Retry-After") != "1" {
		// A token would take 1000 s, but the limit lasts less than one.
		t.Errorf("status %d, Retry-After %q, want 429 and 1", r.StatusCode, r.Header.Get("Retry-After"))
	}
	p := b.pool(web)
	eventually(t, "the timer disarms the limit", func() bool { return p.armed.Load() == nil })
	backends(t, client, b, 5)
}

func TestRenewalNeitherGapsNorGivesAFreshBurst(t *testing.T) {
	b := start(t)
	client := clientFrom(t, "127.0.0.1")
	apply(t, b, limit(0.01, 2, 700*time.Millisecond))
	first := b.pool(web).armed.Load()
	backends(t, client, b, 2)
	apply(t, b, limit(0.01, 2, time.Hour))
	time.Sleep(time.Until(first.until) + 100*time.Millisecond) // the first one's end changes nothing
	if r, _ := get(t, client, b); r.StatusCode != http.StatusTooManyRequests {
		t.Errorf("status %d after the renewal, want 429", r.StatusCode)
	}
	// A wish that has changed counts anew.
	apply(t, b, limit(0.01, 3, time.Hour))
	backends(t, client, b, 3)
	// One that is over already is none.
	apply(t, b, limit(0.01, 1, -time.Second))
	backends(t, client, b, 5)
}

func TestScalingUsesAFurtherBackend(t *testing.T) {
	b := start(t)
	client := clientFrom(t, "127.0.0.1")
	before := backends(t, client, b, 12)
	if len(before) != 2 {
		t.Fatalf("without scaling %v answered", before)
	}
	for range 2 { // absolute: twice is once
		apply(t, b, scaled(3, time.Hour))
	}
	during := backends(t, client, b, 12)
	want := map[string]int{}
	for n := range 3 {
		want[fmt.Sprintf("backend %d of pool %s answered\n", n+1, web)] = 4
	}
	if !maps.Equal(during, want) {
		t.Fatalf("with scaling %v answered, want %v", during, want)
	}
	third := b.pool(web).rotation.backends[2]
	apply(t, b, controller.Wanted{})
	if after := backends(t, client, b, 12); !maps.Equal(after, before) {
		t.Errorf("after scaling %v answered", after)
	}
	eventually(t, "the third backend stops", func() bool {
		conn, err := net.Dial("tcp", third.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
}

func TestScalingLapsesByItselfAndNeverBelowItsOwn(t *testing.T) {
	b := start(t)
	apply(t, b, scaled(1, time.Hour))
	if s := b.State(web); s.Servers != DefaultServers {
		t.Errorf("scaling to 1 left %d of %d servers", s.Servers, DefaultServers)
	}
	apply(t, b, scaled(4, 300*time.Millisecond))
	if s := b.State(web); s.Servers != 4 {
		t.Errorf("%d servers, want 4", s.Servers)
	}
	eventually(t, "scaling lapses", func() bool { return b.State(web).Servers == DefaultServers })
}

// TestScalingDownDrains holds a request open at the backend that has to go.
func TestScalingDownDrains(t *testing.T) {
	b := start(t)
	apply(t, b, scaled(3, time.Hour))
	third := b.pool(web).rotation.backends[2]
	inside, leave := make(chan struct{}), make(chan struct{})
	third.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(inside)
		<-leave
		io.WriteString(w, "late")
	})
	var wg sync.WaitGroup
	answers := make(chan string, 3)
	for range 3 { // one of them reaches the third
		client := clientFrom(t, "127.0.0.1")
		wg.Go(func() {
			r, err := client.Get("http://" + b.Addr(web).String())
			if err != nil {
				answers <- err.Error()
				return
			}
			defer r.Body.Close()
			body, _ := io.ReadAll(r.Body)
			answers <- string(body)
		})
	}
	<-inside
	apply(t, b, controller.Wanted{}) // does not wait for it
	if s := b.State(web); s.Servers != 2 {
		t.Errorf("%d servers in rotation, want 2", s.Servers)
	}
	close(leave)
	wg.Wait()
	close(answers)
	all := slices.Sorted(func(yield func(string) bool) {
		for a := range answers {
			yield(a)
		}
	})
	if len(all) != 3 || all[2] != "late" {
		t.Errorf("answers %q, want the late one among them", all)
	}
}

// TestDrainWaitsForRequestsNotYetSent checks the moment between choosing a
// backend and reaching it.
func TestDrainWaitsForRequestsNotYetSent(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	b, err := newBackend(web, 1, log)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { b.serve(log) })
	var r rotation
	r.add(b)
	chosen := r.acquire(nil)
	if removed := r.remove(); removed != chosen || r.acquire(nil) != nil {
		t.Fatal("the backend is still in rotation")
	}
	wg.Go(func() { b.drain(t.Context()) })
	time.Sleep(50 * time.Millisecond) // a drain that does not wait has stopped it by now
	client := clientFrom(t, "127.0.0.1")
	response, err := client.Get("http://" + b.addr)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	client.CloseIdleConnections()
	r.release(chosen)
	wg.Wait()
}

func TestCloseGivesTheAddressesBack(t *testing.T) {
	b, err := New(Config{Pools: []Pool{{Name: web, Listen: "127.0.0.1:0"}}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := net.Listen("tcp", b.Addr(web).String())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestPoolsAreApart(t *testing.T) {
	b := start(t, Pool{Name: web, Listen: "127.0.0.1:0"}, Pool{Name: "web-2", Listen: "127.0.0.1:0"})
	apply(t, b, controller.Wanted{RateLimit: limit(0.01, 1, time.Hour).RateLimit, Scaling: scaled(4, time.Hour).Scaling})
	if s := b.State(web); !s.RateLimited || s.Servers != 4 {
		t.Errorf("state %+v", s)
	}
	if s := b.State("web-2"); s.RateLimited || s.Servers != DefaultServers {
		t.Errorf("the other pool's state is %+v", s)
	}
	if got := b.Pools(); !slices.Equal(got, []string{web, "web-2"}) {
		t.Errorf("pools %q", got)
	}
	if b.Addr("web-3") != nil || b.State("web-3") != (State{}) {
		t.Error("an unknown pool has an address or a state")
	}
}

func TestApplyRefuses(t *testing.T) {
	b := start(t)
	for name, want := range map[string]controller.Wanted{
		"no rate":          limit(0, 1, time.Hour),
		"a negative rate":  limit(-1, 1, time.Hour),
		"no burst":         limit(1, 0, time.Hour),
		"no servers":       scaled(0, time.Hour),
		"too many servers": scaled(DefaultMaxServers+1, time.Hour),
	} {
		if err := b.Apply(t.Context(), web, want); err == nil {
			t.Errorf("%s was applied", name)
		}
	}
	if s := b.State(web); s.RateLimited || s.Servers != DefaultServers {
		t.Errorf("a refused state left %+v", s)
	}
	if err := b.Apply(t.Context(), "web-3", controller.Wanted{}); err == nil {
		t.Error("an unknown pool took a state")
	}
}

func TestNewRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	log := slog.New(slog.DiscardHandler)
	good := Pool{Name: web, Listen: "127.0.0.1:0"}
	for name, cfg := range map[string]Config{
		"no log":             {Pools: []Pool{good}},
		"no pools":           {Log: log},
		"a bad name":         {Log: log, Pools: []Pool{{Name: "Web", Listen: good.Listen}}},
		"a name twice":       {Log: log, Pools: []Pool{good, good}},
		"every interface":    {Log: log, Pools: []Pool{{Name: web, Listen: ":0"}}},
		"another interface":  {Log: log, Pools: []Pool{{Name: web, Listen: "0.0.0.0:0"}}},
		"a host's name":      {Log: log, Pools: []Pool{{Name: web, Listen: "localhost:0"}}},
		"an address in use":  {Log: log, Pools: []Pool{{Name: web, Listen: taken.Addr().String()}}},
		"negative servers":   {Log: log, Pools: []Pool{{Name: web, Listen: good.Listen, Servers: -1}}},
		"fewer than its own": {Log: log, Pools: []Pool{{Name: web, Listen: good.Listen, Servers: 3, MaxServers: 2}}},
		"too many servers":   {Log: log, Pools: []Pool{{Name: web, Listen: good.Listen, MaxServers: maxServers + 1}}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
