package issuance

import (
	"bufio"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/pki"
)

// childOf tells a copy of this test which directory to work in.
const childOf = "LEVEE_ISSUANCE_CHILD"

// TestKilled kills a process that appends, again and again at any moment: each
// entry that it had acknowledged is there afterwards, in its place.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(childOf); dir != "" {
		appendForEver(t, dir)
		return
	}
	w := newWorld(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	w.must(Create(path))
	c := w.config(path)
	cert, _ := w.leaf(identity("melb", pki.RoleSensor, "web-1"))
	w.must(os.WriteFile(filepath.Join(dir, "certs.pem"), pki.MarshalCertificates(w.root.Certificate, c.Issuer, cert), 0o600))
	key, err := pki.MarshalKey(c.Key)
	w.must(err)
	w.must(os.WriteFile(filepath.Join(dir, "ca.key"), key, 0o600))
	var acknowledged []string
	for round := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$", "-test.count=1")
		cmd.Env = append(os.Environ(), childOf+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		w.must(err)
		w.must(cmd.Start())
		enough := len(acknowledged) + 5 + 7*round
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if last, ok := strings.CutPrefix(lines.Text(), "acknowledged "); ok {
				acknowledged = append(acknowledged, last)
			}
			if len(acknowledged) == enough {
				cmd.Process.Kill() // it goes on until the signal comes
			}
		}
		if exit := new(exec.ExitError); !errors.As(cmd.Wait(), &exit) || exit.Exited() {
			t.Fatalf("the process ended by itself: %v", exit)
		}
		at := Position{}
		found := make(map[string]bool)
		w.must(w.open(c, func(e Entry) error { at = at.after(e.Raw); found[at.Last] = true; return nil }).Close())
		for _, last := range acknowledged {
			if !found[last] {
				t.Fatalf("round %d: of %d acknowledged entries one is gone", round, len(acknowledged))
			}
		}
	}
	t.Logf("%d entries", len(acknowledged))
}

func appendForEver(t *testing.T, dir string) {
	b, err := os.ReadFile(filepath.Join(dir, "certs.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, cert)
	}
	key, err := pki.ReadKey(filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: certs[0], TrustDomain: trustDomain})
	if err != nil {
		t.Fatal(err)
	}
	j, err := Open(Config{Path: filepath.Join(dir, "journal"), Name: "iss-1", Key: key, Issuer: certs[1], Root: certs[0], Verifier: v}, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := j.Append(Record{Kind: Issuance, Certificate: certs[2], Cause: CauseRenewal}, time.Now()); err != nil {
			t.Fatal(err)
		}
		fmt.Println("acknowledged " + j.Position().Last)
	}
}
