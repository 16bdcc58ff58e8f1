package siem

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/config"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// authority is a certificate authority that is nobody of levee's.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "siem"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue returns a certificate and its key, PEM.
func (a *authority) issue(t testing.TB, name string) (certificate, key []byte) {
	t.Helper()
	k := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

// file writes the authority's certificate.
func (a *authority) file(t testing.TB) config.Path {
	t.Helper()
	return write(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func write(t testing.TB, name string, b []byte) config.Path {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Path(path)
}

// receiver listens, and hands each connection to serve.
type receiver struct {
	authority *authority
	address   string

	mu     sync.Mutex
	lines  []string
	errors []error
	conns  int
}

// receive starts a receiver of TLS whose certificate names name. serve reads what
// it likes; nil reads everything.
func receive(t *testing.T, name string, serve func(n int, r *receiver, conn net.Conn), change ...func(*tls.Config)) *receiver {
	t.Helper()
	r := &receiver{authority: newAuthority(t)}
	certificate, key := r.authority.issue(t, name)
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}}
	for _, do := range change {
		do(c)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	if serve == nil {
		serve = func(_ int, r *receiver, conn net.Conn) { r.read(conn, -1) }
	}
	var running sync.WaitGroup
	running.Go(func() {
		for n := 0; ; n++ {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.conns++
			r.mu.Unlock()
			running.Go(func() {
				defer raw.Close()
				defer closeAtEnd(t, raw)()
				serve(n, r, tls.Server(raw, c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return r
}

// closeAtEnd closes a connection when the test ends.
func closeAtEnd(t *testing.T, c net.Conn) func() {
	done := make(chan struct{})
	go func() {
		select {
		case <-t.Context().Done():
			c.Close()
		case <-done:
		}
	}()
	return func() { close(done) }
}

// read reads frames strictly until n came or the connection ends; a torn one is
// noted.
func (r *receiver) read(conn net.Conn, n int) {
	b := bufio.NewReader(conn)
	for ; n != 0; n-- {
		m, err := frame(b)
		r.mu.Lock()
		if err == nil {
			r.lines = append(r.lines, m)
		} else if err != io.EOF {
			r.errors = append(r.errors, err)
		}
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// frame reads one frame as RFC 5425 has it.
func frame(b *bufio.Reader) (string, error) {
	count, err := b.ReadString(' ')
	if err != nil {
		if count != "" {
			err = fmt.Errorf("an end within a count: %w", err)
		}
		return "", err
	}
	n, err := strconv.Atoi(strings.TrimSuffix(count, " "))
	if err != nil || n < 1 || n > 8192 || count[0] == '0' {
		return "", fmt.Errorf("%q counts nothing", count)
	}
	m := make([]byte, n)
	if _, err := io.ReadFull(b, m); err != nil {
		return "", fmt.Errorf("an end within a frame: %w", err)
	}
	return string(m), nil
}

func (r *receiver) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.lines...)
}

func (r *receiver) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conns
}

// settings are those of a sender to r.
func (r *receiver) settings(t *testing.T) Settings {
	t.Helper()
	return Settings{Address: r.address, ServerName: "siem.example", CA: r.authority.file(t), Format: CEF}
}

// sender starts a sender that is quick, until stop is called or the test ends.
func sender(t *testing.T, settings Settings, log *slog.Logger) (s *Sender, stop func()) {
	t.Helper()
	s, err := New(Config{Settings: settings, Host: "melb.bank.example", Version: "1.0", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s.pace.first, s.pace.most, s.pace.connect = time.Millisecond, 20*time.Millisecond, time.Second
	return s, begin(t, s)
}

// begin runs a sender.
func begin(t *testing.T, s *Sender) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// await waits until what holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// numbered is an event that can be told from others.
func numbered(n int) Event {
	return Event{ID: AlertRaised, Time: time.UnixMilli(1729697327822), Message: fmt.Sprintf("number %d.", n)}
}
