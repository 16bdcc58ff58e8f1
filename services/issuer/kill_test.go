package issuer

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/issuance"
	"levee/pki"
)

// childOf tells a copy of this test which configuration file to run an issuer of.
const childOf = "LEVEE_ISSUER_CHILD"

// serveForEver runs an issuer, says where, and ends when it is killed.
func serveForEver(file string) int {
	p, err := Open(file, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(p.Address(), os.Getpid())
	if err := p.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

// TestKilled kills an issuer while many machines renew and people revoke, again
// and again. Whoever got a certificate finds it in the journal afterwards, and
// what was answered as revoked is revoked.
func TestKilled(t *testing.T) {
	c := newTown(t)
	file := c.issuerBundle(time.Now(), "")
	journal := filepath.Join(filepath.Dir(file), "state", FileJournal)
	p := c.holder(ann, time.Now())
	var (
		mu      sync.Mutex
		have    []*x509.Certificate
		revoked []string
		answers int
	)
	for round := range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childOf+"="+file)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		c.must(err)
		c.must(cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatalf("round %d: it does not start again: %v", round, err)
		}
		r := &rig{world: c.world, address: strings.Fields(line)[0]}
		before := answers
		var clients sync.WaitGroup
		for n := range 6 {
			id := identity("melb", pki.RoleSensor, fmt.Sprintf("r%d-%d", round, n))
			h, gone := c.holder(id, time.Now()), identity("melb", pki.RoleSensor, fmt.Sprintf("gone%d-%d", round, n))
			var requests [][]byte
			for range 10 {
				requests = append(requests, c.request(c.world.key(id.Role), nil))
			}
			order := c.order(issuance.Revoke, orderOf(gone), c.people("melb"), time.Now())
			clients.Go(func() {
				for i, request := range requests {
					if i == 2 {
						if a := r.do(&p, "POST", "/v1/orders", order); a.status == 200 {
							mu.Lock()
							revoked = append(revoked, gone.Sender())
							mu.Unlock()
						}
					}
					a := r.do(&h, "POST", pathRenew, request)
					if a.err != nil {
						return // it is dead
					}
					if a.status != 200 {
						t.Errorf("%d %q", a.status, a.body)
						return
					}
					der, err := base64.StdEncoding.DecodeString(a.body)
					if err != nil {
						return // it died while it answered
					}
					if certs, err := pki.ParseCertsOnly(der); err == nil {
						mu.Lock()
						have = append(have, certs[0])
						answers++
						mu.Unlock()
					}
				}
			})
		}
		// Some have asked three times by then, and so have revoked somebody.
		for enough := before + 15 + 6*round; ; time.Sleep(time.Millisecond) {
			mu.Lock()
			n := answers
			mu.Unlock()
			if n >= enough || t.Failed() {
				break
			}
		}
		c.must(cmd.Process.Kill())
		clients.Wait()
		if exit := new(exec.ExitError); !errors.As(cmd.Wait(), &exit) || exit.Exited() {
			t.Fatalf("round %d: it ended by itself: %v", round, exit)
		}
		issued := make(map[string]bool)
		l := newLedger(machines("melb"))
		a := c.issuers[machines("melb")]
		j, err := issuance.Open(issuance.Config{Path: journal, Name: "iss-1", Key: a.Signer, Issuer: a.Certificate, Root: c.root.Certificate, Verifier: c.verifier},
			func(e issuance.Entry) error {
				if e.Certificate != nil {
					issued[string(e.Certificate.Raw)] = true
				}
				return l.apply(e)
			}, time.Now())
		c.must(err)
		c.must(j.Close())
		for _, cert := range have {
			if !issued[string(cert.Raw)] {
				t.Fatalf("round %d: of %d certificates that were handed out one is not in the journal", round, len(have))
			}
		}
		for _, sender := range revoked {
			if l.before[sender] == 0 {
				t.Fatalf("round %d: %s was revoked, and is forgotten", round, sender)
			}
		}
	}
	if len(revoked) == 0 {
		t.Error("nobody was revoked before the kills")
	}
	t.Logf("%d certificates, %d revocations", answers, len(revoked))
}

// BenchmarkRenewals renews over real connections, with fsync: all there is but
// the client's own work.
func BenchmarkRenewals(b *testing.B) {
	w := newWorld(b)
	r := w.serve(options{dir: benchmarkDir(b)})
	r.server.renewals = newLimiter[caller](time.Nanosecond, 1<<30)
	h := w.holder(web1, time.Now())
	for b.Loop() {
		if a := r.do(&h, "POST", pathRenew, r.request(w.key(pki.RoleSensor), nil)); a.status != 200 {
			b.Fatalf("%d %q %v", a.status, a.body, a.err)
		}
	}
}

// BenchmarkIssue is one renewal without its connection.
func BenchmarkIssue(b *testing.B) {
	w := newWorld(b)
	r := w.serve(options{dir: benchmarkDir(b)})
	h := w.holder(web1, time.Now())
	p := &peer{id: h.id, leaf: h.leaf}
	for b.Loop() {
		request, err := parseRequest(string(w.request(w.key(pki.RoleSensor), nil)))
		w.must(err)
		if _, err := r.issuer.renew(b.Context(), p, request, func() bool { return true }, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

// benchmarkDir is a directory with an empty journal, on a disk and not in memory
// where LEVEE_BENCH_DIR says so.
func benchmarkDir(b *testing.B) string {
	dir, err := os.MkdirTemp(os.Getenv("LEVEE_BENCH_DIR"), "issuer")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	if err := issuance.Create(filepath.Join(dir, FileJournal)); err != nil {
		b.Fatal(err)
	}
	return dir
}
