package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"levee/envelope"
	"levee/envelope/keys"
	"levee/internal/feed"
	"levee/internal/issuance"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/rawmqtt"
)

// as is a machine of melb whose certificate the stolen key signed. It has the
// message key too, which the thief of an authority does not: so that nothing
// but its certificate is wrong with what it says.
func (s *stolen) as(t *testing.T, role pki.Role, name string) *party {
	t.Helper()
	id := at("melb", role, name)
	shown := s.forge(t, id, nil)
	leaf, err := x509.ParseCertificate(shown.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	p := &party{id: id, cert: shown, boot: uint64(time.Now().UnixMilli())}
	if p.signer, err = envelope.NewSigner(shown.PrivateKey.(crypto.Signer), leaf, s.authority.Certificate); err != nil {
		t.Fatal(err)
	}
	siteKey, err := keys.LoadSite(filepath.Join(s.layout.Authority(), "melb", "site.key"))
	if err != nil {
		t.Fatal(err)
	}
	roleKey, err := siteKey.Role(role)
	if err != nil {
		t.Fatal(err)
	}
	own, err := roleKey.Sender(name, 1)
	if err != nil {
		t.Fatal(err)
	}
	if p.key, err = own.Envelope(); err != nil {
		t.Fatal(err)
	}
	return p
}

// csr asks for a certificate for a key, in the name of somebody else.
func csr(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "perth_operator_alice"}}
	der, err := x509.CreateCertificateRequest(rand.Reader, request, key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.AppendEncode(nil, der)
}

// atTheIssuer: what a machine that the stolen key made is given, and what not.
func (s *stolen) atTheIssuer(t *testing.T) {
	const (
		renew   = "/.well-known/est/simplereenroll"
		orders  = "/v1/orders"
		join    = "/v1/join"
		journal = "/v1/journal?name=iss-1&from=0"
	)
	sensor, recorder := s.as(t, pki.RoleSensor, "thief"), s.as(t, pki.RoleRecorder, "thief")
	monitor, issuer := s.as(t, pki.RoleMonitor, "mon-1"), s.as(t, pki.RoleIssuer, "iss-1")
	approver, nobody := s.as(t, pki.RoleApprover, "thief"), &party{}
	fresh, err := pki.NewKey(pki.RoleSensor)
	if err != nil {
		t.Fatal(err)
	}
	token := func(leaf pki.Identity, spoil func(*forgery), sender string) []byte {
		cert := s.forge(t, leaf, spoil)
		certs := make([]*x509.Certificate, 2)
		for i := range certs {
			if certs[i], err = x509.ParseCertificate(cert.Certificate[i]); err != nil {
				t.Fatal(err)
			}
		}
		signer, err := envelope.NewSigner(cert.PrivateKey.(crypto.Signer), certs[0], certs[1])
		if err != nil {
			t.Fatal(err)
		}
		request, err := base64.StdEncoding.DecodeString(string(csr(t, fresh)))
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseCertificateRequest(request)
		if err != nil {
			t.Fatal(err)
		}
		order, err := issuance.SignOrder(issuance.Join, issuance.Order{ID: wire.NewID(), Expires: time.Now().Add(time.Minute).UnixMilli(),
			Targets: []string{"melb/sensor/web-9"}, SPKI: issuance.SPKIText(parsed.RawSubjectPublicKeyInfo), Reason: "new"}, sender, signer, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(map[string]string{"csr": string(csr(t, fresh)), "token": base64.RawURLEncoding.EncodeToString(order)})
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	alice := at("melb", pki.RoleOperator, "alice")
	itself := func(f *forgery) { // the stolen authority as if it were the people's
		f.leaf, f.key, f.chain = s.authority.Certificate, s.authority.Signer, []*x509.Certificate{s.root}
	}

	for _, test := range []struct {
		name         string
		by           *party
		method, path string
		body         []byte
		code         int
		answer       string // how it begins
	}{
		{"a sensor renews", sensor, http.MethodPost, renew, csr(t, fresh), 200, ""},
		{"a sensor reads the X.509 list", sensor, http.MethodGet, "/v1/crl", nil, 200, ""},
		{"a recorder reads the journal", recorder, http.MethodGet, journal, nil, 200, ""},
		{"a sensor reads the journal", sensor, http.MethodGet, journal, nil, 403, "identity: "},
		{"a sensor orders", sensor, http.MethodPost, orders, nil, 403, "identity: "},
		{"an issuer orders", issuer, http.MethodPost, orders, nil, 403, "identity: "},
		{"a pinned monitor renews its own key", monitor, http.MethodPost, renew, csr(t, monitor.cert.PrivateKey.(crypto.Signer)), 403, "key: "},
		{"a pinned monitor renews", monitor, http.MethodPost, renew, csr(t, fresh), 403, "key: "},
		{"an approver changes its key", approver, http.MethodPost, renew, csr(t, fresh), 403, "key: "},
		{"a pinned issuer renews its own key", issuer, http.MethodPost, renew, csr(t, issuer.cert.PrivateKey.(crypto.Signer)), 403, "key: "},
		{"a token by an operator that it made", nobody, http.MethodPost, join, token(alice, nil, alice.Sender()), 403, "order: "},
		{"a token by an operator at its own host", nobody, http.MethodPost, join, token(alice, names("spiffe://melb.bank.example/operator/alice"), alice.Sender()), 403, "order: "},
		{"a token by a sensor", nobody, http.MethodPost, join, token(sensor.id, nil, sensor.id.Sender()), 403, "order: "},
		{"a token by itself", nobody, http.MethodPost, join, token(alice, itself, "melb/ca/machine"), 403, "order: "},
		{"a token by itself as the people's authority", nobody, http.MethodPost, join, token(alice, itself, "melb/ca/people"), 403, "order: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := s.parts["melb/issuer"].mark()
			a := s.ask(t, test.by.cert, test.method, test.path, test.body)
			if a.code != test.code || !strings.HasPrefix(a.body, test.answer) {
				t.Fatalf("answered with %d %s; want %d %s", a.code, a.body, test.code, test.answer)
			}
			if test.path != renew || a.code != http.StatusOK {
				return
			}
			// It is given its own identity, and it is written down.
			s.parts["melb/issuer"].awaitLog(t, before, entry{"msg": "certificate issued", "sender": test.by.id.Sender(), "cause": "renewal"})
			der, err := base64.StdEncoding.DecodeString(a.body)
			if err != nil {
				t.Fatal(err)
			}
			certs, err := pki.ParseCertsOnly(der)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return len(c.URIs) == 1 && c.URIs[0].String() == test.by.id.URI() }) {
				t.Error("the certificate is another's")
			}
		})
	}
}

// asPinned: monitors and approvers that the stolen key made are connected, and
// nobody hears them.
func (s *stolen) asPinned(t *testing.T) {
	tap := s.tap(t)
	await(t, 30*time.Second, "the balancer answers", func() bool { return get(s.balancer).code == http.StatusOK })
	for _, by := range []struct {
		name string
		*party
	}{
		{"the monitor", s.as(t, pki.RoleMonitor, "mon-1")},
		{"a monitor of another name", s.as(t, pki.RoleMonitor, "mon-9")},
		{"an approver", s.as(t, pki.RoleApprover, "app-1")},
	} {
		t.Run(by.name, func(t *testing.T) {
			client := s.connect(t, by.party)
			defer client.Close()
			parts := []string{"melb/controller", "melb/recorder"}
			marks := []mark{s.parts[parts[0]].mark(), s.parts[parts[1]].mark()}
			heard := func(name string, from mark, topic string) bool {
				return len(s.parts[name].logged(from, entry{"msg": "message refused", "reason": "pin", "topic": topic})) > 0
			}
			var topic string
			var raw []byte
			await(t, 20*time.Second, "controller and recorder refuse its command for its key", func() bool { // a line a second at most
				topic, raw = by.command(t)
				publish(t, client, topic, raw)
				time.Sleep(200 * time.Millisecond)
				return heard(parts[0], marks[0], topic) && heard(parts[1], marks[1], topic)
			})
			await(t, 10*time.Second, "the broker has passed it on", func() bool { return tap.saw(raw) == 1 })
			if s.limited() {
				t.Error("the balancer is limited")
			}
		})
	}

	// What is not pinned is believed of its role, by those who hold no keys.
	t.Run("a controller's status is shown to people", func(t *testing.T) {
		seen := s.watchAs(t, pki.RoleViewer)
		thief := s.as(t, pki.RoleController, "lb-9")
		client := s.connect(t, thief)
		topic := thief.topic(wire.KindRateLimiting)
		now := time.Now()
		await(t, 20*time.Second, "it is shown", func() bool {
			publish(t, client, topic, thief.sign(t, thief.header(topic), &wire.Status{Timestamp: unixSeconds(now), ID: wire.NewID(),
				Command: wire.EnableRateLimiting, Status: wire.StatusSuccess, State: wire.StateActive, Controller: "lb-9", Server: "web-1"}))
			time.Sleep(200 * time.Millisecond)
			return len(seen.matching(func(l feed.Line) bool { return l.Sender == thief.id.Sender() && l.Verification == feed.Verified })) > 0
		})
	})
}

// list is a list of revocations that takes the site apart.
func (p *party) list(t *testing.T, number uint64) (topic string, raw []byte) {
	t.Helper()
	topic = p.topic(wire.KindRevocations)
	now := time.Now().UnixMilli()
	var revoked []wire.Revoked
	for _, sender := range []string{"melb/recorder/rec-1", "melb/controller/lb-1", "melb/sensor/web-3", "melb/broker/broker-1"} {
		revoked = append(revoked, wire.Revoked{Sender: sender, Before: now})
	}
	return topic, p.sign(t, p.header(topic), &wire.Revocations{Timestamp: float64(now) / 1000, Number: number, Issued: now, Revoked: revoked})
}

// lists: an issuer that the stolen key made revokes everybody, and nobody
// believes it. The true issuer's next list is believed.
func (s *stolen) lists(t *testing.T) {
	broker, tap, sensor := s.parts["melb/broker"], s.tap(t), s.fence(t, "web-3")
	for _, name := range []string{"iss-1", "thief"} {
		for _, number := range []struct {
			name string
			of   func() uint64
		}{{"low", func() uint64 { return 1 }}, {"high", func() uint64 { return uint64(time.Now().UnixMilli()) }}} {
			t.Run(name+", a number that is "+number.name, func(t *testing.T) {
				issuer, before := s.as(t, pki.RoleIssuer, name), broker.mark()
				client := s.connect(t, issuer)
				defer client.Close()
				await(t, 20*time.Second, "the broker refuses its list for its key", func() bool {
					topic, raw := issuer.list(t, number.of())
					publish(t, client, topic, raw)
					time.Sleep(200 * time.Millisecond)
					return slices.ContainsFunc(broker.logged(before, entry{"msg": "list of revocations refused"}), func(e entry) bool {
						text, _ := e["error"].(string)
						return strings.Contains(text, "the site document does not pin for "+issuer.id.Sender())
					})
				})
				if changed := broker.logged(before, entry{"msg": "revocations changed"}); len(changed) != 0 {
					t.Errorf("it is in force: %v", changed)
				}
				sensor.pass(t, tap)
			})
		}
	}
	// The thief has put the true issuer out, and spoke in its name, which makes
	// that one look like a copy: it is started again. No number of the thief's counts.
	s.parts["melb/issuer"].Stop(t)
	before := broker.mark()
	s.parts["melb/issuer"] = s.daemon(s.whole, pki.RoleIssuer)
	s.parts["melb/issuer"].awaitLog(t, 0, entry{"msg": "connected"})
	victim := s.connect(t, s.steal(t, pki.RoleSensor, "web-2"))
	s.order(t, "revoke", "melb/sensor/web-2", "--reason", "stolen")
	broker.awaitLog(t, before, entry{"msg": "revocations changed"})
	closed(t, victim)
	sensor.pass(t, tap)
}

// pose answers TLS at an address with whatever certificate is current, for as
// long as serve likes.
func pose(t *testing.T, address string, serve func(net.Conn)) (shown *atomic.Pointer[tls.Certificate]) {
	t.Helper()
	shown = new(atomic.Pointer[tls.Certificate])
	l, err := tls.Listen("tcp", address, &tls.Config{ClientAuth: tls.RequireAnyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return shown.Load(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	shown.Store(&tls.Certificate{})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return shown
}

// asServers: the stolen key makes brokers and issuers of its own site. They are
// what any captured broker or issuer is, and nothing else.
func (s *stolen) asServers(t *testing.T) {
	server := func(id pki.Identity, host string, more func(*forgery)) *tls.Certificate {
		cert := s.forge(t, id, func(f *forgery) {
			f.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
			f.DNSNames = []string{host}
			if more != nil {
				more(f)
			}
		})
		return &cert
	}
	const melb, perth = "melb.bank.example", "perth.bank.example"
	broker := at("melb", pki.RoleBroker, "broker-1")
	refuses := func(p *process, shown *atomic.Pointer[tls.Certificate], cert *tls.Certificate, why string) func(*testing.T) {
		return func(t *testing.T) {
			shown.Store(cert)
			time.Sleep(50 * time.Millisecond) // for a handshake that is under way
			before := p.mark()
			await(t, 30*time.Second, p.Name+" refuses it: "+why, func() bool {
				lines := p.logged(before, entry{"msg": "not connected"})
				if len(lines) == 0 {
					return false
				}
				if text, _ := lines[len(lines)-1]["error"].(string); !strings.Contains(text, why) {
					t.Fatalf("refused for another reason: %s; want %q", text, why)
				}
				return true
			})
			if len(p.logged(before, entry{"msg": "connected"})) != 0 {
				t.Error("it is connected")
			}
		}
	}

	s.parts["perth/broker"].Kill(t)
	shown := pose(t, s.perthBroker, func(c net.Conn) { c.(*tls.Conn).Handshake(); c.Close() })
	monitor := start(t, "levee-monitor", "--config", s.layout.Config(at("perth", pki.RoleMonitor, "mon-1")))
	for name, row := range map[string]struct {
		cert *tls.Certificate
		why  string
	}{
		"melb's":                {server(broker, melb, nil), "not " + perth},
		"melb's by perth's DNS": {server(broker, perth, nil), "is not permitted by any constraint"},
		"perth's":               {server(at("perth", pki.RoleBroker, "broker-1"), perth, nil), "is not permitted by any constraint"},
		"perth's, DNS of melb":  {server(at("perth", pki.RoleBroker, "broker-1"), melb, nil), "not " + perth},
	} {
		t.Run("to perth's monitor: "+name, refuses(monitor, shown, row.cert, row.why))
	}

	s.parts["melb/broker"].Kill(t)
	c := &captured{links: make(map[string]*rawmqtt.Client)}
	shown = pose(t, s.broker, c.serve)
	controller, id := s.parts["melb/controller"], s.ids[pki.RoleController]
	for name, row := range map[string]struct {
		cert *tls.Certificate
		why  string
	}{
		"a sensor":   {server(at("melb", pki.RoleSensor, "thief"), melb, nil), "role sensor is no server"},
		"a recorder": {server(at("melb", pki.RoleRecorder, "thief"), melb, nil), "dialled a broker of melb"},
		"an issuer":  {server(at("melb", pki.RoleIssuer, "iss-1"), melb, nil), "dialled a broker of melb"},
		"a CA":       {server(broker, melb, func(f *forgery) { f.IsCA = true }), "is a CA"},
	} {
		t.Run("to the controller: "+name, refuses(controller, shown, row.cert, row.why))
	}
	t.Run("to the controller: a broker", func(t *testing.T) {
		shown.Store(server(broker, melb, nil))
		c.awaitClient(t, id)
		topic, raw := s.as(t, pki.RoleMonitor, "mon-1").command(t)
		c.refuses(t, controller, id, []lie{{"a command of the monitor that it made", topic, raw, "pin"}})
		before := controller.mark()
		for _, name := range []string{"iss-1", "thief"} {
			issuer, from := s.as(t, pki.RoleIssuer, name), controller.mark()
			await(t, 20*time.Second, "the controller refuses a list of "+name+" for its key", func() bool {
				topic, raw := issuer.list(t, uint64(time.Now().UnixMilli()))
				c.tell(t, id, topic, raw)
				time.Sleep(200 * time.Millisecond)
				return len(controller.logged(from, entry{"msg": "message refused", "reason": "pin", "topic": topic})) > 0
			})
		}
		if changed := controller.logged(before, entry{"msg": "revocations changed"}); len(changed) != 0 {
			t.Errorf("a list is in force: %v", changed)
		}
	})

	s.parts["melb/issuer"].Kill(t)
	shown = pose(t, s.issuer, func(c net.Conn) {
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			c.Write([]byte("HTTP/1.1 503 No\r\nContent-Length: 12\r\nConnection: close\r\n\r\nthe thief's\n"))
		}
	})
	for name, row := range map[string]struct {
		cert *tls.Certificate
		why  string
	}{
		"a recorder": {server(at("melb", pki.RoleRecorder, "thief"), melb, nil), "it is no issuer of melb"},
		"a sensor":   {server(at("melb", pki.RoleSensor, "thief"), melb, nil), "role sensor is no server"},
		"perth's":    {server(at("perth", pki.RoleIssuer, "iss-1"), melb, nil), "is not permitted by any constraint"},
		"an issuer":  {server(at("melb", pki.RoleIssuer, "thief"), melb, nil), "the issuer refuses (503): the thief's"}, // it is asked
	} {
		t.Run("to who renews: "+name, func(t *testing.T) {
			shown.Store(row.cert)
			out, err := exec.Command(filepath.Join(bin, "levee"), "pki", "renew", s.layout.Bundle(at("melb", pki.RoleSensor, "web-3"))).CombinedOutput()
			if err == nil || !strings.Contains(string(out), row.why) {
				t.Errorf("%v: %s; want %q", err, out, row.why)
			}
		})
	}
}
