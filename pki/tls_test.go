package pki_test

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/ca"
)

const melbHost = "melb.bank.example"

// world is two sites below one root, seen by the clock of this machine because
// crypto/tls has no other.
type world struct {
	now                    time.Time
	root                   ca.Issuer
	machines, people       ca.Issuer // of melb
	perth                  ca.Issuer
	verifier, melbVerifier *pki.Verifier
}

func newWorld(t *testing.T) world {
	t.Helper()
	now := time.Now()
	start := now.Add(-60 * 24 * time.Hour) // so that a leaf can have expired
	root := newRoot(t, start)
	return world{
		now: now, root: root,
		machines:     newAuthority(t, root, melbMachines, melbZones, start),
		people:       newAuthority(t, root, melbPeople, ca.Zones{}, start),
		perth:        newAuthority(t, root, pki.Authority{TrustDomain: trustDomain, Site: "perth", Class: pki.ClassMachine}, ca.Zones{}, start),
		verifier:     newVerifier(t, root, ""),
		melbVerifier: newVerifier(t, root, "melb"),
	}
}

// store opens a store for a freshly issued credential of id, verified below v.
func (w world) store(t *testing.T, v *pki.Verifier, issuer ca.Issuer, id pki.Identity, dns ...string) *pki.Store {
	t.Helper()
	key := newKey(t, id.Role)
	leaf, err := ca.IssueLeaf(issuer, id, key.Public(), ca.Names{DNS: dns}, 24*time.Hour, w.now)
	if err != nil {
		t.Fatal(err)
	}
	keyFile, chainFile := files(t, key, leaf, issuer.Certificate)
	store, err := pki.OpenStore(keyFile, chainFile, v)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// raw is a client that follows none of our rules: it trusts every server and
// shows whatever it has.
func raw(key crypto.Signer, certs ...*x509.Certificate) *tls.Config {
	config := &tls.Config{InsecureSkipVerify: true, ServerName: melbHost, MinVersion: tls.VersionTLS12}
	if key != nil {
		certificate := tls.Certificate{PrivateKey: key}
		for _, cert := range certs {
			certificate.Certificate = append(certificate.Certificate, cert.Raw)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	return config
}

// connect lets a client talk to a server over a loopback socket, and returns
// what each of them says. The server answers with one byte once it is
// satisfied: in TLS 1.3 a client learns only from it that it was let in.
func connect(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		secured := tls.Server(conn, server)
		if err := secured.Handshake(); err != nil {
			served <- err
			return
		}
		_, err = secured.Write([]byte{1})
		served <- err
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	secured := tls.Client(conn, client)
	if clientErr = secured.Handshake(); clientErr == nil {
		_, clientErr = io.ReadFull(secured, make([]byte, 1))
	}
	state = secured.ConnectionState()
	_ = conn.Close()
	return state, <-served, clientErr
}

func onlyBroker(id pki.Identity) error {
	if id.Site != "melb" || id.Role != pki.RoleBroker {
		return errors.New("not melb's broker")
	}
	return nil
}

func TestHandshake(t *testing.T) {
	w := newWorld(t)
	broker := pki.ServerConfig(w.store(t, w.verifier, w.machines, melbBroker), w.melbVerifier)
	for _, id := range []pki.Identity{melbSensor, melbOperator} {
		issuer := w.machines
		if id == melbOperator {
			issuer = w.people
		}
		client := pki.ClientConfig(w.store(t, w.verifier, issuer, id), w.verifier, melbHost, onlyBroker)
		state, serverErr, clientErr := connect(t, broker, client)
		if serverErr != nil || clientErr != nil || state.Version != tls.VersionTLS13 {
			t.Errorf("%s: server %v, client %v, version %x", id, serverErr, clientErr, state.Version)
		}
	}
}

func TestServerRefuses(t *testing.T) {
	w := newWorld(t)
	server := pki.ServerConfig(w.store(t, w.verifier, w.machines, melbBroker), w.melbVerifier)
	key := newKey(t, pki.RoleSensor)
	issue := func(issuer ca.Issuer, id pki.Identity, at time.Time) *x509.Certificate {
		return newLeaf(t, issuer, id, key, at)
	}
	sensor := issue(w.machines, melbSensor, w.now)
	foreignRoot := newRoot(t, w.now)
	foreign := newAuthority(t, foreignRoot, melbMachines, ca.Zones{}, w.now)
	served := template(melbSensor, w.now)
	served.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	twelve := raw(key, sensor, w.machines.Certificate)
	twelve.MaxVersion = tls.VersionTLS12
	selfIssued := mint(t, ca.Issuer{Certificate: served, Signer: key}, template(melbSensor, w.now), key.Public())

	// The one that must pass, or the refusals below prove nothing.
	if _, serverErr, clientErr := connect(t, server, raw(key, sensor, w.machines.Certificate)); serverErr != nil || clientErr != nil {
		t.Fatalf("a good client: server %v, client %v", serverErr, clientErr)
	}
	tests := []struct {
		name   string
		client *tls.Config
		want   string // in the server's error
	}{
		{"no certificate", raw(nil), "client didn't provide a certificate"},
		{"foreign CA", raw(key, issue(foreign, melbSensor, w.now), foreign.Certificate), "unknown authority"},
		{"foreign CA, its root shown too", raw(key, issue(foreign, melbSensor, w.now), foreign.Certificate, foreignRoot.Certificate), "unknown authority"},
		{"self-signed", raw(key, selfIssued), "unknown authority"},
		{"issuer not shown", raw(key, sensor), "unknown authority"},
		{"root shown too", raw(key, sensor, w.machines.Certificate, w.root.Certificate), pki.ErrConnection.Error()},
		{"other site", raw(key, issue(w.perth, perthSensor, w.now), w.perth.Certificate), pki.ErrSite.Error()},
		{"other site, issued by melb's authority", raw(key, mint(t, w.machines, template(perthSensor, w.now), key.Public()), w.machines.Certificate), "not permitted"},
		{"expired", raw(key, issue(w.machines, melbSensor, w.now.Add(-pki.MaxMachineLifetime-time.Hour)), w.machines.Certificate), "expired"},
		{"an authority's own certificate", raw(w.machines.Signer, w.machines.Certificate), pki.ErrConnection.Error()},
		{"for servers only", raw(key, mint(t, w.machines, served, key.Public()), w.machines.Certificate), "incompatible key usage"},
		{"outside the profile", raw(key, mint(t, w.machines, spoilt(w.now), key.Public()), w.machines.Certificate), pki.ErrProfile.Error()},
		{"another's certificate", raw(newKey(t, pki.RoleSensor), sensor, w.machines.Certificate), "invalid signature"},
		{"TLS 1.2", twelve, "unsupported versions"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, serverErr, clientErr := connect(t, server, test.client)
			if serverErr == nil || !strings.Contains(serverErr.Error(), test.want) {
				t.Errorf("server: %v; want %q", serverErr, test.want)
			}
			if clientErr == nil {
				t.Error("the client was let in")
			}
		})
	}
}

func TestClientRefuses(t *testing.T) {
	w := newWorld(t)
	clientStore := w.store(t, w.verifier, w.machines, melbSensor)
	client := func(accept func(pki.Identity) error) *tls.Config {
		return pki.ClientConfig(clientStore, w.verifier, melbHost, accept)
	}
	controller := pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: pki.RoleController, Name: "lb-1"}
	perthBroker := pki.Identity{TrustDomain: trustDomain, Site: "perth", Role: pki.RoleBroker, Name: "b-1"}
	good := pki.ServerConfig(w.store(t, w.verifier, w.machines, melbBroker), w.verifier)

	key := newKey(t, pki.RoleBroker)
	rawServer := func(issuer ca.Issuer, spoil func(*x509.Certificate)) *tls.Config {
		cert := template(melbBroker, w.now)
		setNames(cert, uriName(melbBroker.URI()), dnsName(melbHost))
		spoil(cert)
		leaf := mint(t, issuer, cert, key.Public())
		return &tls.Config{ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{{
			Certificate: [][]byte{leaf.Raw, issuer.Certificate.Raw}, PrivateKey: key,
		}}}
	}
	twelve := rawServer(w.machines, func(*x509.Certificate) {})
	twelve.MaxVersion = tls.VersionTLS12
	foreign := newAuthority(t, newRoot(t, w.now), melbMachines, ca.Zones{}, w.now)

	for name, server := range map[string]*tls.Config{"a broker": good, "a minted broker": rawServer(w.machines, func(*x509.Certificate) {})} {
		if _, serverErr, clientErr := connect(t, server, client(onlyBroker)); serverErr != nil || clientErr != nil {
			t.Fatalf("%s: server %v, client %v", name, serverErr, clientErr)
		}
	}
	tests := []struct {
		name           string
		server, client *tls.Config
		want           string // in the client's error
	}{
		{"wrong role, right name", pki.ServerConfig(w.store(t, w.verifier, w.machines, controller, melbHost), w.verifier), client(onlyBroker), "not melb's broker"},
		{"wrong site", pki.ServerConfig(w.store(t, w.verifier, w.perth, perthBroker), w.verifier), client(onlyBroker), "not melb.bank.example"},
		{"wrong site, right name", rawServer(w.perth, func(cert *x509.Certificate) {
			cert.Subject.CommonName = perthBroker.ClientID()
			setNames(cert, uriName(perthBroker.URI()), dnsName(melbHost))
		}), client(onlyBroker), "not permitted"},
		{"role that is no server", rawServer(w.machines, func(cert *x509.Certificate) {
			cert.Subject.CommonName = melbSensor.ClientID()
			setNames(cert, uriName(melbSensor.URI()), dnsName(melbHost))
		}), client(onlyBroker), "is no server"},
		{"for clients only", rawServer(w.machines, func(cert *x509.Certificate) {
			cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), client(onlyBroker), "incompatible key usage"},
		{"no DNS name", rawServer(w.machines, func(cert *x509.Certificate) { setNames(cert, uriName(melbBroker.URI())) }), client(onlyBroker), "not valid for any names"},
		{"no identity", rawServer(w.machines, func(cert *x509.Certificate) { setNames(cert, dnsName(melbHost)) }), client(onlyBroker), pki.ErrProfile.Error()},
		{"foreign CA", rawServer(foreign, func(*x509.Certificate) {}), client(onlyBroker), "unknown authority"},
		{"expired", rawServer(w.machines, func(cert *x509.Certificate) { cert.NotAfter = w.now.Add(-time.Minute / 2) }), client(onlyBroker), "expired"},
		{"TLS 1.2", twelve, client(onlyBroker), "protocol version"},
		{"no rule for servers", good, client(nil), "no rule"},
		{"no server name", good, func() *tls.Config {
			config := pki.ClientConfig(clientStore, w.verifier, "", onlyBroker)
			config.ServerName = melbHost // as dialers do
			return config
		}(), "not asked for"},
		{"no server name, address put in by a dialer", rawServer(w.machines, func(cert *x509.Certificate) {
			setNames(cert, uriName(melbBroker.URI()), ipName("10.1.2.3"))
		}), func() *tls.Config {
			config := pki.ClientConfig(clientStore, w.verifier, "", onlyBroker)
			config.ServerName = "10.1.2.3"
			return config
		}(), "not asked for"},
		{"other name put in by a dialer", pki.ServerConfig(w.store(t, w.verifier, w.machines, melbBroker, "mqtt.melb.bank.test"), w.verifier), func() *tls.Config {
			config := client(onlyBroker)
			config.ServerName = "mqtt.melb.bank.test"
			return config
		}(), "not asked for"},
		{"our own site only", pki.ServerConfig(w.store(t, w.verifier, w.perth, perthBroker), w.verifier),
			pki.ClientConfig(clientStore, w.melbVerifier, "perth.bank.example", func(pki.Identity) error { return nil }), pki.ErrSite.Error()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, clientErr := connect(t, test.server, test.client)
			if clientErr == nil || !strings.Contains(clientErr.Error(), test.want) {
				t.Errorf("client: %v; want %q", clientErr, test.want)
			}
		})
	}
}

// TestNoResumption: a client that wants to resume gets no ticket, so that its
// certificate is looked at each time.
func TestNoResumption(t *testing.T) {
	w := newWorld(t)
	server := pki.ServerConfig(w.store(t, w.verifier, w.machines, melbBroker), w.verifier)
	key := newKey(t, pki.RoleSensor)
	eager := raw(key, newLeaf(t, w.machines, melbSensor, key, w.now), w.machines.Certificate)
	eager.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	for i := range 3 {
		state, serverErr, clientErr := connect(t, server, eager)
		if serverErr != nil || clientErr != nil || state.DidResume {
			t.Errorf("connection %d: server %v, client %v, resumed %v", i, serverErr, clientErr, state.DidResume)
		}
	}
	if client := pki.ClientConfig(nil, w.verifier, melbHost, nil); client.ClientSessionCache != nil || !client.SessionTicketsDisabled {
		t.Error("our client would resume")
	}
}

// TestReloadReachesConnections: new connections of both sides use a renewed
// credential without new configurations.
func TestReloadReachesConnections(t *testing.T) {
	w := newWorld(t)
	serverKey, clientKey := newKey(t, pki.RoleBroker), newKey(t, pki.RoleSensor)
	serverKeyFile, serverChain := files(t, serverKey, newLeaf(t, w.machines, melbBroker, serverKey, w.now), w.machines.Certificate)
	clientKeyFile, clientChain := files(t, clientKey, newLeaf(t, w.machines, melbSensor, clientKey, w.now), w.machines.Certificate)
	serverStore, err := pki.OpenStore(serverKeyFile, serverChain, w.verifier)
	if err != nil {
		t.Fatal(err)
	}
	clientStore, err := pki.OpenStore(clientKeyFile, clientChain, w.verifier)
	if err != nil {
		t.Fatal(err)
	}
	server := pki.ServerConfig(serverStore, w.verifier)
	client := pki.ClientConfig(clientStore, w.verifier, melbHost, onlyBroker)
	var seen []byte
	wrapped := server.VerifyConnection
	server.VerifyConnection = func(cs tls.ConnectionState) error {
		seen = cs.PeerCertificates[0].Raw
		return wrapped(cs)
	}
	for i := range 2 {
		serverLeaf := newLeaf(t, w.machines, melbBroker, serverKey, w.now.Add(-time.Duration(i)*time.Hour))
		clientLeaf := newLeaf(t, w.machines, melbSensor, clientKey, w.now.Add(-time.Duration(i)*time.Hour))
		write(t, serverChain, pki.MarshalCertificates(serverLeaf, w.machines.Certificate))
		write(t, clientChain, pki.MarshalCertificates(clientLeaf, w.machines.Certificate))
		if err := errors.Join(serverStore.Reload(), clientStore.Reload()); err != nil {
			t.Fatal(err)
		}
		state, serverErr, clientErr := connect(t, server, client)
		if serverErr != nil || clientErr != nil {
			t.Fatal(fmt.Errorf("server %w, client %w", serverErr, clientErr))
		}
		if !bytes.Equal(seen, clientLeaf.Raw) || !state.PeerCertificates[0].Equal(serverLeaf) {
			t.Errorf("round %d: an old certificate was shown", i)
		}
	}
}
