package ca_test

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/ca"
)

func TestRevocationList(t *testing.T) {
	root := newRoot(t)
	for name, issuer := range map[string]ca.Issuer{"root": root, "machines": newAuthority(t, root, machines, zones)} {
		entries := []x509.RevocationListEntry{
			{SerialNumber: big.NewInt(7), RevocationTime: noon.Add(-time.Hour)},
			{SerialNumber: new(big.Int).Lsh(big.NewInt(1), 127), RevocationTime: noon, ReasonCode: 1},
		}
		der := must[[]byte](t)(ca.IssueRevocationList(issuer, entries, big.NewInt(3), noon, noon.Add(day)))
		list := must[*x509.RevocationList](t)(x509.ParseRevocationList(der))
		if err := list.CheckSignatureFrom(issuer.Certificate); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if list.Number.Int64() != 3 || !list.ThisUpdate.Equal(noon) || !list.NextUpdate.Equal(noon.Add(day)) || len(list.RevokedCertificateEntries) != 2 {
			t.Errorf("%s: number %s, from %s to %s, %d entries", name, list.Number, list.ThisUpdate, list.NextUpdate, len(list.RevokedCertificateEntries))
		}
		for i, entry := range list.RevokedCertificateEntries {
			if entry.SerialNumber.Cmp(entries[i].SerialNumber) != 0 || !entry.RevocationTime.Equal(entries[i].RevocationTime) || entry.ReasonCode != entries[i].ReasonCode {
				t.Errorf("%s: entry %+v", name, entry)
			}
		}
	}
}

func TestRevocationListRefuses(t *testing.T) {
	var signatures int
	root := newRoot(t)
	issuer := count(newAuthority(t, root, machines, zones), &signatures)
	key := must[crypto.Signer](t)(pki.NewKey(pki.RoleBroker))
	leaf := ca.Issuer{Certificate: must[*x509.Certificate](t)(ca.IssueLeaf(issuer, id(pki.RoleBroker), key.Public(), ca.Names{}, day, noon)), Signer: counting{key, &signatures}}
	noCRL := *issuer.Certificate
	noCRL.KeyUsage = x509.KeyUsageCertSign
	good := x509.RevocationListEntry{SerialNumber: big.NewInt(7), RevocationTime: noon}
	with := func(change func(*x509.RevocationListEntry)) []x509.RevocationListEntry {
		entry := good
		change(&entry)
		return []x509.RevocationListEntry{entry}
	}
	one, next := big.NewInt(1), noon.Add(day)
	long := new(big.Int).Lsh(big.NewInt(1), 160)
	tests := []struct {
		name    string
		issuer  ca.Issuer
		entries []x509.RevocationListEntry
		number  *big.Int
		now     time.Time
		next    time.Time
	}{
		{"no issuer", ca.Issuer{}, nil, one, noon, next},
		{"no key", ca.Issuer{Certificate: issuer.Certificate}, nil, one, noon, next},
		{"a leaf", leaf, nil, one, noon, next},
		{"an authority for certificates alone", ca.Issuer{Certificate: &noCRL, Signer: issuer.Signer}, nil, one, noon, next},
		{"another's key", ca.Issuer{Certificate: issuer.Certificate, Signer: leaf.Signer}, nil, one, noon, next},
		{"issuer not yet valid", issuer, nil, one, noon.Add(-day), next},
		{"issuer expired", issuer, nil, one, issuer.Certificate.NotAfter.Add(time.Second), issuer.Certificate.NotAfter.Add(day)},
		{"no number", issuer, nil, nil, noon, next},
		{"number 0", issuer, nil, big.NewInt(0), noon, next},
		{"number below 0", issuer, nil, big.NewInt(-1), noon, next},
		{"number of 21 bytes", issuer, nil, long, noon, next},
		{"due at once", issuer, nil, one, noon, noon},
		{"due before", issuer, nil, one, noon, noon.Add(-time.Second)},
		{"no serial", issuer, with(func(e *x509.RevocationListEntry) { e.SerialNumber = nil }), one, noon, next},
		{"serial 0", issuer, with(func(e *x509.RevocationListEntry) { e.SerialNumber = big.NewInt(0) }), one, noon, next},
		{"serial of 21 bytes", issuer, with(func(e *x509.RevocationListEntry) { e.SerialNumber = long }), one, noon, next},
		{"twice", issuer, []x509.RevocationListEntry{good, good}, one, noon, next},
		{"no time", issuer, with(func(e *x509.RevocationListEntry) { e.RevocationTime = time.Time{} }), one, noon, next},
		{"in future", issuer, with(func(e *x509.RevocationListEntry) { e.RevocationTime = noon.Add(time.Second) }), one, noon, next},
		{"reason 7", issuer, with(func(e *x509.RevocationListEntry) { e.ReasonCode = 7 }), one, noon, next},
		{"reason 8, removed", issuer, with(func(e *x509.RevocationListEntry) { e.ReasonCode = 8 }), one, noon, next},
		{"reason 11", issuer, with(func(e *x509.RevocationListEntry) { e.ReasonCode = 11 }), one, noon, next},
		{"reason -1", issuer, with(func(e *x509.RevocationListEntry) { e.ReasonCode = -1 }), one, noon, next},
		{"an extension", issuer, with(func(e *x509.RevocationListEntry) { e.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 29}}} }), one, noon, next},
	}
	signatures = 0
	if _, err := ca.IssueRevocationList(issuer, []x509.RevocationListEntry{good}, one, noon, next); err != nil || signatures != 1 {
		t.Fatalf("a good list: %v, %d signatures", err, signatures)
	}
	for _, test := range tests {
		signatures = 0
		if der, err := ca.IssueRevocationList(test.issuer, test.entries, test.number, test.now, test.next); err == nil || der != nil || signatures != 0 {
			t.Errorf("%s: %v, %d signatures", test.name, err, signatures)
		}
	}
}

// openssl takes the list, and refuses what is on it and nothing else.
func TestOpenSSLObeysRevocationLists(t *testing.T) {
	root := newRoot(t)
	issuer := newAuthority(t, root, machines, zones)
	directory := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	leaf := func(name string) (*x509.Certificate, string) {
		key := must[crypto.Signer](t)(pki.NewKey(pki.RoleSensor))
		cert := must[*x509.Certificate](t)(ca.IssueLeaf(issuer, id(pki.RoleSensor), key.Public(), ca.Names{}, day, noon))
		return cert, write(name, pki.MarshalCertificates(cert))
	}
	revoked, revokedFile := leaf("revoked")
	_, otherFile := leaf("other")
	number := big.NewInt(1)
	encode := func(issuer ca.Issuer, entries ...x509.RevocationListEntry) []byte {
		der := must[[]byte](t)(ca.IssueRevocationList(issuer, entries, number, noon, noon.Add(day)))
		return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
	}
	crl := write("crl", encode(issuer, x509.RevocationListEntry{SerialNumber: revoked.SerialNumber, RevocationTime: noon, ReasonCode: 1}))
	write("crls", append(encode(root), must[[]byte](t)(os.ReadFile(crl))...))
	issuerFile, rootFile := write("issuer", pki.MarshalCertificates(issuer.Certificate)), write("root", pki.MarshalCertificates(root.Certificate))

	if out, err := run(t, "crl", "-in", crl, "-verify", "-CAfile", issuerFile, "-noout"); err != nil || !strings.Contains(out, "verify OK") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := run(t, "crl", "-in", crl, "-verify", "-CAfile", rootFile, "-noout"); err == nil && strings.Contains(out, "verify OK") {
		t.Errorf("another's list: %s", out)
	}
	verify := func(path string) (string, error) {
		return run(t, "verify", "-x509_strict", "-crl_check_all", "-attime", fmt.Sprint(noon.Unix()),
			"-CRLfile", filepath.Join(directory, "crls"), "-CAfile", rootFile, "-untrusted", issuerFile, path)
	}
	if out, err := verify(revokedFile); err == nil || !strings.Contains(out, "certificate revoked") {
		t.Errorf("revoked: %v\n%s", err, out)
	}
	if out, err := verify(otherFile); err != nil {
		t.Errorf("not revoked: %v\n%s", err, out)
	}
}
