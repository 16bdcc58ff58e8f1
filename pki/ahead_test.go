package pki_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"levee/pki"
	"levee/pki/ca"
)

// issueAt is issue by a clock that is ahead by so much.
func (r renewable) issueAt(t *testing.T, life, ahead time.Duration) (keyPEM, chainPEM []byte) {
	t.Helper()
	id := pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: pki.RoleSensor, Name: "web-1"}
	key, err := pki.NewKey(id.Role)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueLeaf(r.machines, id, key.Public(), ca.Names{}, life, time.Now().Add(ahead))
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, chainPEM, err = pki.MarshalCredential(key, leaf, r.machines.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return keyPEM, chainPEM
}

// What is not valid yet does not hide what is, whichever of the two it is.
func TestWhatIsNotValidYetHidesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRenewable(t, time.Hour)
		bundle := r.open(t).Current()
		key, chain := r.issueAt(t, time.Hour, 30*time.Minute)
		if err := os.WriteFile(r.renewed(), slices.Concat(key, chain), 0o600); err != nil {
			t.Fatal(err)
		}
		if !r.open(t).Current().Leaf().Equal(bundle.Leaf()) {
			t.Error("a renewed credential of a clock that was ahead is held")
		}
		if err := os.Remove(r.renewed()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		if err := r.open(t).Replace(r.issue(t, "web-1", time.Hour)); err != nil {
			t.Fatal(err)
		}
		renewed := r.open(t).Current()
		key, chain = r.issueAt(t, time.Hour, 30*time.Minute)
		for name, b := range map[string][]byte{"tls.key": key, "tls.pem": chain} {
			if err := os.WriteFile(filepath.Join(r.dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if !r.open(t).Current().Leaf().Equal(renewed.Leaf()) {
			t.Error("a bundle of a clock that was ahead hides the renewed credential")
		}
	})
}

// What was issued later and has ended does not hide what is valid.
func TestWhatHasEndedHidesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRenewable(t, 2*time.Hour)
		bundle := r.open(t).Current()
		time.Sleep(10 * time.Minute)
		key, chain := r.issue(t, "web-1", 20*time.Minute)
		if err := os.WriteFile(r.renewed(), slices.Concat(key, chain), 0o600); err != nil {
			t.Fatal(err)
		}
		if r.open(t).Current().Leaf().Equal(bundle.Leaf()) {
			t.Fatal("the newer one is not held while it is valid")
		}
		time.Sleep(time.Hour)
		if !r.open(t).Current().Leaf().Equal(bundle.Leaf()) {
			t.Error("one that has ended is held")
		}
	})
}

// A renewal keeps the credential that it takes the place of, for its owner alone,
// and that one is held again when nothing newer is valid.
func TestTheOneBeforeIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRenewable(t, time.Hour)
		previous := filepath.Join(r.dir, "renewed.previous")
		s := r.open(t)
		renew := func(life time.Duration) *pki.Credential {
			t.Helper()
			time.Sleep(20 * time.Minute)
			if err := s.Replace(r.issue(t, "web-1", life)); err != nil {
				t.Fatal(err)
			}
			return s.Current()
		}
		first := renew(2 * time.Hour)
		if _, err := os.Stat(previous); err == nil {
			t.Error("the bundle's was copied")
		}
		second := renew(2 * time.Hour)
		if info, err := os.Stat(previous); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%v, %v", info, err)
		}
		key, chain := r.issueAt(t, 2*time.Hour, 50*time.Minute)
		if err := os.WriteFile(r.renewed(), slices.Concat(key, chain), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Minute) // the bundle's has ended
		if err := s.Reload(); err != nil || !s.Current().Leaf().Equal(first.Leaf()) || !r.open(t).Current().Leaf().Equal(first.Leaf()) {
			t.Errorf("the one before is not held: %v", err)
		}
		if second.Leaf().Equal(first.Leaf()) {
			t.Fatal("it was not renewed")
		}
		// What is renewed now takes the place of what is not valid yet, and the
		// one that was used meanwhile stays.
		renew(2 * time.Hour)
		if err := os.Remove(r.renewed()); err != nil {
			t.Fatal(err)
		}
		if !r.open(t).Current().Leaf().Equal(first.Leaf()) {
			t.Error("the one that was in use is gone")
		}
		// Written and not taken: again, it is not what was there before it.
		key, chain = r.issue(t, "web-1", 3*time.Hour)
		if err := os.WriteFile(r.renewed(), slices.Concat(key, chain), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Replace(key, chain); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(r.renewed()); err != nil {
			t.Fatal(err)
		}
		if !r.open(t).Current().Leaf().Equal(first.Leaf()) {
			t.Error("the new one was kept as the one before")
		}
	})
}

// Somebody broke the renewed credential while it was in use. It is kept as the
// store has it; the bundle's own is not copied, whatever else cannot be read.
func TestTheOneBeforeIsKeptThoughItsFileIsBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRenewable(t, time.Hour)
		previous := filepath.Join(r.dir, "renewed.previous")
		s := r.open(t)
		for _, kept := range []bool{false, true} {
			if err := os.WriteFile(r.renewed(), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
			before := s.Current()
			if err := s.Replace(r.issue(t, "web-1", time.Hour)); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(previous); (err == nil) != kept {
				t.Errorf("kept: %v, want %v", err, kept)
			}
			if !kept {
				continue
			}
			if err := os.Remove(r.renewed()); err != nil {
				t.Fatal(err)
			}
			if !r.open(t).Current().Leaf().Equal(before.Leaf()) {
				t.Error("another one is kept")
			}
		}
	})
}
