package pki_test

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"levee/pki"
	"levee/pki/ca"
)

// renewable is a sensor's credential on disk, and who issues the next one.
type renewable struct {
	dir      string
	machines ca.Issuer
	verifier *pki.Verifier
}

func newRenewable(t *testing.T, life time.Duration) renewable {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	key, err := ca.NewRootKey()
	must(err)
	root, err := ca.NewRoot(key, "bank.example", ca.RootOptions{Lifetime: 366 * 24 * time.Hour}, now)
	must(err)
	machine, err := ca.NewAuthorityKey()
	must(err)
	cert, err := ca.IssueAuthority(root, pki.Authority{TrustDomain: "bank.example", Site: "melb", Class: pki.ClassMachine}, machine.Public(), ca.Zones{}, 300*24*time.Hour, now)
	must(err)
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root.Certificate, TrustDomain: "bank.example"})
	must(err)
	r := renewable{dir: t.TempDir(), machines: ca.Issuer{Certificate: cert, Signer: machine}, verifier: v}
	r.carry(t, "web-1", life)
	return r
}

// carry puts a fresh bundle there.
func (r renewable) carry(t *testing.T, name string, life time.Duration) {
	t.Helper()
	keyPEM, chainPEM := r.issue(t, name, life)
	for file, b := range map[string][]byte{"tls.key": keyPEM, "tls.pem": chainPEM} {
		if err := os.WriteFile(filepath.Join(r.dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (r renewable) issue(t *testing.T, name string, life time.Duration) (keyPEM, chainPEM []byte) {
	t.Helper()
	id := pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: pki.RoleSensor, Name: name}
	key, err := pki.NewKey(id.Role)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueLeaf(r.machines, id, key.Public(), ca.Names{}, life, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, chainPEM, err = pki.MarshalCredential(key, leaf, r.machines.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return keyPEM, chainPEM
}

func (r renewable) renewed() string { return filepath.Join(r.dir, "renewed.pem") }

func (r renewable) open(t *testing.T) *pki.Store {
	t.Helper()
	s, err := pki.OpenRenewable(filepath.Join(r.dir, "tls.key"), filepath.Join(r.dir, "tls.pem"), r.renewed(), r.verifier)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRenewable(t, time.Hour)
		s := r.open(t)
		first, replaced := s.Watch()
		time.Sleep(20 * time.Minute)
		if err := s.Replace(r.issue(t, "web-1", time.Hour)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-replaced:
		default:
			t.Error("who watches is not told")
		}
		second := s.Current()
		if second.Leaf().Equal(first.Leaf()) {
			t.Fatal("the store holds the old credential")
		}
		if again := r.open(t).Current(); !again.Leaf().Equal(second.Leaf()) {
			t.Error("the next start finds the old credential")
		}
		// Half a file, as only another program could leave it: the bundle's own still does.
		b, err := os.ReadFile(r.renewed())
		if err != nil {
			t.Fatal(err)
		}
		for n := range len(b) {
			if n%97 != 0 {
				continue
			}
			if err := os.WriteFile(r.renewed(), b[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			if again := r.open(t).Current(); !again.Leaf().Equal(first.Leaf()) {
				t.Fatalf("of %d bytes of the renewed credential something was made", n)
			}
		}
	})
}

func TestReplaceRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, other := newRenewable(t, time.Hour), newRenewable(t, time.Hour)
		s := r.open(t)
		first, replaced := s.Watch()
		time.Sleep(time.Minute)
		key, chain := r.issue(t, "web-1", time.Hour)
		otherKey, otherChain := other.issue(t, "web-1", time.Hour)
		nameKey, nameChain := r.issue(t, "web-2", time.Hour)
		shortKey, shortChain := r.issue(t, "web-1", 30*time.Minute)
		for name, pair := range map[string][2][]byte{
			"another root":        {otherKey, otherChain},
			"another name":        {nameKey, nameChain},
			"ends earlier":        {shortKey, shortChain},
			"another key":         {otherKey, chain},
			"no chain":            {key, nil},
			"a third certificate": {key, slices.Concat(chain, otherChain)},
			"nothing":             {nil, nil},
		} {
			if err := s.Replace(pair[0], pair[1]); err == nil {
				t.Errorf("%s: replaced", name)
			}
		}
		if _, err := os.Stat(r.renewed()); err == nil {
			t.Error("something was kept")
		}
		if s.Current() != first {
			t.Error("the store holds another credential")
		}
		select {
		case <-replaced:
			t.Error("who watches was told")
		default:
		}
		if fixed, err := pki.OpenStore(filepath.Join(r.dir, "tls.key"), filepath.Join(r.dir, "tls.pem"), r.verifier); err != nil {
			t.Error(err)
		} else if err := fixed.Replace(key, chain); err == nil {
			t.Error("a store that is not renewed replaced its credential")
		}
	})
}

func TestWhatIsNewerCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRenewable(t, time.Hour)
		time.Sleep(20 * time.Minute)
		if err := r.open(t).Replace(r.issue(t, "web-1", time.Hour)); err != nil {
			t.Fatal(err)
		}
		renewed := r.open(t).Current()
		time.Sleep(20 * time.Minute)
		r.carry(t, "web-1", time.Hour) // a person carries a new bundle
		carried := r.open(t).Current()
		if carried.Leaf().Equal(renewed.Leaf()) {
			t.Error("the renewed credential hides a bundle that is newer")
		}
		// A part whose certificate has expired must be able to start, to be readmitted.
		time.Sleep(2 * time.Hour)
		if got := r.open(t).Current(); !got.Leaf().Equal(carried.Leaf()) {
			t.Error("of two that expired, not the newer one is held")
		}
		if _, err := pki.OpenStore(filepath.Join(r.dir, "tls.key"), filepath.Join(r.dir, "tls.pem"), r.verifier); err == nil {
			t.Error("what nobody renews was opened after its end")
		}
	})
}

// The key of a renewal that is not complete outlives a restart, and no other key
// is taken for it.
func TestNextKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRenewable(t, time.Hour)
		file := filepath.Join(r.dir, "renewing.key")
		next := func() crypto.Signer {
			t.Helper()
			key, err := r.open(t).NextKey()
			if err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Fatalf("%v, %v", info, err)
			}
			return key
		}
		same := func(a, b crypto.Signer) bool { return a.Public().(ed25519.PublicKey).Equal(b.Public()) }
		first := next()
		if !same(next(), first) {
			t.Fatal("a restart made another key")
		}
		kept, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		broker, err := pki.NewKey(pki.RoleBroker)
		if err != nil {
			t.Fatal(err)
		}
		inUse, err := os.ReadFile(filepath.Join(r.dir, "tls.key"))
		if err != nil {
			t.Fatal(err)
		}
		otherKind, _, err := pki.MarshalCredential(broker, r.open(t).Current().Leaf(), r.machines.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		for name, test := range map[string]struct {
			b    []byte
			mode os.FileMode
		}{
			"nothing": {nil, 0o600}, "half": {kept[:len(kept)/2], 0o600}, "rubbish": {[]byte("x"), 0o600}, "readable by others": {kept, 0o644},
			"of another kind": {otherKind, 0o600}, "in use": {inUse, 0o600},
		} {
			if err := errors.Join(os.WriteFile(file, test.b, 0o600), os.Chmod(file, test.mode)); err != nil {
				t.Fatal(err)
			}
			fresh := next()
			if b, err := os.ReadFile(file); err != nil || slices.Equal(b, test.b) || same(fresh, first) || !same(next(), fresh) {
				t.Errorf("%s: kept, or not replaced for good: %v", name, err)
			}
		}
		s := r.open(t)
		fresh := next()
		if err := errors.Join(s.ForgetNextKey(), s.ForgetNextKey()); err != nil {
			t.Fatal(err)
		}
		if same(next(), fresh) {
			t.Error("a key that was given up came again")
		}
		time.Sleep(time.Minute)
		if err := s.Replace(r.issue(t, "web-1", 30*time.Minute)); !errors.Is(err, pki.ErrEndsEarlier) {
			t.Errorf("one that ends earlier: %v", err)
		}
		if _, err := os.Stat(file); err != nil {
			t.Errorf("refused, and the key is gone: %v", err)
		}
		if err := s.Replace(r.issue(t, "web-1", time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(file); err == nil {
			t.Error("replaced, and the key is still there")
		}
		fixed, err := pki.OpenStore(filepath.Join(r.dir, "tls.key"), filepath.Join(r.dir, "tls.pem"), r.verifier)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fixed.NextKey(); err == nil {
			t.Error("a store that is not renewed has a next key")
		}
	})
}

// Reading the same files again tells nobody anything.
func TestReloadOfTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newRenewable(t, time.Hour).open(t)
		_, replaced := s.Watch()
		if err := s.Reload(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-replaced:
			t.Error("who watches was told")
		default:
		}
	})
}
