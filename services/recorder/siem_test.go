package recorder

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"levee/envelope"
	"levee/internal/session"
	"levee/internal/siem"
	"levee/internal/translog/leaf"
	"levee/internal/translog/proof"
	"levee/services/recorder/ledger"
	"levee/services/recorder/notable"
)

// witnessed is what was told as evidence.
type witnessed struct {
	mu      sync.Mutex
	reasons []string
	holes   []ledger.Hole
}

func (w *witnessed) Refused(r session.Refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reasons = append(w.reasons, r.Reason.String())
}

func (w *witnessed) Holes(_ time.Time, holes []ledger.Hole, _ func(ledger.Hole) ledger.Fate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.holes = holes
}

// Whatever is refused is told: at once, in a backfill, and because it contradicts
// what is held. Each is told, also those of which no sample is kept.
func TestRefusalsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{opened: func(raw []byte, by session.Delivery) (session.Delivery, error) {
			if strings.Contains(string(raw), `"n":2`) {
				return session.Delivery{}, envelope.BadMAC
			}
			return original(raw, by)
		}}
		r, _ := newRecorder(t, d)
		told := new(witnessed)
		r.config.Evidence = told
		err := run(t, r, func() {
			for range 2 * maxSamples {
				r.Refuse(session.Refusal{Name: ramTopic, Raw: []byte("x"), Reason: envelope.BadSignature, Received: received})
			}
			r.Deliver(sent(ram(1)))
			r.Deliver(sent(text(1, ramTopic, `{"n":3}`, false)))
			r.Deliver(backfill(1, 1, text(5, ramTopic, `{"n":2}`, false), ram(6)))
			time.Sleep(holesEvery + time.Second)
			synctest.Wait()
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(told.reasons)
		if want := append([]string{"mac", "nonce_collision"}, slices.Repeat([]string{"signature"}, 2*maxSamples)...); !slices.Equal(told.reasons, want) {
			t.Errorf("told %q", told.reasons)
		}
		if want := []ledger.Hole{{Sender: "melb/sensor/web-1", Boot: 1, First: 2, Last: 5}}; !slices.Equal(told.holes, want) {
			t.Errorf("told %v", told.holes)
		}
	})
}

// heads is a log of which only appending is asked.
type heads struct{ *disk }

func (heads) Checkpoint(context.Context) (proof.Checkpoint, error) { return proof.Checkpoint{}, nil }

// sunk counts events.
type sunk struct{ n int }

func (s *sunk) Tell(siem.Event) { s.n++ }

// Nobody is told of an entry that the log does not have.
func TestToldOnceLogged(t *testing.T) {
	t.Parallel()
	raw := strings.Replace(text(1, "melb/bank_server/alerts/mon-1",
		`{"timestamp":1,"alert":"CPU usage exceeded threshold","state":"raised","incident":"000102030405060708090a0b0c0d0e0f","server":"web-1","metric":"cpu_usage","value":1,"threshold":1,"window_seconds":1}`, true), webOne, "melb/monitor/mon-1/1", 1)
	entry, err := leaf.Leaf{Received: 1, Verdict: "accepted", Kind: leaf.KindMessage, Data: []byte(raw)}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	d, to := &disk{logErr: errDisk}, new(sunk)
	l := tellingLog{heads{d}, notable.New("melb", to)}
	if _, err := l.AppendAll(t.Context(), [][]byte{entry}); !errors.Is(err, errDisk) || to.n != 0 {
		t.Errorf("%v, %d told", err, to.n)
	}
	d.logErr = nil
	if indices, err := l.AppendAll(t.Context(), [][]byte{entry}); err != nil || len(indices) != 1 || to.n != 1 {
		t.Errorf("%v, %d told", err, to.n)
	}
}

// A recorder with a SIEM tells it of its start, its errors and its end; and a
// SIEM that is away keeps no recorder from its work, and from its end not long.
func TestPartTells(t *testing.T) {
	t.Parallel()
	l, id := provisioned(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"siem.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	authority := filepath.Join(l.Bundle(id), "siem-ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			heard <- err.Error()
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		text, _ := io.ReadAll(conn)
		heard <- string(text)
	}()
	file, err := os.ReadFile(l.Config(id))
	if err != nil {
		t.Fatal(err)
	}
	open := func(address string) *Part {
		t.Helper()
		section := fmt.Sprintf("siem:\n  address: %s\n  server_name: siem.example\n  ca: %s\n", address, authority)
		if err := os.WriteFile(l.Config(id), append(slices.Clone(file), section...), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := Open(l.Config(id), quiet())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := open(listener.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	p.log.Error("a test says so")
	for deadline := time.Now().Add(20 * time.Second); p.outward.sender.Sent() < 2 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	listener.Close()
	text := <-heard
	for _, part := range []string{" melb.bank.example levee - recorder_started ", "|recorder_error|Recorder reports an error|8|", "msg=a test says so", "|recorder_stopped|Recorder stopped|3|"} {
		if !strings.Contains(text, part) {
			t.Errorf("it heard no %q:\n%s", part, text)
		}
	}
	names := make(map[string]float64)
	for _, f := range p.outward.families() {
		f.Collect(func(_ string, v float64) { names[f.Name] = v })
	}
	if len(names) != 3 || names["levee_siem_sent_total"] < 3 || names["levee_siem_connected"] != 0 || names["levee_siem_dropped_total"] != 0 {
		t.Errorf("%v", names)
	}

	silent, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	p = open(silent.Addr().String())
	ctx, cancel = context.WithCancel(t.Context())
	go func() { ended <- p.Run(ctx) }()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it does not end")
	}
	if _, err := os.Stat(authority); err != nil {
		t.Fatal(err)
	}
	os.Remove(authority)
	if _, err := Open(l.Config(id), quiet()); err == nil {
		t.Error("it starts without the authority that its configuration names")
	}
}
