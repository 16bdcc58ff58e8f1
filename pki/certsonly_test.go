package pki_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/ca"
	"levee/test/programs"
)

// issued returns a leaf, its issuer and the root.
func issued(t testing.TB) []*x509.Certificate {
	t.Helper()
	root := newRoot(t, noon)
	issuer := newAuthority(t, root, melbMachines, melbZones, noon)
	leaf := newLeaf(t, issuer, melbSensor, newKey(t, pki.RoleSensor), noon)
	return []*x509.Certificate{leaf, issuer.Certificate, root.Certificate}
}

func TestCertsOnly(t *testing.T) {
	certs := issued(t)
	for n := 1; n <= len(certs); n++ {
		got, err := pki.ParseCertsOnly(pki.MarshalCertsOnly(certs[:n]...))
		if err != nil || !slices.EqualFunc(got, certs[:n], (*x509.Certificate).Equal) {
			t.Errorf("%d certificates: %d, %v", n, len(got), err)
		}
	}
}

func TestParseCertsOnlyRefuses(t *testing.T) {
	certs := issued(t)
	good := pki.MarshalCertsOnly(certs[0])
	template := authorityTemplate(melbMachines, noon)
	template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: []int{1, 3, 6, 1, 4, 1, 99999, 3}, Value: make([]byte, 200<<10)})
	key := newKey(t, pki.RoleSensor)
	long := mint(t, ca.Issuer{Certificate: template, Signer: key}, template, key.Public())
	swap := func(old, new string) []byte {
		if bytes.Count(good, []byte(old)) == 0 {
			t.Fatalf("%x is not in the message", old)
		}
		return bytes.Replace(good, []byte(old), []byte(new), 1)
	}
	inner := append([]byte{0x30, 0x80}, append(append([]byte(nil), good[4:]...), 0, 0)...)
	for name, der := range map[string][]byte{
		"nothing":            nil,
		"no certificate":     pki.MarshalCertsOnly(),
		"five":               pki.MarshalCertsOnly(certs[0], certs[0], certs[0], certs[0], certs[0]),
		"a certificate":      certs[0].Raw,
		"cut":                good[:len(good)-1],
		"a byte more":        append(bytes.Clone(good), 0),
		"one that is long":   pki.MarshalCertsOnly(long),
		"too long":           append(bytes.Clone(good), make([]byte, 200<<10)...),
		"other content type": swap("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02", "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03"),
		"version 3":          swap("\x02\x01\x01\x31\x00", "\x02\x01\x03\x31\x00"),
		"inner content type": swap("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01", "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x05"),
		"no certificate but": swap(string(certs[0].Raw[:4]), "\x30\x82\x00\x01"),
		"BER without length": inner,
	} {
		if got, err := pki.ParseCertsOnly(der); err == nil || got != nil {
			t.Errorf("%s: %d certificates", name, len(got))
		}
	}
}

func FuzzParseCertsOnly(f *testing.F) {
	certs := issued(f)
	f.Add(pki.MarshalCertsOnly(certs[0]))
	f.Add(pki.MarshalCertsOnly(certs...))
	f.Add(pki.MarshalCertsOnly())
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		got, err := pki.ParseCertsOnly(der)
		if err != nil {
			if got != nil {
				t.Error("certificates beside an error")
			}
			return
		}
		if again := pki.MarshalCertsOnly(got...); !bytes.Equal(again, der) {
			t.Errorf("read from a second spelling: %x", der)
		}
	})
}

func TestOpenSSLReadsCertsOnly(t *testing.T) {
	certs := issued(t)
	openssl := programs.Need(t, "openssl", "apt-get install openssl")
	path := filepath.Join(t.TempDir(), "p7")
	write(t, path, pki.MarshalCertsOnly(certs[0], certs[1]))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := exec.CommandContext(ctx, openssl, "pkcs7", "-inform", "DER", "-in", path, "-print_certs").CombinedOutput()
	out := string(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, cert := range certs[:2] {
		if !strings.Contains(out, string(bytes.TrimSpace(pki.MarshalCertificates(cert)))) {
			t.Errorf("%s is missing:\n%s", cert.Subject, out)
		}
	}
	if strings.Count(out, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("not two certificates:\n%s", out)
	}
}
