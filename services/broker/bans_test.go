package broker

import (
	"crypto/tls"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"levee/policies"
	"levee/test/rawmqtt"
)

// Bans begin at one event more than the policy allows, double while they follow
// each other, stop at the longest, and are forgotten.
func TestBans(t *testing.T) {
	p := policies.Broker{Connects: 2, Failures: 2, Offences: 2, OffencesWithin: 10 * time.Minute, FirstBan: time.Minute, LongestBan: 3 * time.Minute}
	now := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	b := newBans()
	arrive := func(want time.Duration, wantBegan bool) {
		t.Helper()
		until, began := b.arrive("melb/sensor/web-1", p, now)
		if got := max(until.Sub(now), 0); got != want || began != wantBegan {
			t.Errorf("%s: banned for %s, began %t; want %s, %t", now.Format(time.TimeOnly), got, began, want, wantBegan)
		}
	}
	arrive(0, false)
	arrive(0, false)
	arrive(time.Minute, true)
	now = now.Add(59 * time.Second)
	arrive(time.Second, false)
	now = now.Add(time.Second) // the ban is over, and counting begins anew
	for _, length := range []time.Duration{2 * time.Minute, 3 * time.Minute, 3 * time.Minute} {
		arrive(0, false)
		arrive(0, false)
		arrive(length, true)
		now = now.Add(length)
	}
	now = now.Add(p.LongestBan)
	arrive(0, false)
	arrive(0, false)
	arrive(time.Minute, true) // long enough ago
	if until, _ := b.arrive("melb/sensor/web-2", p, now); !until.IsZero() {
		t.Error("another's ban")
	}

	const guest = "melb/guest/g"
	if until := b.offend(guest, "its conduct", p, now); !until.IsZero() {
		t.Error("banned for the first offence")
	}
	now = now.Add(10 * time.Minute)
	if until := b.offend(guest, "its conduct", p, now); !until.IsZero() {
		t.Error("banned for an offence of long ago")
	}
	if until := b.offend(guest, "its conduct", p, now.Add(time.Second)); !until.Equal(now.Add(time.Second + time.Minute)) {
		t.Errorf("second offence: until %s", until)
	}
	if until := b.offend(guest, "its conduct", p, now.Add(2*time.Second)); !until.IsZero() {
		t.Error("a ban within a ban")
	}

	from := netip.MustParsePrefix("192.0.2.7/32")
	for range p.Failures {
		if until := b.fail(from, p, now); !until.IsZero() || b.address(from, now) {
			t.Fatal("address banned too early")
		}
	}
	if until := b.fail(from, p, now); !until.Equal(now.Add(time.Minute)) || !b.address(from, now) || b.address(from, until) {
		t.Errorf("address banned until %s", until)
	}
	if b.address(netip.MustParsePrefix("192.0.2.8/32"), now) {
		t.Error("another address is banned")
	}
	b.sweep(p, now.Add(time.Minute))
	if len(b.identities) != 1 || len(b.addresses) != 1 { // web-1 has behaved for long enough
		t.Errorf("forgot bans that count: %d, %d", len(b.identities), len(b.addresses))
	}
	b.sweep(p, now.Add(time.Hour))
	if len(b.identities)+len(b.addresses) != 0 {
		t.Errorf("kept for ever: %d, %d", len(b.identities), len(b.addresses))
	}
}

// The watch over addresses is bounded, whatever connects.
func TestWatchedAddressesAreBounded(t *testing.T) {
	b, p, now := newBans(), policies.Broker{Failures: 1, FirstBan: time.Minute, LongestBan: time.Minute}, time.Now()
	for i := range maxAddresses + 10 {
		b.fail(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), p, now)
	}
	if len(b.addresses) != maxAddresses {
		t.Errorf("%d addresses", len(b.addresses))
	}
}

// An identity that misbehaves in one session after another is kept away, nobody
// else, and for a time alone.
func TestMisconductBans(t *testing.T) {
	s := open(t, rules(t, bounded("offences: 3", "first_ban: 2s")))
	bystander := s.connect(web2)
	for range 3 {
		c := s.connect(guest)
		if err := c.Send(pub(cpuTopic, nil, 0)); err != nil { // not its topic
			t.Fatal(err)
		}
		s.closed(c)
	}
	s.counted("refused_not_publisher", 3)
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(guest)))
	s.counted("refused_banned", 1)
	s.ping(bystander)
	s.connect(web1)
	time.Sleep(2 * time.Second)
	s.connect(guest)
}

// Whoever connects again and again is a clone of somebody, or has a fault.
func TestFlappingBans(t *testing.T) {
	s := open(t, rules(t, bounded("connects: 4")))
	for range 4 {
		s.connect(web1).Close()
	}
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(web1)))
	s.counted("refused_banned", 1)
	s.connect(web2)
}

// An address from which nothing but noise comes is kept away. Sessions from
// there that work go on, and certificates of ours that have expired do not
// count: many of a site may share one address.
func TestNoiseBansItsAddress(t *testing.T) {
	s := open(t, rules(t, bounded("failures: 3")))
	bystander := s.connect(web2)
	expired := s.bank.issue(web1, time.Second)
	time.Sleep(time.Until(expired.Leaf.NotAfter) + 10*time.Millisecond)
	for range 5 {
		s.refusedAt(s.bank.clientTLS("melb", expired))
	}
	s.counted("refused_certificate", 5)
	for range 4 {
		s.refusedAt(s.bank.clientTLS("melb")) // no certificate
	}
	s.counted("refused_handshake", 4)
	if c, err := rawmqtt.Dial(s.broker.Addr().String(), s.bank.clientTLS("melb", s.bank.credential(web1))); err == nil {
		s.closed(c)
	}
	s.counted("refused_banned", 1)
	s.ping(bystander)
}

// A running broker asks about bans before it verifies anybody's chain.
func TestABannedConnectionIsNotVerified(t *testing.T) {
	var verified atomic.Int64
	s := open(t, func(cfg *Config) {
		verify := cfg.TLS.VerifyConnection
		cfg.TLS.VerifyConnection = func(cs tls.ConnectionState) error { verified.Add(1); return verify(cs) }
	})
	s.connect(web1)
	if n := verified.Load(); n != 1 {
		t.Fatalf("verified %d times", n)
	}
	if err := s.broker.bans.orderIdentity(guest.Sender(), time.Now().Add(time.Hour), time.Now()); err != nil {
		t.Fatal(err)
	}
	s.closed(s.dial(guest))
	if n := verified.Load(); n != 1 {
		t.Errorf("verified %d times", n)
	}
}
