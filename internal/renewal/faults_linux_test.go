package renewal_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/renewal"
	"levee/pki"
	"levee/pki/ca"
	"levee/test/faults"
)

// renewIn and renewKept are the environment variables that turn this test binary
// into a part that renews the certificate in a directory, with a key that is
// pinned or with a new one.
const (
	renewIn   = "LEVEE_TEST_RENEW_IN"
	renewKept = "LEVEE_TEST_RENEW_KEPT"
)

// TestRenewHere is the process that the faults are injected into: it starts, and
// as Run does, asks again after an error.
func TestRenewHere(t *testing.T) {
	dir := os.Getenv(renewIn)
	if dir == "" {
		t.Skip("only as a child")
	}
	runtime.LockOSThread()
	root, err := pki.ReadCertificate(dir + ".root")
	if err != nil {
		t.Fatal(err)
	}
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root, TrustDomain: trustDomain})
	if err != nil {
		t.Fatal(err)
	}
	conn := overPipes{os.NewFile(faults.Told, "to"), os.NewFile(faults.Told+1, "from")}
	for range 3 {
		var before, after *x509.Certificate
		if before, after, err = step(dir, v, conn, os.Getenv(renewKept) != ""); err == nil && !after.Equal(before) {
			return
		}
	}
	t.Fatalf("not renewed: %v", err)
}

// step is a start of the part and the first step of Run.
func step(dir string, v *pki.Verifier, by renewal.Issuer, kept bool) (before, after *x509.Certificate, err error) {
	store, err := pki.OpenRenewable(filepath.Join(dir, "tls.key"), filepath.Join(dir, "tls.pem"), filepath.Join(dir, "renewed.pem"), v)
	if err != nil {
		return nil, nil, err
	}
	before = store.Current().Leaf()
	r, err := renewal.New(renewal.Config{Store: store, Issuer: by, KeepKey: kept, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	r.Run(ended)
	return before, store.Current().Leaf(), nil
}

// overPipes asks an issuer in another process. Each message is one write and one
// read.
type overPipes struct{ to, from *os.File }

const maxMessage = 4096 // what a pipe takes and gives at once

func (p overPipes) Reenroll(_ context.Context, request []byte) (leaf, by *x509.Certificate, err error) {
	if _, err := p.to.Write(request); err != nil {
		return nil, nil, err
	}
	answer := make([]byte, maxMessage)
	n, err := p.from.Read(answer)
	if err != nil {
		return nil, nil, err
	}
	certs, err := x509.ParseCertificates(answer[:n])
	if err != nil || len(certs) < 2 {
		return nil, nil, fmt.Errorf("%d certificates: %w", len(certs), err)
	}
	return certs[0], certs[1], nil
}

// once issues one certificate for each key, as services/issuer does.
type once struct {
	machines ca.Issuer
	id       pki.Identity
	issued   map[string]*x509.Certificate // by public key
}

func (o *once) Reenroll(_ context.Context, request []byte) (leaf, by *x509.Certificate, err error) {
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, nil, err
	}
	key := string(csr.RawSubjectPublicKeyInfo)
	if leaf = o.issued[key]; leaf == nil {
		if leaf, err = ca.IssueLeaf(o.machines, o.id, csr.PublicKey, ca.Names{}, month, time.Now()); err != nil {
			return nil, nil, err
		}
		o.issued[key] = leaf
	}
	return leaf, o.machines.Certificate, nil
}

// answer answers a child. wait returns when all is answered that it asked before
// it ended.
func (o *once) answer(t *testing.T, cmd *exec.Cmd) (wait func()) {
	t.Helper()
	ours, theirs := [2]*os.File{}, [2]*os.File{}
	var err error
	if ours[0], theirs[0], err = os.Pipe(); err == nil {
		theirs[1], ours[1], err = os.Pipe()
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = theirs[:]
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			request := make([]byte, maxMessage)
			n, err := ours[0].Read(request)
			if err != nil {
				return
			}
			leaf, by, err := o.Reenroll(context.Background(), request[:n])
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = ours[1].Write(slices.Concat(leaf.Raw, by.Raw)) // who asked may be gone
		}
	}()
	wait = sync.OnceFunc(func() {
		_ = errors.Join(theirs[0].Close(), theirs[1].Close())
		<-done
		_ = errors.Join(ours[0].Close(), ours[1].Close())
	})
	t.Cleanup(wait)
	return wait
}

// scene is what a renewal that is due begins with.
type scene struct {
	files map[string][]byte
	kept  bool // the key is pinned
	first *x509.Certificate
	once
	root []byte
	v    *pki.Verifier
}

// scenes are a bundle that was never renewed, also with a pinned key; one that
// was, once and twice; and one that was asked for, and the answer was lost.
func scenes(t *testing.T) map[string]scene {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const day = 24 * time.Hour
	begin := time.Now().Add(-40 * day)
	key, err := ca.NewRootKey()
	must(err)
	root, err := ca.NewRoot(key, trustDomain, ca.RootOptions{Lifetime: 400 * day}, begin)
	must(err)
	key, err = ca.NewAuthorityKey()
	must(err)
	cert, err := ca.IssueAuthority(root, pki.Authority{TrustDomain: trustDomain, Site: "melb", Class: pki.ClassMachine}, key.Public(), ca.Zones{}, 300*day, begin)
	must(err)
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root.Certificate, TrustDomain: trustDomain})
	must(err)
	base := scene{root: pki.MarshalCertificates(root.Certificate), v: v}
	base.machines = ca.Issuer{Certificate: cert, Signer: key}
	base.id = pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: pki.RoleSensor, Name: "web-1"}
	issue := func(at time.Time) (leaf *x509.Certificate, keyPEM, chainPEM []byte) {
		key, err := pki.NewKey(base.id.Role)
		must(err)
		leaf, err = ca.IssueLeaf(base.machines, base.id, key.Public(), ca.Names{}, month, at)
		must(err)
		keyPEM, chainPEM, err = pki.MarshalCredential(key, leaf, cert)
		must(err)
		return leaf, keyPEM, chainPEM
	}
	bundle, bundleKey, bundleChain := issue(time.Now().Add(-25 * day))
	renewed, renewedKey, renewedChain := issue(time.Now().Add(-15 * day))
	asked, askedKey, _ := issue(time.Now())
	with := func(first *x509.Certificate, more map[string][]byte) scene {
		s := base
		s.first, s.files = first, map[string][]byte{"tls.key": bundleKey, "tls.pem": bundleChain}
		maps.Copy(s.files, more)
		return s
	}
	pinned, lost := with(bundle, nil), with(bundle, map[string][]byte{"renewing.key": askedKey})
	pinned.kept = true
	lost.issued = map[string]*x509.Certificate{string(asked.RawSubjectPublicKeyInfo): asked}
	again := with(renewed, map[string][]byte{"renewed.pem": slices.Concat(renewedKey, renewedChain), "renewed.previous": slices.Concat(bundleKey, bundleChain)})
	return map[string]scene{"renewed twice": again, "bundle": with(bundle, nil), "pinned": pinned, "lost answer": lost,
		"renewed": with(renewed, map[string][]byte{"renewed.pem": slices.Concat(renewedKey, renewedChain)})}
}

// start returns a part in a directory of its own, which has not started.
func (s scene) start(t *testing.T) (o *once, dir string, cmd *exec.Cmd) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "part")
	err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(dir+".root", s.root, 0o600))
	for name, b := range s.files {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	o = &once{machines: s.machines, id: s.id, issued: make(map[string]*x509.Certificate)}
	maps.Copy(o.issued, s.issued)
	cmd = exec.Command(os.Args[0], "-test.run=^TestRenewHere$")
	cmd.Env = append(os.Environ(), renewIn+"="+dir)
	if s.kept {
		cmd.Env = append(cmd.Env, renewKept+"=1")
	}
	return o, dir, cmd
}

// repaired starts the part on what is in dir.
func (s scene) repaired(t *testing.T, after, dir string, o *once) {
	t.Helper()
	before, now, err := step(dir, s.v, o, s.kept)
	if err != nil {
		t.Errorf("after %s it does not start: %v", after, err)
		return
	}
	if len(o.issued) != 1 {
		t.Errorf("after %s: certificates were issued for %d keys", after, len(o.issued))
	}
	if issued := o.issued[string(now.RawSubjectPublicKeyInfo)]; issued == nil || !issued.Equal(now) {
		t.Errorf("after %s it was not renewed", after)
	}
	if !before.Equal(s.first) && !before.Equal(now) {
		t.Errorf("after %s it began with another credential", after)
	}
	if again, _, err := step(dir, s.v, nil, s.kept); err != nil || !again.Equal(now) {
		t.Errorf("after %s the start after the next has another credential: %v", after, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{"renewed.pem", "tls.key", "tls.pem"}
	if before := s.files["renewed.pem"]; before != nil {
		// What cannot be read again and again cannot be kept either.
		kept, err := os.ReadFile(filepath.Join(dir, "renewed.previous"))
		if !slices.Equal(kept, before) && !(strings.Contains(after, "and all after it") && slices.Equal(kept, s.files["renewed.previous"])) {
			t.Errorf("after %s the one before is not kept: %v", after, err)
		}
		if err == nil {
			want = []string{"renewed.pem", "renewed.previous", "tls.key", "tls.pem"}
		}
	}
	if !slices.Equal(names, want) {
		t.Errorf("after %s these stay: %v", after, names)
	}
}

// Each file operation of a renewal fails, once or with all after it, or is the
// last one of the process, in turn; the next start renews, with the key that the
// issuer may have seen, and leaves no copy of any.
func TestFaults(t *testing.T) {
	for name, s := range scenes(t) {
		calls := map[string]int{"read": 20, "write": 2, "fsync": 3, "close": 30, "renameat": 1, "unlinkat": 1}
		switch {
		case os.Getenv(faults.Every) != "":
			calls = map[string]int{"newfstatat": 1, "fstat": 1, "openat": 1, "read": 1, "getdents64": 1, "write": 1, "fchmod": 1, "fsync": 1, "close": 1, "renameat": 1}
			if !s.kept {
				calls["unlinkat"] = 1
			}
		case name != "renewed": // which does what most of the others do
			continue
		}
		t.Run(name, func(t *testing.T) {
			faults.Each(t, calls, func(t *testing.T) (*exec.Cmd, func(string)) {
				o, dir, cmd := s.start(t)
				wait := o.answer(t, cmd)
				return cmd, func(after string) {
					wait()
					s.repaired(t, after, dir, o)
				}
			})
		})
	}
}

// The power is lost at any moment of a renewal.
func TestPowerLoss(t *testing.T) {
	for name, s := range scenes(t) {
		t.Run(name, func(t *testing.T) {
			o, dir, cmd := s.start(t)
			o.answer(t, cmd)
			faults.PowerLoss(t, dir, cmd, func(after, dir string, told bool) {
				seen := &once{machines: s.machines, id: s.id, issued: make(map[string]*x509.Certificate)}
				maps.Copy(seen.issued, s.issued)
				if told {
					maps.Copy(seen.issued, o.issued)
				}
				s.repaired(t, after, dir, seen)
			})
		})
	}
}
