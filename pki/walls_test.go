package pki_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/ca"
	"levee/test/programs"
)

// walls are what a certificate must get past. Each judges alone, and only
// first and second are ours.
type walls uint8

const (
	// uriOnly is crypto/x509 below an authority that constrains URIs and
	// nothing else: it shows what the other constraints are for.
	uriOnly walls = 1 << iota
	// first is crypto/x509 below the authority as it is issued.
	first
	// openssl is another implementation of the first.
	openssl
	// second is VerifyPath, which knows no signature.
	second

	none  walls = 0
	full        = first | openssl | second
	every       = uriOnly | full
)

func (w walls) String() string {
	var names []string
	for i, name := range []string{"uriOnly", "first", "openssl", "second"} {
		if w&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "|")
}

// judge says whether the walls that refused are the walls that were to. OpenSSL
// may refuse more: a release of it that became stricter is no harm.
func judge(t *testing.T, got, want walls) {
	t.Helper()
	if stricter := got &^ want; stricter == openssl && want != none {
		t.Logf("this openssl refuses it too, others did not")
		got = want
	}
	if got != want {
		t.Errorf("refused by %s; want %s", got, want)
	}
}

// captured is an authority whose key is in an attacker's hands.
type captured struct {
	root, issuer ca.Issuer
	uriOnly      *x509.Certificate // the same authority, worse constrained
	v            *pki.Verifier
}

func capture(t *testing.T) captured {
	t.Helper()
	root := newRoot(t, noon)
	issuer := newAuthority(t, root, melbMachines, melbZones, noon)
	weak := authorityTemplate(melbMachines, noon)
	weak.RawSubject, weak.SubjectKeyId = issuer.Certificate.RawSubject, issuer.Certificate.SubjectKeyId
	weak.ExcludedURIDomains, weak.PermittedDNSDomains, weak.PermittedEmailAddresses, weak.ExcludedIPRanges = nil, nil, nil, nil
	v := newVerifier(t, root, "")
	// It remembers that the root vouches for the issuer, and refuses no less.
	if _, err := v.Verify(newLeaf(t, issuer, melbSensor, newKey(t, pki.RoleSensor), noon), issuer.Certificate, pki.UsageClient, noon); err != nil {
		t.Fatal(err)
	}
	return captured{
		root: root, issuer: issuer, v: v,
		uriOnly: mint(t, root, weak, issuer.Signer.Public()),
	}
}

// sign signs template as it is and returns DER, which crypto/x509 may be
// unable to read.
func (c captured) sign(t *testing.T, template *x509.Certificate, public any) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, c.issuer.Certificate, public, c.issuer.Signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// firstWall asks crypto/x509, and nothing of ours.
func firstWall(root, issuer, leaf *x509.Certificate) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	intermediates.AddCert(issuer)
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: noon, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// ourWalls asks VerifyPath, which is the second wall alone, and Verify, which
// must refuse with the error of the wall that was hit first. It returns who
// refused.
func ourWalls(t *testing.T, v *pki.Verifier, leaf, issuer *x509.Certificate, want pki.Identity) (by walls) {
	t.Helper()
	pathID, pathErr := pki.VerifyPath(leaf, issuer, trustDomain, pki.UsageClient, noon)
	if pathErr != nil {
		by |= second
		if !errors.Is(pathErr, pki.ErrProfile) || pathID != (pki.Identity{}) {
			t.Errorf("VerifyPath = %v, %v", pathID, pathErr)
		}
	} else if pathID != want {
		t.Errorf("VerifyPath = %v; want %v", pathID, want)
	}
	id, err := v.Verify(leaf, issuer, pki.UsageClient, noon)
	switch {
	case errors.Is(err, pki.ErrChain):
		by |= first
	case errors.Is(err, pki.ErrProfile) != (pathErr != nil):
		t.Errorf("the second wall said %v alone, and in Verify %v", pathErr, err)
	}
	if by == none && (err != nil || id != want) {
		t.Errorf("Verify = %v, %v; want %v", id, err, want)
	}
	if by != none && (err == nil || id != (pki.Identity{})) {
		t.Errorf("Verify = %v, %v; want a refusal", id, err)
	}
	return by
}

// opensslAccepts asks openssl about many leaves at once.
func opensslAccepts(t *testing.T, root *x509.Certificate, issuers []*x509.Certificate, leaves ...[]byte) []bool {
	t.Helper()
	command := programs.Need(t, "openssl", "apt-get install openssl")
	directory := t.TempDir()
	encode := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }
	write(t, filepath.Join(directory, "root"), encode(root.Raw))
	write(t, filepath.Join(directory, "issuers"), pki.MarshalCertificates(issuers...))
	arguments := []string{"verify", "-x509_strict", "-purpose", "sslclient", "-attime", fmt.Sprint(noon.Unix()),
		"-CAfile", "root", "-untrusted", "issuers"}
	for i, leaf := range leaves {
		name := fmt.Sprintf("leaf-%d", i)
		write(t, filepath.Join(directory, name), encode(leaf))
		arguments = append(arguments, name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, command, arguments...)
	run.Dir = directory
	out, err := run.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited { // which it does when it refuses one
		t.Fatal(err)
	}
	accepted := make([]bool, len(leaves))
	lines := strings.Split(strings.ReplaceAll(string(out), "\r", ""), "\n")
	judged := 0
	for _, line := range lines {
		for i := range leaves {
			switch name := fmt.Sprintf("leaf-%d", i); {
			case line == name+": OK":
				accepted[i] = true
				judged++
			case line == "error "+name+": verification failed", strings.HasPrefix(line, "Could not") && strings.HasSuffix(line, " "+name):
				judged++
			}
		}
	}
	if judged != len(leaves) {
		t.Fatalf("openssl judged %d of %d:\n%s", judged, len(leaves), out)
	}
	return accepted
}
