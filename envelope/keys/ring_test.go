package keys

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/pki"
)

// sealed returns a reading of a sensor of melb under a key derived from site.
func sealed(t testing.TB, site SiteKey, name string, generation uint32, seq uint64) []byte {
	t.Helper()
	role, err := site.Role(pki.RoleSensor)
	if err != nil {
		t.Fatal(err)
	}
	sender, err := role.Sender(name, generation)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sender.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := envelope.Append(nil, envelope.Header{KeyID: sender.ID(), Time: 1729697327822, Nonce: envelope.Nonce{Boot: 1729697310000, Seq: seq},
		Topic: "melb/bank_server/metrics/ram/" + name}, []byte(`{"ram_usage":41.5}`), key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// spoilt returns the message with another MAC.
func spoilt(raw []byte) []byte {
	raw = bytes.Clone(raw)
	at := &raw[len(raw)-10]
	if *at++; *at == 'z'+1 || *at == 'Z'+1 || *at == '9'+1 {
		*at -= 2
	}
	return raw
}

func mustOpen(t testing.TB, r *Ring, raw []byte) envelope.Message {
	t.Helper()
	m, err := r.Open(raw, envelope.MaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A sensor's key is remembered once it has opened a message, and not before.
func TestOpenRemembersWhatOpened(t *testing.T) {
	r, site := ring(t, pki.RoleMonitor, pki.RoleSensor)
	raw := sealed(t, site, "web-1", 1, 1)
	for range 3 {
		if _, err := r.Open(spoilt(raw), envelope.MaxMessage); !errors.Is(err, envelope.BadMAC) {
			t.Fatal(err)
		}
		r.Find([]byte("melb/sensor/web-1/1"))
	}
	if n := len(r.derived.byKID); n != 0 {
		t.Fatalf("%d keys remembered that opened nothing", n)
	}
	m := mustOpen(t, r, raw)
	key := r.derived.find(m.KID)
	if key == nil || r.Find(m.KID) != key {
		t.Error("a key that has opened a message is derived again")
	}
	copy(raw, bytes.Repeat([]byte("x"), len(raw))) // the caller's buffer is its own
	if r.derived.find([]byte("melb/sensor/web-1/1")) != key {
		t.Error("what is remembered lies in the caller's buffer")
	}
	for _, kid := range []string{"melb/sensor/web-1/1", "syd/sensor/web-1/1", "melb/controller/lb/1"} {
		if _, err := r.Open(fmt.Appendf(nil, `{"v":1,"kid":"%s",%s`, kid, bytes.Repeat([]byte("x"), 100)), envelope.MaxMessage); err == nil {
			t.Errorf("%s: opened", kid)
		}
	}
}

// Who invents names makes a ring neither grow nor forget, and is refused for
// the reason that names its fault.
func TestInventedKeyIDs(t *testing.T) {
	r, site := ring(t, pki.RoleMonitor, pki.RoleSensor)
	r.derived = newCache(8)
	known := make(map[string]*envelope.Key)
	for i := range 8 {
		m := mustOpen(t, r, sealed(t, site, fmt.Sprint("web-", i), 1, 1))
		known[string(m.KID)] = r.derived.find(m.KID)
	}
	other, err := NewSiteKey("melb")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		if _, err := r.Open(sealed(t, other, fmt.Sprint("x", i), 1, 1), envelope.MaxMessage); !errors.Is(err, envelope.BadMAC) {
			t.Fatal(err)
		}
	}
	for kid, key := range known {
		if key == nil || r.derived.find([]byte(kid)) != key {
			t.Errorf("the key of %s was forgotten", kid)
		}
	}
	if len(r.derived.byKID) != 8 || len(r.derived.clock) != 8 {
		t.Errorf("%d keys remembered", len(r.derived.byKID))
	}
}

// Even who can make MACs for invented names, because it holds the role's key,
// cannot evict the keys that are in use, nor make the ring grow.
func TestKeysInUseAreKept(t *testing.T) {
	r, site := ring(t, pki.RoleMonitor, pki.RoleSensor)
	r.derived = newCache(16)
	const inUse = 10
	keys := make(map[int]*envelope.Key)
	for round := range 200 {
		for i := range inUse {
			m := mustOpen(t, r, sealed(t, site, fmt.Sprint("web-", i), 1, uint64(round+1)))
			switch key := r.derived.find(m.KID); {
			case round == 0:
				keys[i] = key
			case key != keys[i] || key == nil:
				t.Fatalf("round %d: the key of web-%d was given up", round, i)
			}
		}
		for i := range 4 {
			mustOpen(t, r, sealed(t, site, fmt.Sprintf("x%d-%d", round, i), 1, 1))
		}
		if len(r.derived.byKID) > 16 || len(r.derived.clock) > 16 {
			t.Fatalf("%d keys remembered", len(r.derived.byKID))
		}
	}
}

// A cache in which every key is in use gives one up all the same.
func TestFullCacheOfKeysInUse(t *testing.T) {
	c := newCache(4)
	key, err := envelope.NewKey(make([]byte, envelope.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		kid := fmt.Sprint(i)
		c.remember(kid, key)
		c.remember(kid, key)
		for _, e := range c.clock {
			c.find([]byte(e.kid))
		}
		if c.find([]byte(kid)) == nil || len(c.byKID) != len(c.clock) || len(c.clock) > 4 {
			t.Fatalf("key %d: %d in the map, %d on the clock", i, len(c.byKID), len(c.clock))
		}
	}
}

func TestOpenConcurrently(t *testing.T) {
	r, site := ring(t, pki.RoleMonitor, pki.RoleSensor)
	r.derived = newCache(8)
	var raws [][]byte
	for i := range 20 {
		raws = append(raws, sealed(t, site, fmt.Sprint("web-", i), 1, 1))
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 400 {
				if _, err := r.Open(raws[(i*(w+1))%len(raws)], envelope.MaxMessage); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(r.derived.byKID) != 8 || len(r.derived.clock) != 8 {
		t.Errorf("%d and %d keys remembered", len(r.derived.byKID), len(r.derived.clock))
	}
}

func TestOpenDoesNotAllocate(t *testing.T) {
	r, site := ring(t, pki.RoleMonitor, pki.RoleSensor)
	raw := sealed(t, site, "web-1", 1, 1)
	mustOpen(t, r, raw)
	if n := testing.AllocsPerRun(100, func() { mustOpen(t, r, raw) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// While a sender is re-keyed both its generations open, each with its own key,
// and they share one window: the new key does not make an old number new.
func TestGenerationsOverlap(t *testing.T) {
	r, site := ring(t, pki.RoleMonitor, pki.RoleSensor)
	windows := replay.New(1) // a second window would find no room
	check := func(raw []byte) replay.Verdict {
		t.Helper()
		m := mustOpen(t, r, raw)
		return windows.Check(replay.Message{Sender: m.Sender(), Boot: m.Nonce.Boot, Seq: m.Nonce.Seq, Time: m.Time, Tag: m.Tag()})
	}
	for i, step := range []struct {
		generation uint32
		seq        uint64
		want       replay.Verdict
	}{
		{1, 1, replay.Fresh},
		{2, 2, replay.Fresh},
		{1, 3, replay.Fresh},
		{2, 2, replay.Redelivery},
		{1, 2, replay.Collision},
		{2, 3, replay.Collision},
		{4294967295, 4, replay.Fresh},
	} {
		if got := check(sealed(t, site, "web-1", step.generation, step.seq)); got != step.want {
			t.Errorf("step %d: generation %d, number %d: %v, want %v", i+1, step.generation, step.seq, got, step.want)
		}
	}
	// One generation's message under the other's name opens with neither.
	old := sealed(t, site, "web-1", 1, 5)
	if _, err := r.Open(bytes.Replace(old, []byte("web-1/1"), []byte("web-1/2"), 1), envelope.MaxMessage); !errors.Is(err, envelope.BadMAC) {
		t.Errorf("a message of generation 1 as one of generation 2: %v", err)
	}
}

// BenchmarkOpenFleet goes round 100,000 senders, whose keys are remembered, and
// says what one remembered key costs. Beside it, the price of an invented name.
func BenchmarkOpenFleet(b *testing.B) {
	const fleet = 100_000
	r, site := ring(b, pki.RoleMonitor, pki.RoleSensor)
	b.Run("remembered", func(b *testing.B) {
		raws := make([][]byte, fleet)
		for i := range raws {
			raws[i] = sealed(b, site, fmt.Sprint("web-", i), 1, 1)
		}
		before := heap()
		for _, raw := range raws {
			mustOpen(b, r, raw)
		}
		each := float64(heap()-before) / fleet
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			i = (i + 7919) % fleet
			mustOpen(b, r, raws[i])
		}
		b.ReportMetric(each, "heap-B/sender")
	})
	b.Run("invented", func(b *testing.B) {
		raw := spoilt(sealed(b, site, "invented", 1, 1))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := r.Open(raw, envelope.MaxMessage); !errors.Is(err, envelope.BadMAC) {
				b.Fatal(err)
			}
		}
	})
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
