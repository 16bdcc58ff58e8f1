package broker

import (
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"levee/internal/brokeradmin"
	"levee/pki"
	"levee/test/rawmqtt"
)

// An administrator sees who is connected, and what each costs.
func TestAdministratorSeesSessions(t *testing.T) {
	s := open(t)
	a := administration{s.broker}
	sensor, reader := s.connect(web1), s.connect(operator)
	s.subscribe(reader, 0, cpuFilter)
	from := s.sender(web1)
	for range 3 {
		if err := sensor.Send(pub(cpuTopic, from.reading(cpuTopic), 0)); err != nil {
			t.Fatal(err)
		}
	}
	s.ping(sensor)
	s.dial(web2) // has no session yet
	all := a.Sessions("")
	i := slices.IndexFunc(all, func(x brokeradmin.Session) bool { return x.Identity == web1.Sender() })
	j := slices.IndexFunc(all, func(x brokeradmin.Session) bool { return x.Identity == operator.Sender() })
	if i < 0 || j < 0 {
		t.Fatalf("%+v", all)
	}
	one, other := all[i], all[j]
	if one.Client != web1.ClientID() || one.Site != "melb" || one.Messages != 3 || one.Bytes < 600 || one.FiltersHeld != 0 || one.HeldBackMS != 0 || one.Queued != 0 || time.Since(one.Since) > time.Minute {
		t.Errorf("%+v", one)
	}
	if host, _, err := net.SplitHostPort(one.Remote); host != "127.0.0.1" || err != nil {
		t.Errorf("remote %s", one.Remote)
	}
	if !slices.Equal(other.Filters, []string{cpuFilter, "public/marker"}) || other.FiltersHeld != 2 || other.Messages != 0 {
		t.Errorf("%+v", other)
	}
	if one := a.Sessions(web1.Sender()); len(one) != 1 || one[0].Identity != web1.Sender() {
		t.Errorf("%+v", one)
	}
	if none := a.Sessions("melb/sensor/nobody"); len(none) != 0 {
		t.Errorf("%+v", none)
	}
}

// Who is over its rate is shown with the time that it was held back.
func TestAdministratorSeesWhoIsHeldBack(t *testing.T) {
	s := open(t, rules(t, replacing(t, "messages_per_second: 20, burst: 100", "messages_per_second: 20, burst: 1", 1)))
	sensor := s.connect(web1)
	for range 3 {
		s.ping(sensor)
	}
	if one := (administration{s.broker}).Sessions(web1.Sender()); len(one) != 1 || one[0].HeldBackMS < 20 {
		t.Errorf("%+v", one)
	}
}

// A kick ends all sessions of an identity and nobody else's, and bans nobody.
func TestKick(t *testing.T) {
	s := open(t)
	a := administration{s.broker}
	first, bystander := s.connect(operator), s.connect(web1)
	second := s.dial(operator)
	if code, err := second.Connect(rawmqtt.ConnectOptions{ClientID: operator.ClientID() + "_1", KeepAlive: 30}); err != nil || code != 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	if n := a.Kick(operator.Sender()); n != 2 {
		t.Errorf("%d sessions", n)
	}
	s.closed(first)
	s.closed(second)
	s.counted("refused_kicked", 2)
	s.ping(bystander)
	s.connect(operator)
	if n := a.Kick("melb/sensor/nobody"); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// A ban by order ends the sessions of an identity, keeps it out, and nobody
// else; it ends by itself or by order.
func TestBanByOrder(t *testing.T) {
	s := open(t)
	a := administration{s.broker}
	sensor, bystander := s.connect(web1), s.connect(web2)
	if n, err := a.Ban(brokeradmin.Target{Identity: web1.Sender()}, time.Hour); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	s.closed(sensor)
	s.counted("refused_kicked", 1)
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(web1)))
	s.counted("refused_banned", 1)
	s.ping(bystander)
	bans := a.Bans()
	if len(bans) != 1 || bans[0].Who != web1.Sender() || bans[0].Reason != byOrder || time.Until(bans[0].Until) < 59*time.Minute {
		t.Errorf("%+v", bans)
	}
	if !a.Unban(brokeradmin.Target{Identity: web1.Sender()}) || a.Unban(brokeradmin.Target{Identity: web1.Sender()}) || len(a.Bans()) != 0 {
		t.Errorf("%+v", a.Bans())
	}
	s.connect(web1)
	if n, err := a.Ban(brokeradmin.Target{Identity: "perth/sensor/web-1"}, time.Hour); n != 0 || err == nil {
		t.Error("a ban of another site's identity")
	}
	if n, err := a.Ban(brokeradmin.Target{Identity: web2.Sender()}, 100*time.Millisecond); n != 1 || err != nil {
		t.Error(n, err)
	}
	time.Sleep(100 * time.Millisecond)
	s.connect(web2)
}

// passing calls at when a session is about to begin.
type passing struct {
	nothing
	at func()
}

func (p passing) Revoked(pki.Identity, *x509.Certificate) bool {
	p.at()
	return false
}

// Whoever was let in just before a ban, and is in no list of sessions yet, does
// not slip past it.
func TestBanSeesWhoIsOnTheWay(t *testing.T) {
	var s *space
	s = open(t, func(c *Config) {
		c.Revocations = passing{at: func() {
			now := time.Now()
			if err := s.broker.bans.orderIdentity(web1.Sender(), now.Add(time.Hour), now); err != nil {
				t.Error(err)
			}
		}}
	})
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(web1)))
	s.counted("refused_banned", 1)
	s.connect(web2)
}

// A ban of an address refuses what connects from there, and ends nothing that
// works: others may share it.
func TestBanOfAnAddressByOrder(t *testing.T) {
	s := open(t)
	a := administration{s.broker}
	sensor := s.connect(web1)
	here := brokeradmin.Target{Address: netip.MustParseAddr("127.0.0.1")}
	if n, err := a.Ban(here, time.Hour); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if c, err := rawmqtt.Dial(s.broker.Addr().String(), s.bank.clientTLS("melb", s.bank.credential(web2))); err == nil {
		s.closed(c)
	}
	s.counted("refused_banned", 1)
	s.ping(sensor)
	if bans := a.Bans(); len(bans) != 1 || bans[0].Who != "127.0.0.1/32" {
		t.Errorf("%+v", bans)
	}
	if !a.Unban(here) || a.Unban(here) {
		t.Error("the ban was not lifted, or twice")
	}
	s.connect(web2)
}

// A full table of addresses, which an attacker can fill, keeps no administrator
// out; nor can the orders go on for ever.
func TestBanByOrderHasRoom(t *testing.T) {
	b, now := newBans(), time.Now()
	address := func(i int) netip.Prefix {
		return area(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	for i := range maxAddresses {
		b.addresses[address(i)] = &conduct{}
	}
	for i := range maxOrdered {
		if err := b.orderAddress(address(maxAddresses+i), now.Add(time.Hour), now); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := b.orderAddress(address(maxAddresses+maxOrdered), now.Add(time.Hour), now); err == nil {
		t.Error("no bound")
	}
	if n := len(b.ofAddresses(now)); n != maxOrdered {
		t.Errorf("%d bans", n)
	}
}

// Before the broker listens, and where it never does, there is nobody to order.
func TestAdministratorBeforeTheDoor(t *testing.T) {
	a := administration{&Broker{site: "melb", bans: newBans(), ready: make(chan struct{})}}
	if n, err := a.Ban(brokeradmin.Target{Identity: web1.Sender()}, time.Hour); n != 0 || err == nil {
		t.Error("banned")
	}
	if len(a.Sessions(""))+len(a.Bans())+a.Kick(web1.Sender()) != 0 || a.Unban(brokeradmin.Target{Address: netip.MustParseAddr("127.0.0.1")}) {
		t.Error("something is there")
	}
}

// Where one process serves several sites an administrator of one sees and orders
// its own sessions alone; addresses are banned for all.
func TestAdministrationOfSeveralSites(t *testing.T) {
	melb, perth := twoSites(t)
	here := melb.connect(web1)
	there := identity("perth", pki.RoleSensor, "web-1")
	c, err := rawmqtt.Dial(perth.broker.Addr().String(), melb.bank.clientTLS("perth", melb.bank.credential(there)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: there.ClientID(), KeepAlive: 30}); err != nil || code != 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	a, b := administration{melb.broker}, administration{perth.broker}
	if all := a.Sessions(""); len(all) != 1 || all[0].Identity != web1.Sender() || all[0].Site != "melb" {
		t.Errorf("%+v", all)
	}
	if a.Kick(there.Sender()) != 0 {
		t.Error("another site's session was ended")
	}
	if _, err := b.Ban(brokeradmin.Target{Identity: there.Sender()}, time.Hour); err != nil || len(a.Bans()) != 0 || len(b.Bans()) != 1 {
		t.Errorf("%v, %v, %v", err, a.Bans(), b.Bans())
	}
	perth.closed(c)
	address := brokeradmin.Target{Address: netip.MustParseAddr("127.0.0.1")}
	if _, err := b.Ban(address, time.Hour); err != nil || len(a.Bans()) != 1 || len(b.Bans()) != 2 {
		t.Errorf("%v, %v, %v", err, a.Bans(), b.Bans())
	}
	if c, err := rawmqtt.Dial(melb.broker.Addr().String(), melb.bank.clientTLS("melb", melb.bank.credential(web2))); err == nil {
		melb.closed(c)
	}
	melb.counted("refused_banned", 1)
	melb.ping(here)
	if !a.Unban(address) || len(b.Bans()) != 1 {
		t.Errorf("%v", b.Bans())
	}
}
