package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/provision"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
	"levee/test/programs"
	"levee/test/rawmqtt"
)

// stolen is a bank of two sites that runs, and the key of melb's machine
// authority in an attacker's hands. The attacker has every certificate as well,
// because those are public, and no other key unless a test says so.
type stolen struct {
	*bank
	whole               *testing.T        // whose processes outlive its parts
	root, people, perth *x509.Certificate // the root's, and the authorities of melb's people and perth's machines
	authority           ca.Issuer         // melb's machines: the stolen one
	perthBroker         string            // addresses
	issuer              string
	from                net.IP              // of the thief, who is banned where it fails often
	parts               map[string]*process // by "site/role"
}

// melbParts run throughout, beside the two brokers. No monitor does: its name is
// the thief's to try.
var melbParts = []pki.Role{pki.RoleIssuer, pki.RoleRecorder, pki.RoleController}

func newStolen(t *testing.T) *stolen {
	t.Helper()
	s := &stolen{whole: t, perthBroker: freePort(t), parts: make(map[string]*process)}
	s.bank = newBank(t, renewing(t, time.Hour), withGuest, func(inv *provision.Inventory) {
		melb := &inv.Sites[0]
		s.issuer = melb.Issuers[0].Address
		melb.Sensors = append(melb.Sensors, provision.Sensor{Name: "web-2"}, provision.Sensor{Name: "web-3"})
		inv.Sites = append(inv.Sites, provision.Site{
			Name: "perth", Networks: melb.Networks,
			Brokers: []provision.Broker{{Name: "broker-1", Listen: s.perthBroker, Address: s.perthBroker}},
			Sensors: []provision.Sensor{{Name: "web-1"}}, Monitors: []provision.Monitor{{Name: "mon-1"}},
		})
	})
	read := func(path ...string) *x509.Certificate {
		c, err := pki.ReadCertificate(filepath.Join(append([]string{s.layout.Authority()}, path...)...))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var err error
	if s.authority.Signer, err = pki.ReadKey(filepath.Join(s.layout.Authority(), "melb", "machine-ca.key")); err != nil {
		t.Fatal(err)
	}
	if s.root, err = pki.ReadCertificate(filepath.Join(s.layout.Bundle(s.ids[pki.RoleBroker]), site.FileRoot)); err != nil {
		t.Fatal(err)
	}
	s.authority.Certificate = read("melb", "machine-ca.pem")
	s.people, s.perth = read("melb", "people-ca.pem"), read("perth", "machine-ca.pem")
	for _, id := range []pki.Identity{s.ids[pki.RoleBroker], at("perth", pki.RoleBroker, "broker-1")} {
		p := start(t, "levee-broker", "--config", s.layout.Config(id))
		p.awaitLog(t, 0, entry{"msg": "broker listens"})
		s.parts[id.Site+"/broker"] = p
	}
	for _, role := range melbParts {
		s.parts["melb/"+string(role)] = s.daemon(t, role)
	}
	for _, role := range melbParts {
		s.parts["melb/"+string(role)].awaitLog(t, 0, entry{"msg": "connected"})
	}
	return s
}

func at(site string, role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: "bank.example", Site: site, Role: role, Name: name}
}

// forgery is a certificate before the stolen key signs it, and what its bearer
// shows with it. The zero value of a field below the template is the honest one.
type forgery struct {
	*x509.Certificate
	key    crypto.Signer       // the bearer's
	parent *x509.Certificate   // whom it names as its issuer
	chain  []*x509.Certificate // shown above it
	leaf   *x509.Certificate   // shown in its place
}

// forge signs what an honest issuer would for id, once spoil has changed it.
func (s *stolen) forge(t *testing.T, id pki.Identity, spoil func(*forgery)) tls.Certificate {
	t.Helper()
	key, err := pki.NewKey(id.Role)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	f := &forgery{key: key, parent: s.authority.Certificate, chain: []*x509.Certificate{s.authority.Certificate}, Certificate: &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: id.ClientID()},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}}
	if id.Role.Server() {
		f.ExtKeyUsage = append(f.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	names(id.URI())(f)
	if spoil != nil {
		spoil(f)
	}
	shown := tls.Certificate{PrivateKey: f.key}
	if f.leaf == nil {
		f.leaf = s.sign(t, f.Certificate, f.parent, f.key.Public())
	}
	for _, c := range append([]*x509.Certificate{f.leaf}, f.chain...) {
		shown.Certificate = append(shown.Certificate, c.Raw)
	}
	return shown
}

// sign signs with the stolen key, in the name of parent.
func (s *stolen) sign(t *testing.T, template, parent *x509.Certificate, public any) *x509.Certificate {
	t.Helper()
	named := *parent
	named.PublicKey = s.authority.Signer.Public() // else package x509 sees that the key is not parent's
	der, err := x509.CreateCertificate(rand.Reader, template, &named, public, s.authority.Signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// names sets the URIs of a certificate.
func names(uris ...string) func(*forgery) {
	return func(f *forgery) {
		f.URIs = nil
		for _, text := range uris {
			u, err := url.Parse(text)
			if err != nil || u.String() != text {
				panic(text) // a row that would not say what it is for
			}
			f.URIs = append(f.URIs, u)
		}
	}
}

// authorityOf makes the certificate what the root gives to an authority.
func authorityOf(a pki.Authority) func(*forgery) {
	return func(f *forgery) {
		f.IsCA, f.MaxPathLenZero = true, true
		f.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
		f.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
		f.PermittedDNSDomainsCritical = true
		f.PermittedURIDomains, f.ExcludedURIDomains = []string{a.Host()}, []string{"." + a.Host()}
		f.PermittedDNSDomains, f.PermittedEmailAddresses = []string{a.Host()}, []string{a.Host()}
		f.ExcludedIPRanges = []*net.IPNet{
			{IP: make(net.IP, net.IPv4len), Mask: net.CIDRMask(0, 32)}, {IP: make(net.IP, net.IPv6len), Mask: net.CIDRMask(0, 128)}}
		names(a.URI())(f)
	}
}

// below has an authority that the stolen key signed sign the certificate.
func (s *stolen) below(t *testing.T, a pki.Authority, shown ...*x509.Certificate) func(*forgery) {
	return func(f *forgery) {
		key, err := ca.NewAuthorityKey()
		if err != nil {
			t.Fatal(err)
		}
		template := &forgery{Certificate: &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "an authority"},
			NotBefore: f.NotBefore, NotAfter: f.NotAfter, BasicConstraintsValid: true}}
		authorityOf(a)(template)
		authority := s.sign(t, template.Certificate, s.authority.Certificate, key.Public())
		der, err := x509.CreateCertificate(rand.Reader, f.Certificate, authority, f.key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		if f.leaf, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		f.chain = append([]*x509.Certificate{authority}, shown...)
	}
}

// door is where a certificate is shown.
type door struct {
	name  string
	guard *process
	knock func(t *testing.T, cert tls.Certificate, id pki.Identity) (from string, open bool)
	// heard returns what a line of the guard's log says of a refusal.
	heard func(e entry) (text string)
}

func (s *stolen) doors() (broker, issuer, perth door) {
	broker = door{"broker", s.parts["melb/broker"], s.knock(s.broker, "melb"), refusal}
	perth = door{"perth's broker", s.parts["perth/broker"], s.knock(s.perthBroker, "perth"), refusal}
	issuer = door{"issuer", s.parts["melb/issuer"], func(t *testing.T, cert tls.Certificate, _ pki.Identity) (string, bool) {
		a := s.ask(t, cert, http.MethodGet, "/v1/crl", nil)
		return a.from, a.code == http.StatusOK
	}, func(e entry) string {
		text, _ := e["detail"].(string)
		if e["reason"] != "handshake" {
			return ""
		}
		return text
	}}
	return broker, issuer, perth
}

// refusal is what a broker writes of a connection that it refuses.
func refusal(e entry) string {
	text, _ := e["error"].(string)
	from, _ := e["remote"].(string)
	if e["msg"] != "connection refused" || e["reason"] != "certificate" {
		return ""
	}
	return from + ": " + text
}

// knock connects to a broker, with the client identifier that would be right.
func (s *stolen) knock(address, site string) func(*testing.T, tls.Certificate, pki.Identity) (string, bool) {
	return func(t *testing.T, cert tls.Certificate, id pki.Identity) (from string, open bool) {
		t.Helper()
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: s.from}}
		conn, err := dialer.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		config := s.tlsConfig(t, cert)
		config.ServerName = site + ".bank.example"
		c := rawmqtt.New(tls.Client(conn, config))
		defer c.Close()
		code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: id.ClientID(), KeepAlive: 30})
		if err != nil {
			closed(t, c)
		}
		return conn.LocalAddr().String(), err == nil && code == rawmqtt.Accepted
	}
}

// reply is what the issuer answers, all zero but from if it closes the connection.
type reply struct {
	from string
	code int
	body string
}

// ask makes one request of the issuer.
func (s *stolen) ask(t *testing.T, cert tls.Certificate, method, path string, body []byte) (a reply) {
	t.Helper()
	conn, err := net.Dial("tcp", s.issuer)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	a.from = conn.LocalAddr().String()
	request, err := http.NewRequest(method, "https://"+s.issuer+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	channel := tls.Client(conn, s.tlsConfig(t, cert))
	err = request.Write(channel)
	if err == nil {
		var response *http.Response
		if response, err = http.ReadResponse(bufio.NewReader(channel), request); err == nil {
			defer response.Body.Close()
			text, _ := io.ReadAll(response.Body)
			a.code, a.body = response.StatusCode, string(text)
		}
	}
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the issuer does not answer %s: %v", path, err)
	}
	return a
}

// refuses shows a certificate until the guard has said why it refuses this very
// connection: one line for each reason a second at most.
func (d door) refuses(t *testing.T, cert tls.Certificate, id pki.Identity, why string) {
	t.Helper()
	before := d.guard.mark()
	heard := []string{}
	for began := time.Now(); time.Since(began) < 10*time.Second; {
		from, open := d.knock(t, cert, id)
		if open {
			t.Errorf("the %s lets it in", d.name)
		}
		if t.Failed() {
			return
		}
		for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
			for _, e := range d.guard.logged(before, entry{}) {
				text := d.heard(e)
				if !strings.Contains(text, from+": ") {
					if text != "" && !slices.Contains(heard, text) {
						heard = append(heard, text)
					}
					continue
				}
				if !strings.Contains(text, why) {
					t.Errorf("the %s refuses it for another reason: %s; want %q", d.name, text, why)
				}
				return
			}
		}
	}
	t.Errorf("the %s does not say why it refuses it; of others: %q", d.name, heard)
}

// opensslAccepts asks another implementation of the first wall about a client's certificate.
func (s *stolen) opensslAccepts(t *testing.T, cert tls.Certificate) bool {
	t.Helper()
	openssl, dir := programs.Need(t, "openssl", "apt-get install openssl"), t.TempDir()
	var chain []*x509.Certificate
	for _, der := range append(slices.Clone(cert.Certificate), s.authority.Certificate.Raw) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	args := []string{"verify", "-x509_strict", "-purpose", "sslclient"}
	for _, file := range []struct {
		flag  string
		certs []*x509.Certificate
	}{{"-CAfile", []*x509.Certificate{s.root}}, {"-untrusted", chain[1:]}, {"", chain[:1]}} {
		path := filepath.Join(dir, "cert"+file.flag)
		if err := os.WriteFile(path, pki.MarshalCertificates(file.certs...), 0o600); err != nil {
			t.Fatal(err)
		}
		if file.flag != "" {
			args = append(args, file.flag)
		}
		args = append(args, path)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, openssl, args...).CombinedOutput()
	if ok := strings.HasSuffix(string(out), "/cert: OK\n"); ok == (err == nil) && (ok || strings.Contains(string(out), "verification failed")) {
		return ok
	}
	t.Fatalf("openssl: %v\n%s", err, out)
	return false
}

// otherKeys are keys that no leaf of ours may have.
func otherKeys(t *testing.T) (p384, rsa2048 crypto.Signer) {
	t.Helper()
	a, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}
