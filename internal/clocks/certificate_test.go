package clocks

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// certificate makes one for both sides of a connection.
func certificate(t *testing.T, from, until time.Time) tls.Certificate {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until, DNSNames: []string{"peer"}, IsCA: true,
		BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// connect runs a handshake over a real connection and returns what each side
// makes of it. Each side has its own clock.
func connect(t *testing.T, server, client tls.Certificate, serverNow, clientNow time.Time) (atServer, atClient error) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(server.Leaf)
	pool.AddCert(client.Leaf)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		done <- tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert,
			ClientCAs: pool, MinVersion: tls.VersionTLS13, Time: func() time.Time { return serverNow }}).Handshake()
	}()
	conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{Certificates: []tls.Certificate{client}, RootCAs: pool,
		ServerName: "peer", MinVersion: tls.VersionTLS13, Time: func() time.Time { return clientNow }})
	if err == nil {
		_, err = conn.Read(make([]byte, 1)) // TLS 1.3: a refusal of our certificate comes with the first read
		conn.Close()
	}
	return <-done, err
}

func TestCertificateTrouble(t *testing.T) {
	day := 24 * time.Hour
	good := certificate(t, noon, noon.Add(30*day))
	now := noon.Add(day)
	for _, test := range []struct {
		name                 string
		serverNow, clientNow time.Time
		atServer, atClient   []string // what each is told; none: nothing
	}{
		{"both right", now, now, nil, nil},
		{"the server's clock is late", now.Add(60 * day), now,
			[]string{"a certificate that the peer showed is valid from 2023-11-14T22:13:20Z to 2023-12-14T22:13:20Z, and this machine's clock says 2024-01-14T22:13:20Z",
				"its time has ended, or this machine's clock is wrong"},
			[]string{"the peer says that our certificate is not valid at this time; it is valid from 2023-11-14T22:13:20Z", "clock says 2023-11-15T22:13:20Z",
				"by our clock it is valid, so the peer's clock or this machine's is wrong"}},
		{"the server's clock is early", now.Add(-9 * day), now, []string{"its time has not begun, or this machine's clock is wrong"},
			[]string{"by our clock it is valid, so the peer's clock or this machine's is wrong"}},
		{"the client's clock is late", now, now.Add(60 * day),
			nil, // a client in Go does not say what is wrong
			[]string{"its time has ended, or this machine's clock is wrong"}},
		{"the client's clock is early", now, now.Add(-9 * day), nil, []string{"its time has not begun"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			atServer, atClient := connect(t, good, certificate(t, noon, noon.Add(30*day)), test.serverNow, test.clientNow)
			own := func() []*x509.Certificate { return []*x509.Certificate{good.Leaf} }
			for side, x := range map[string]struct {
				err  error
				now  time.Time
				want []string
			}{"server": {atServer, test.serverNow, test.atServer}, "client": {atClient, test.clientNow, test.atClient}} {
				got := CertificateTrouble(x.err, own, x.now)
				if (got == "") != (len(x.want) == 0) {
					t.Errorf("the %s is told %q of %v", side, got, x.err)
				}
				for _, want := range x.want {
					if !strings.Contains(got, want) {
						t.Errorf("the %s is told %q, without %q", side, got, want)
					}
				}
			}
		})
	}
}

// Our own certificates are looked at whole, and only if the peer refused them.
func TestOwnCertificates(t *testing.T) {
	alert := errors.New("network Error : remote error: tls: expired certificate") // as the MQTT library words it
	leaf := certificate(t, noon, noon.Add(24*time.Hour)).Leaf
	issuer := certificate(t, noon.Add(-time.Hour), noon.Add(time.Hour)).Leaf
	chain := func() []*x509.Certificate { return []*x509.Certificate{leaf, issuer} }
	for at, want := range map[time.Duration]string{
		time.Minute:     "by our clock it is valid",
		2 * time.Hour:   "by our clock it is not valid: it must be issued again, or this machine's clock is wrong",
		-30 * time.Hour: "by our clock it is not valid",
	} {
		if got := CertificateTrouble(alert, chain, noon.Add(at)); !strings.Contains(got, want) || !strings.Contains(got, "from 2023-11-14T22:13:20Z to 2023-11-14T23:13:20Z") {
			t.Errorf("at %s: %q", at, got)
		}
	}
	if got := CertificateTrouble(alert, func() []*x509.Certificate { return nil }, noon); got != "" {
		t.Errorf("without a certificate: %q", got)
	}
	for _, err := range []error{nil, errors.New("remote error: tls: bad certificate"), errors.New("connection refused"), x509.CertificateInvalidError{Reason: x509.Expired}} {
		if got := CertificateTrouble(err, func() []*x509.Certificate { t.Error("asked"); return nil }, noon); got != "" {
			t.Errorf("%v: %q", err, got)
		}
	}
}
