package broker

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/envelope/replay"
	"levee/internal/provision"
	"levee/pki"
	"levee/test/rawmqtt"
)

// twoSites serves melb, which it returns, and perth at one address.
func twoSites(t *testing.T) (melb, perth *space) {
	t.Helper()
	s := &space{t: t, whole: t, bank: newBank(t), log: &logBuffer{}}
	log := slog.New(slog.NewTextHandler(s.log, nil))
	var sites []*Broker
	for _, name := range []string{"melb", "perth"} {
		c := Config{Site: name, Host: hostOf(name), TLS: s.bank.serverTLS(name, s.bank.verifier()), Verifier: s.bank.verifier(),
			Windows: replay.New(100), Revocations: nothing{}, Log: log}
		rules(t)(&c)
		b, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		sites = append(sites, b)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, "127.0.0.1:0", sites...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	for _, b := range sites {
		<-b.Ready()
	}
	s.broker = sites[0]
	return s, &space{t: t, whole: t, bank: s.bank, log: s.log, broker: sites[1]}
}

// Several sites at one address share nothing but that: each client speaks within
// the site that it names, and may name its own alone. Namesakes do not meet,
// public text is the site's, and policies are apart.
func TestSitesShareAnAddressAlone(t *testing.T) {
	s, perth := twoSites(t)
	there := identity("perth", pki.RoleSensor, "web-1")
	at := func(site string, id pki.Identity) *rawmqtt.Client {
		t.Helper()
		c, err := rawmqtt.Dial(s.broker.Addr().String(), s.bank.clientTLS(site, s.bank.credential(id)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: id.ClientID(), KeepAlive: 30}); err != nil || code != 0 {
			t.Fatalf("%s at %s: code %d, %v", id, site, code, err)
		}
		return c
	}
	here, reader, other := at("melb", web1), at("melb", web2), at("perth", there)
	s.subscribe(reader, 0, "public/#")
	if err := other.Send(pub("public/x", []byte("from perth"), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(other)
	if err := here.Send(pub("public/x", []byte("from melb"), 0)); err != nil {
		t.Fatal(err)
	}
	if got := s.message(reader); string(got.Payload) != "from melb" {
		t.Errorf("read %q", got.Payload)
	}

	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(there)))
	s.counted("refused_certificate", 1)
	s.refusedAt(s.bank.clientTLS("perth", s.bank.credential(web1)))
	perth.counted("refused_certificate", 1)
	for _, name := range []string{"", "ops." + hostOf("melb"), "sub." + hostOf("melb"), hostOf("sydney")} {
		config := s.bank.clientTLS("melb", s.bank.credential(web1))
		config.ServerName = name
		config.InsecureSkipVerify = true // a client that takes any server
		s.refusedAt(config)
	}
	s.counted("refused_site", 4)

	perth.broker.Reload(edited(t, func(text string) string { // perth has no guests any more, melb has
		begin, end := strings.Index(text, "\n  guest:"), strings.Index(text, "\n  operator:")
		return text[:begin] + text[end:]
	}))
	at("melb", guest)
	if c, err := rawmqtt.Dial(s.broker.Addr().String(), s.bank.clientTLS("perth", s.bank.credential(identity("perth", pki.RoleGuest, "g")))); err == nil {
		s.closed(c)
	}
	perth.counted("refused_role", 1)
	s.ping(here)
	s.ping(other)
}

// A process serves several sites from their own configuration files, and takes
// up a new policy of one of them.
func TestOpenServesSeveralSites(t *testing.T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := socket.Addr().String()
	_ = socket.Close()
	layout := provision.Layout{Dir: t.TempDir()}
	inventory := provision.Inventory{TrustDomain: trustDomain}
	for _, name := range []string{"melb", "perth"} {
		inventory.Sites = append(inventory.Sites, provision.Site{Name: name, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Brokers: []provision.Broker{{Name: "b1", Listen: address, Address: address}}, Recorder: "rec-1",
			Sensors: []provision.Sensor{{Name: "web-1"}}, Monitors: []provision.Monitor{{Name: "m1"}}, Controllers: []provision.Controller{{Name: "lb-1"}}})
	}
	if _, err := provision.Apply(layout.Dir, inventory, time.Now()); err != nil {
		t.Fatal(err)
	}
	file := layout.Config(identity("melb", pki.RoleBroker, "b1"))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	also := func(files ...string) string {
		t.Helper()
		path := filepath.Join(filepath.Dir(file), "several.yaml")
		lines := "also:\n"
		for _, f := range files {
			lines += "  - " + f + "\n"
		}
		if err := os.WriteFile(path, append(text[:len(text):len(text)], lines...), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	log := &logBuffer{}
	for name, files := range map[string][]string{"itself": {file}, "none": {"/nonexistent"}} {
		if _, err := Open(also(files...), slog.New(slog.NewTextHandler(log, nil))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	perth := layout.Config(identity("perth", pki.RoleBroker, "b1"))
	p, err := Open(also(perth), slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	<-p.Ready()
	for _, site := range []string{"melb", "perth"} {
		conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: hostOf(site), InsecureSkipVerify: true}) // what it shows
		if err != nil {
			t.Fatal(err)
		}
		if uri := conn.ConnectionState().PeerCertificates[0].URIs[0].String(); uri != "spiffe://"+hostOf(site)+"/broker/b1" {
			t.Errorf("%s: shown %s", site, uri)
		}
		_ = conn.Close()
	}
	if err := p.Reload(); err != nil {
		t.Error(err)
	}
	policy := filepath.Join(layout.Bundle(identity("perth", pki.RoleBroker, "b1")), "policy.yaml")
	if text, err = os.ReadFile(policy); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(policy, append(text, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Reload(); err == nil {
		t.Error("a policy that no site document names was taken up")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
