package pkcs12_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	gopkcs12 "software.sslmate.com/src/go-pkcs12"

	"levee/pki"
	"levee/pki/ca"
	"levee/pki/pkcs12"
	"levee/test/programs"
)

const (
	trustDomain = "bank.example"
	day         = 24 * time.Hour
)

var noon = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

// person is a person's credential, of a machine if role is one's.
func person(t *testing.T, role pki.Role) (crypto.Signer, *x509.Certificate, *x509.Certificate) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	rootKey, err := ca.NewRootKey()
	check(err)
	root, err := ca.NewRoot(rootKey, trustDomain, ca.RootOptions{Lifetime: 730 * day}, noon)
	check(err)
	issuerKey, err := ca.NewAuthorityKey()
	check(err)
	authority := pki.Authority{TrustDomain: trustDomain, Site: "melb", Class: role.Class()}
	issuer, err := ca.IssueAuthority(root, authority, issuerKey.Public(), ca.Zones{}, 365*day, noon)
	check(err)
	key, err := pki.NewKey(role)
	check(err)
	id := pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: role, Name: "alice"}
	leaf, err := ca.IssueLeaf(ca.Issuer{Certificate: issuer, Signer: issuerKey}, id, key.Public(), ca.Names{}, day, noon)
	check(err)
	return key, leaf, issuer
}

func TestEncode(t *testing.T) {
	key, leaf, issuer := person(t, pki.RoleOperator)
	file, passphrase, err := pkcs12.Encode(key, leaf, issuer)
	if err != nil {
		t.Fatal(err)
	}
	if text := passphrase.Reveal(); !regexp.MustCompile(`^[A-Z2-7]{26}$`).MatchString(text) {
		t.Errorf("a passphrase of %d characters that are not 128 bits", len(text))
	}
	gotKey, gotLeaf, others, err := gopkcs12.DecodeChain(file, passphrase.Reveal())
	if err != nil || !key.(*ecdsa.PrivateKey).Equal(gotKey.(crypto.PrivateKey)) || !gotLeaf.Equal(leaf) || len(others) != 1 || !others[0].Equal(issuer) {
		t.Errorf("read back: %v, %d other certificates", err, len(others))
	}
	for _, wrong := range []string{"", strings.ToLower(passphrase.Reveal())} {
		if _, _, _, err := gopkcs12.DecodeChain(file, wrong); err == nil {
			t.Errorf("opens under %q", wrong)
		}
	}
	_, second, err := pkcs12.Encode(key, leaf, issuer)
	if err != nil || second.Reveal() == passphrase.Reveal() {
		t.Errorf("the same passphrase twice, %v", err)
	}
}

// token is a key that cannot be written.
type token struct{ public crypto.PublicKey }

func (k token) Public() crypto.PublicKey { return k.public }
func (token) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, io.ErrUnexpectedEOF
}

func TestEncodeRefuses(t *testing.T) {
	key, leaf, issuer := person(t, pki.RoleOperator)
	other, _, otherIssuer := person(t, pki.RoleOperator)
	machine, machineLeaf, machineIssuer := person(t, pki.RoleSensor)
	for name, try := range map[string]func() ([]byte, pkcs12.Passphrase, error){
		"no key":           func() ([]byte, pkcs12.Passphrase, error) { return pkcs12.Encode(nil, leaf, issuer) },
		"no leaf":          func() ([]byte, pkcs12.Passphrase, error) { return pkcs12.Encode(key, nil, issuer) },
		"no issuer":        func() ([]byte, pkcs12.Passphrase, error) { return pkcs12.Encode(key, leaf, nil) },
		"another's key":    func() ([]byte, pkcs12.Passphrase, error) { return pkcs12.Encode(other, leaf, issuer) },
		"another's issuer": func() ([]byte, pkcs12.Passphrase, error) { return pkcs12.Encode(key, leaf, otherIssuer) },
		"a token's key":    func() ([]byte, pkcs12.Passphrase, error) { return pkcs12.Encode(token{key.Public()}, leaf, issuer) },
		"Ed25519":          func() ([]byte, pkcs12.Passphrase, error) { return pkcs12.Encode(machine, machineLeaf, machineIssuer) },
	} {
		if file, _, err := try(); err == nil || file != nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func TestPassphrasePrintsAsRedacted(t *testing.T) {
	_, passphrase, err := pkcs12.Encode(person(t, pki.RoleOperator))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", slog.Any("p", passphrase))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if got := fmt.Sprintf(verb, passphrase); got != "redacted" {
			t.Errorf("%s prints %s", verb, got)
		}
		out.WriteString(fmt.Sprintf(verb, struct{ p any }{passphrase}))
	}
	text := passphrase.Reveal()
	if strings.Contains(out.String(), text) || strings.Contains(out.String(), fmt.Sprintf("%x", text)) || !strings.Contains(out.String(), "redacted") {
		t.Errorf("printed: %s", out.String())
	}
}

// openssl reads it, and names algorithms that common systems have.
func TestOpenSSLReads(t *testing.T) {
	openssl := programs.Need(t, "openssl", "apt-get install openssl")
	key, leaf, issuer := person(t, pki.RoleOperator)
	file, passphrase, err := pkcs12.Encode(key, leaf, issuer)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "alice.p12")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, openssl, "pkcs12", "-in", path, "-info", "-nodes", "-passin", "stdin")
	command.Stdin = strings.NewReader(passphrase.Reveal() + "\n")
	b, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	out := string(b)
	for _, cert := range []*x509.Certificate{leaf, issuer} {
		if !strings.Contains(out, string(bytes.TrimSpace(pki.MarshalCertificates(cert)))) {
			t.Errorf("%s is missing", cert.Subject)
		}
	}
	plain, err := pki.MarshalKey(key)
	if err != nil || !strings.Contains(out, string(bytes.TrimSpace(plain))) {
		t.Errorf("the key is missing, %v", err)
	}
	if !strings.Contains(out, "PBES2, PBKDF2, AES-256-CBC") || !strings.Contains(out, "MAC: sha256") {
		t.Errorf("other algorithms than meant:\n%s", regexp.MustCompile(`(?s)-----BEGIN.*?-----END[^\n]*`).ReplaceAllString(out, ""))
	}
}
