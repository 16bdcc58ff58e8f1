package issuer

import (
	"bufio"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/internal/issuance"
	"levee/pki"
	"levee/test/faults"
	"levee/test/programs"
)

// TestFileOperationsFail runs a real issuer whose system calls on files go wrong
// one after the other, by an error or by its death: what it had handed out or
// carried out is in the journal, and the next run goes on from there. The calls
// are those of everything that it does: its journal, its watermark, its own
// renewed certificate, its session's state.
func TestFileOperationsFail(t *testing.T) {
	strace := programs.Need(t, "strace", "apt-get install strace")
	c := newTown(t)
	file := c.issuerBundle(time.Now().Add(-9*time.Hour), "")
	dir := filepath.Dir(file)
	p := c.holder(ann, time.Now())
	var have []*x509.Certificate
	var revoked []string
	var injected, round int
	// use runs an issuer, as args say, and asks it for all that it does.
	use := func(args ...string) (started bool) {
		round++
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), childOf+"="+file)
		out, err := cmd.StdoutPipe()
		c.must(err)
		c.must(cmd.Start())
		defer cmd.Wait()
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			return false
		}
		// The tracer ends with what it traces, and not the other way round.
		var address string
		var pid int
		if _, err := fmt.Sscan(line, &address, &pid); err != nil {
			t.Fatalf("it said %q", line)
		}
		defer syscall.Kill(pid, syscall.SIGKILL)
		r := &rig{world: c.world, address: address}
		for n := range 2 {
			h := c.holder(identity("melb", pki.RoleSensor, fmt.Sprintf("r%d-%d", round, n)), time.Now())
			a := r.do(&h, "POST", pathRenew, c.request(c.world.key(h.id.Role), nil))
			if der, err := base64.StdEncoding.DecodeString(a.body); a.status == 200 && err == nil {
				if certs, err := pki.ParseCertsOnly(der); err == nil {
					have = append(have, certs[0])
				}
			}
		}
		gone := identity("melb", pki.RoleSensor, fmt.Sprintf("gone-%d", round))
		if a := r.do(&p, "POST", "/v1/orders", c.order(issuance.Revoke, orderOf(gone), c.people("melb"), time.Now())); a.status == 200 {
			revoked = append(revoked, gone.Sender())
		}
		return true
	}
	check := func(name string) {
		t.Helper()
		issued := make(map[string]bool)
		l := newLedger(machines("melb"))
		a := c.issuers[machines("melb")]
		j, err := issuance.Open(issuance.Config{Path: filepath.Join(dir, "state", FileJournal), Name: "iss-1", Key: a.Signer,
			Issuer: a.Certificate, Root: c.root.Certificate, Verifier: c.verifier}, func(e issuance.Entry) error {
			if e.Certificate != nil {
				issued[string(e.Certificate.Raw)] = true
			}
			return l.apply(e)
		}, time.Now())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c.must(j.Close())
		for _, cert := range have {
			if !issued[string(cert.Raw)] {
				t.Fatalf("%s: a certificate was handed out that is not in the journal", name)
			}
		}
		for _, sender := range revoked {
			if l.before[sender] == 0 {
				t.Fatalf("%s: %s was revoked, and is forgotten", name, sender)
			}
		}
	}
	if !use(os.Args[0], "-test.run=^$") || len(have) != 2 || len(revoked) != 1 {
		t.Fatalf("without any fault: %d certificates, %d revocations", len(have), len(revoked))
	}
	calls, most := []string{"fsync", "pwrite64", "renameat"}, 2
	if os.Getenv(faults.Every) != "" {
		calls, most = append(calls, "openat", "read", "pread64", "write", "fchmod", "unlinkat", "ftruncate", "mkdirat", "close"), 1000
	}
	for _, call := range calls {
		for _, fault := range []string{"error=EIO", "error=ENOSPC", "signal=KILL"} {
			for when, happened := 1, true; happened && when <= most; when++ {
				name := fmt.Sprintf("%s %s %d", call, fault, when)
				// The issuer's own certificate is due each time.
				if err := os.Remove(filepath.Join(dir, "state", "renewed.pem")); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				trace := filepath.Join(t.TempDir(), "trace")
				use(strace, "-f", "-qq", "-o", trace, "-e", "trace="+call,
					"-e", fmt.Sprintf("inject=%s:%s:when=%d", call, fault, when), os.Args[0], "-test.run=^$")
				b, err := os.ReadFile(trace)
				if happened = err == nil && (strings.Contains(string(b), "INJECTED") || strings.Contains(string(b), "SIGKILL")); happened {
					injected++
				}
				check(name)
				if !use(os.Args[0], "-test.run=^$") {
					t.Fatalf("%s: the next run does not start", name)
				}
				check(name + ", and the next run")
			}
		}
	}
	if injected < 9 {
		t.Errorf("only %d faults happened", injected)
	}
	t.Logf("%d faults, %d certificates, %d revocations", injected, len(have), len(revoked))
}
