package broker

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/internal/clocks"
	"levee/internal/metrics"
	"levee/internal/provision"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
	"levee/pki/revocation"
)

// issued is a provisioned site with its machine CA at hand.
type issued struct {
	bank
	layout provision.Layout
	broker pki.Identity
}

func newIssued(t *testing.T) *issued {
	t.Helper()
	i := &issued{layout: provision.Layout{Dir: t.TempDir()}, broker: identity("melb", pki.RoleBroker, "b1")}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := socket.Addr().String()
	_ = socket.Close()
	now := time.Now()
	_, err = provision.Apply(i.layout.Dir, provision.Inventory{TrustDomain: trustDomain, Sites: []provision.Site{{
		Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Brokers: []provision.Broker{{Name: "b1", Listen: address, Address: address}}, Recorder: "rec-1",
		Sensors: []provision.Sensor{{Name: "web-1"}}, Monitors: []provision.Monitor{{Name: "m1"}}, Controllers: []provision.Controller{{Name: "lb-1"}},
		Issuers: []provision.Issuer{{Name: issuer1.Name, Listen: "127.0.0.1:1", Address: "127.0.0.1:1"}},
	}}}, now)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(i.layout.Authority(), "melb", "machine-ca")
	key, err := pki.ReadKey(path + ".key")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ReadCertificate(path + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	root, err := pki.ReadCertificate(filepath.Join(i.layout.Bundle(i.broker), "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := pki.LoadCredential(filepath.Join(i.layout.Bundle(issuer1), site.FileKey), filepath.Join(i.layout.Bundle(issuer1), site.FileChain))
	if err != nil {
		t.Fatal(err)
	}
	i.bank = bank{t: t, now: now, root: ca.Issuer{Certificate: root}, credentials: map[string]tls.Certificate{issuer1.URI(): pinned.TLS()},
		authorities: map[pki.Authority]ca.Issuer{{TrustDomain: trustDomain, Site: "melb", Class: pki.ClassMachine}: {Certificate: cert, Signer: key}}}
	return i
}

// open opens and runs the broker of the bundle, as a process does.
func (i *issued) open(t *testing.T) *space {
	t.Helper()
	log := &logBuffer{}
	p, err := Open(i.layout.Config(i.broker), slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	s := &space{t: t, whole: t, bank: &i.bank, broker: p.tenants[0].broker, log: log, revoked: p.tenants[0].revocations, file: filepath.Join(i.layout.State(i.broker), revocation.FileName)}
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(s.stop)
	<-p.Ready()
	return s
}

// figures returns what the metrics of the broker show.
func (s *space) figures() string {
	s.t.Helper()
	part := &tenant{windows: replay.New(8), kernel: clocks.NewKernel(s.broker.log), revocations: s.revoked}
	m, err := metrics.Open(metrics.Config{Listen: "127.0.0.1:0", Source: source{s.broker, part}, More: s.broker.families(), Log: s.broker.log})
	if err != nil {
		s.t.Fatal(err)
	}
	defer m.Close()
	recorder := newAnswer()
	request, err := http.NewRequest(http.MethodGet, "http://"+m.Address()+"/metrics", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	m.ServeHTTP(recorder, request)
	return recorder.text.String()
}

// A broker as a process runs it has what passed through it in force after a
// restart, from its state directory, and refuses in the handshake.
func TestRevocationOutlivesTheProcess(t *testing.T) {
	i := newIssued(t)
	s := i.open(t)
	if text := s.figures(); strings.Contains(text, "\nlevee_revocations_age_seconds ") {
		t.Errorf("an age before the first list:\n%s", text)
	}
	issuer, from, sensor := s.connect(issuer1), s.sender(issuer1), s.connect(web1)
	raw := from.signed(revocationsTopic, from.list(1, everything(web1)))
	if err := issuer.Send(pub(revocationsTopic, raw, 0)); err != nil {
		t.Fatal(err)
	}
	s.closed(sensor)
	s.counted("refused_revoked", 1)
	s.stop()
	if kept, err := os.ReadFile(s.file); err != nil || !bytes.Equal(kept, raw) {
		t.Errorf("kept %d bytes, %v", len(kept), err)
	}
	s = i.open(t)
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(web1)))
	s.counted("refused_revoked", 1)
	if !strings.Contains(s.log.String(), "completing TLS") {
		t.Errorf("it was not refused in the handshake:\n%s", s.log)
	}
	if text := s.figures(); !strings.Contains(text, "\nlevee_revocations_age_seconds ") {
		t.Errorf("no age in the figures:\n%s", text)
	}
	issuer = s.connect(issuer1)
	if err := issuer.Send(pub(revocationsTopic, from.signed(revocationsTopic, from.list(1)), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(issuer)
	s.counted("envelope_"+envelope.BadContent.String(), 1)
}
