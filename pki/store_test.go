package pki_test

import (
	"crypto/x509"
	"sync"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/ca"
)

func TestStore(t *testing.T) {
	now := time.Now()
	root := newRoot(t, now.Add(-60*24*time.Hour))
	machines := newAuthority(t, root, melbMachines, ca.Zones{}, now.Add(-60*24*time.Hour))
	foreign := newAuthority(t, newRoot(t, now), melbMachines, ca.Zones{}, now)
	v := newVerifier(t, root, "melb")
	key := newKey(t, pki.RoleSensor)
	first := newLeaf(t, machines, melbSensor, key, now)
	keyFile, chainFile := files(t, key, first, machines.Certificate)

	store, err := pki.OpenStore(keyFile, chainFile, v)
	if err != nil {
		t.Fatal(err)
	}
	if store.Identity() != melbSensor || !store.Current().Leaf().Equal(first) {
		t.Errorf("store holds %v of %v", store.Current(), store.Identity())
	}

	kept := store.Current()
	other := melbSensor
	other.Name = "web-2"
	expired := newLeaf(t, machines, melbSensor, key, now.Add(-31*24*time.Hour))
	for name, chain := range map[string][]byte{
		"nothing":               nil,
		"another's key":         pki.MarshalCertificates(newLeaf(t, machines, melbSensor, newKey(t, pki.RoleSensor), now), machines.Certificate),
		"expired":               pki.MarshalCertificates(expired, machines.Certificate),
		"foreign":               pki.MarshalCertificates(newLeaf(t, foreign, melbSensor, key, now), foreign.Certificate),
		"another identity":      pki.MarshalCertificates(newLeaf(t, machines, other, key, now), machines.Certificate),
		"outside the profile":   pki.MarshalCertificates(mint(t, machines, spoilt(now), key.Public()), machines.Certificate),
		"half of a certificate": pki.MarshalCertificates(first, machines.Certificate)[:500],
	} {
		write(t, chainFile, chain)
		if err := store.Reload(); err == nil || store.Current() != kept {
			t.Errorf("%s: Reload: %v; kept %v", name, err, store.Current() == kept)
		}
		if _, err := pki.OpenStore(keyFile, chainFile, v); (err == nil) != (name == "another identity") {
			t.Errorf("%s: OpenStore: %v", name, err)
		}
	}

	second := newLeaf(t, machines, melbSensor, key, now)
	write(t, chainFile, pki.MarshalCertificates(second, machines.Certificate))
	if err := store.Reload(); err != nil || !store.Current().Leaf().Equal(second) {
		t.Errorf("Reload: %v", err)
	}
	if !kept.Leaf().Equal(first) {
		t.Error("a credential in use was changed")
	}
	if _, err := pki.OpenStore(keyFile, chainFile, nil); err == nil {
		t.Error("OpenStore without a verifier")
	}
}

func spoilt(now time.Time) *x509.Certificate {
	cert := template(melbSensor, now)
	cert.Subject.CommonName = "melb_sensor_web-2"
	return cert
}

// TestStoreConcurrently is for the race detector.
func TestStoreConcurrently(t *testing.T) {
	now := time.Now()
	root := newRoot(t, now)
	machines := newAuthority(t, root, melbMachines, ca.Zones{}, now)
	key := newKey(t, pki.RoleSensor)
	keyFile, chainFile := files(t, key, newLeaf(t, machines, melbSensor, key, now), machines.Certificate)
	store, err := pki.OpenStore(keyFile, chainFile, newVerifier(t, root, ""))
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 10 {
				if err := store.Reload(); err != nil {
					t.Error(err)
				}
			}
		})
		group.Go(func() {
			for range 100 {
				if store.Current() == nil {
					t.Error("no credential")
				}
			}
		})
	}
	group.Wait()
}
