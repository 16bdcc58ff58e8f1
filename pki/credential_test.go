package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/ca"
)

func pemOf(t testing.TB, blockType string, der []byte) []byte {
	t.Helper()
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
}

func pkcs8(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf(t, "PRIVATE KEY", der)
}

func TestLoadCredential(t *testing.T) {
	root := newRoot(t, noon)
	machines := newAuthority(t, root, melbMachines, ca.Zones{}, noon)
	for _, id := range []pki.Identity{melbSensor, melbBroker} { // Ed25519, P-256
		key := newKey(t, id.Role)
		leaf := newLeaf(t, machines, id, key, noon)
		credential, err := pki.LoadCredential(files(t, key, leaf, machines.Certificate))
		if err != nil {
			t.Fatal(err)
		}
		if !credential.Leaf().Equal(leaf) || !credential.Issuer().Equal(machines.Certificate) {
			t.Error("leaf or issuer is another")
		}
		if certificate := credential.TLS(); len(certificate.Certificate) != 2 || !bytes.Equal(certificate.Certificate[0], leaf.Raw) {
			t.Error("the chain for TLS is not leaf and issuer")
		}
		message := []byte("message")
		switch public := credential.Signer().Public().(type) {
		case ed25519.PublicKey:
			signature, err := credential.Signer().Sign(rand.Reader, message, crypto.Hash(0))
			if err != nil || !ed25519.Verify(public, message, signature) {
				t.Errorf("signing: %v", err)
			}
		case *ecdsa.PublicKey:
			digest := bytes.Repeat([]byte{1}, 32)
			signature, err := credential.Signer().Sign(rand.Reader, digest, crypto.SHA256)
			if err != nil || !ecdsa.VerifyASN1(public, digest, signature) {
				t.Errorf("signing: %v", err)
			}
		default:
			t.Errorf("public key is %T", public)
		}
	}
}

func TestLoadCredentialModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("file modes mean nothing here")
	}
	root := newRoot(t, noon)
	machines := newAuthority(t, root, melbMachines, ca.Zones{}, noon)
	key := newKey(t, pki.RoleSensor)
	keyFile, chainFile := files(t, key, newLeaf(t, machines, melbSensor, key, noon), machines.Certificate)

	for mode, good := range map[os.FileMode]bool{
		0o600: true, 0o400: true,
		0o640: false, 0o604: false, 0o620: false, 0o602: false, 0o610: false, 0o601: false,
		0o644: false, 0o660: false, 0o666: false, 0o777: false, 0o700: false,
	} {
		if err := os.Chmod(keyFile, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.LoadCredential(keyFile, chainFile); (err == nil) != good {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	if err := os.Chmod(keyFile, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(chainFile, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.LoadCredential(keyFile, chainFile); err != nil {
		t.Errorf("a chain that all may read: %v", err)
	}

	directory := t.TempDir()
	link := filepath.Join(directory, "link.pem")
	if err := os.Symlink(keyFile, link); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"symbolic link": link, "directory": directory, "device": os.DevNull, "missing": filepath.Join(directory, "none"),
	} {
		if _, err := pki.LoadCredential(path, chainFile); err == nil {
			t.Errorf("key: %s was accepted", name)
		}
		if _, err := pki.LoadCredential(keyFile, path); err == nil {
			t.Errorf("chain: %s was accepted", name)
		}
	}

	// A link to the directory is how both files are replaced at once.
	current := filepath.Join(directory, "current")
	if err := os.Symlink(filepath.Dir(keyFile), current); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.LoadCredential(filepath.Join(current, "key.pem"), filepath.Join(current, "chain.pem")); err != nil {
		t.Errorf("by way of a linked directory: %v", err)
	}

	big := filepath.Join(directory, "big.pem")
	write(t, big, append(bytes.Repeat([]byte("\n"), 1<<20), pki.MarshalCertificates(root.Certificate)...))
	if _, err := pki.ReadCertificate(big); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a certificate file of 1 MiB: %v", err)
	}
	if _, err := pki.LoadCredential(big, chainFile); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a key file of 1 MiB: %v", err)
	}
	if _, err := pki.LoadCredential(keyFile, big); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a chain file of 1 MiB: %v", err)
	}
}

func TestParseCredential(t *testing.T) {
	root := newRoot(t, noon)
	machines := newAuthority(t, root, melbMachines, ca.Zones{}, noon)
	people := newAuthority(t, root, melbPeople, ca.Zones{}, noon)
	key, other := newKey(t, pki.RoleSensor), newKey(t, pki.RoleSensor)
	leaf := newLeaf(t, machines, melbSensor, key, noon)
	keyPEM := pkcs8(t, key)
	chain := pki.MarshalCertificates(leaf, machines.Certificate)
	if _, err := pki.ParseCredential(keyPEM, chain); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.ParseCredential(append([]byte("\n \n"), keyPEM...), append(chain, '\n')); err != nil {
		t.Errorf("white space around: %v", err)
	}

	p256 := newKey(t, pki.RoleBroker).(*ecdsa.PrivateKey)
	sec1, err := x509.MarshalECPrivateKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(keyPEM)
	otherType := pemOf(t, "ED25519 PRIVATE KEY", block.Bytes)
	withHeader := pem.EncodeToMemory(&pem.Block{
		Type: "PRIVATE KEY", Headers: map[string]string{"Comment": "x"}, Bytes: block.Bytes,
	})
	tests := []struct {
		name       string
		key, chain []byte
	}{
		{"nothing", nil, nil},
		{"no key", nil, chain},
		{"no chain", keyPEM, nil},
		{"key of another", pkcs8(t, other), chain},
		{"key of another kind", pkcs8(t, p256), chain},
		{"two keys", append(bytes.Clone(keyPEM), keyPEM...), chain},
		{"key and chain in one file", append(bytes.Clone(keyPEM), chain...), chain},
		{"SEC1 key", pemOf(t, "EC PRIVATE KEY", sec1), chain},
		{"P-384 key", pkcs8(t, p384), pki.MarshalCertificates(mint(t, machines, template(melbSensor, noon), p384.Public()), machines.Certificate)},
		{"RSA key", pkcs8(t, rsaKey), pki.MarshalCertificates(mint(t, machines, template(melbSensor, noon), rsaKey.Public()), machines.Certificate)},
		{"key that cannot sign", pkcs8(t, x25519), chain},
		{"key of another type in name", otherType, chain},
		{"key with headers", withHeader, chain},
		{"key that is no DER", pemOf(t, "PRIVATE KEY", []byte("no DER")), chain},
		{"key with text before", append([]byte("a note\n"), keyPEM...), chain},
		{"key with text after", append(bytes.Clone(keyPEM), "a note\n"...), chain},
		{"broken key", keyPEM[:len(keyPEM)-8], chain},
		{"broken key, then a whole one", append(append(bytes.Clone(keyPEM[:40]), '\n'), keyPEM...), chain},
		{"leaf alone", keyPEM, pki.MarshalCertificates(leaf)},
		{"issuer first", keyPEM, pki.MarshalCertificates(machines.Certificate, leaf)},
		{"with the root", keyPEM, pki.MarshalCertificates(leaf, machines.Certificate, root.Certificate)},
		{"another's issuer", keyPEM, pki.MarshalCertificates(leaf, people.Certificate)},
		{"the root for the issuer", keyPEM, pki.MarshalCertificates(leaf, root.Certificate)},
		{"leaf twice", keyPEM, pki.MarshalCertificates(leaf, leaf)},
		{"chain with text between", keyPEM, append(append(pki.MarshalCertificates(leaf), "a note\n"...), pki.MarshalCertificates(machines.Certificate)...)},
		{"chain with a key inside", keyPEM, append(append(pki.MarshalCertificates(leaf), keyPEM...), pki.MarshalCertificates(machines.Certificate)...)},
		{"chain that is no certificate", keyPEM, bytes.Repeat(pemOf(t, "CERTIFICATE", []byte("no DER")), 2)},
		{"endless key", append(bytes.Clone(keyPEM), bytes.Repeat([]byte("\n"), 1<<20)...), chain},
		{"endless chain", keyPEM, append(bytes.Clone(chain), bytes.Repeat([]byte("\n"), 1<<20)...)},
	}
	secret := base64.StdEncoding.EncodeToString(key.(ed25519.PrivateKey).Seed())
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			credential, err := pki.ParseCredential(test.key, test.chain)
			if err == nil || credential != nil {
				t.Fatalf("ParseCredential = %v, %v", credential, err)
			}
			if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), string(test.key)) && len(test.key) > 0 {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

// TestCredentialPrinting: a log line with a credential in it, in whatever way
// it got there, shows no private key.
func TestCredentialPrinting(t *testing.T) {
	root := newRoot(t, noon)
	machines := newAuthority(t, root, melbMachines, ca.Zones{}, noon)
	key := newKey(t, pki.RoleSensor).(ed25519.PrivateKey)
	credential, err := pki.ParseCredential(pkcs8(t, key), pki.MarshalCertificates(newLeaf(t, machines, melbSensor, key, noon), machines.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	type holder struct {
		Shown  *pki.Credential
		hidden *pki.Credential
		value  any
		signer crypto.Signer
	}
	values := map[string]any{
		"pointer": credential, "value": *credential, "signer": credential.Signer(), "tls": credential.TLS(),
		"holder":   holder{credential, credential, *credential, credential.Signer()},
		"slice":    []any{credential, credential.Signer()},
		"tls, ptr": &[]any{credential.TLS()},
	}
	seed := key.Seed()
	decimals := strings.Trim(fmt.Sprint(seed[:8]), "[]")
	forms := []string{
		string(seed[:8]), hex.EncodeToString(seed[:8]), strings.ToUpper(hex.EncodeToString(seed[:8])),
		base64.StdEncoding.EncodeToString(seed[:6]), decimals, strings.ReplaceAll(decimals, " ", ", "),
		strings.Trim(fmt.Sprintf("%#v", seed[:8]), "[]byte{}"),
	}
	check := func(how, printed string) {
		t.Helper()
		for _, form := range forms {
			if strings.Contains(printed, form) {
				t.Errorf("%s shows the key", how)
			}
		}
	}
	for name, value := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "% x", "%T"} {
			check(name+" with "+verb, fmt.Sprintf(verb, value))
		}
		var b bytes.Buffer
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", slog.Any("v", value))
		slog.New(slog.NewJSONHandler(&b, nil)).Info("x", slog.Any("v", value))
		check(name+" in a log", b.String())
	}
	if got := fmt.Sprint(credential); got != `credential of "melb_sensor_web-1" (redacted)` {
		t.Errorf("prints as %s", got)
	}
	if got := fmt.Sprintf("%#v %s", pki.Credential{}, credential.Signer()); got != "credential (redacted) redacted" {
		t.Errorf("print as %s", got)
	}
}

func TestReadKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	for name, newKey := range map[string]func() (crypto.Signer, error){
		"root": ca.NewRootKey, "authority": ca.NewAuthorityKey,
		"sensor": func() (crypto.Signer, error) { return pki.NewKey(pki.RoleSensor) },
	} {
		key, err := newKey()
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, pkcs8(t, key))
		read, err := pki.ReadKey(path)
		if err != nil || !read.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := pkcs8(t, newKey(t, pki.RoleSensor))
	for name, data := range map[string][]byte{
		"nothing": nil, "P-521": pkcs8(t, p521), "no signer": pkcs8(t, x25519), "cut": good[:60],
		"two": append(bytes.Clone(good), good...), "not DER": pemOf(t, "PRIVATE KEY", []byte("no DER")),
	} {
		write(t, path, data)
		if key, err := pki.ReadKey(path); err == nil || key != nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if runtime.GOOS != "windows" {
		write(t, path, good)
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.ReadKey(path); err == nil {
			t.Error("a key that others can read was accepted")
		}
	}
}

func TestReadCertificate(t *testing.T) {
	root := newRoot(t, noon)
	path := filepath.Join(t.TempDir(), "root.pem")
	write(t, path, pki.MarshalCertificates(root.Certificate))
	cert, err := pki.ReadCertificate(path)
	if err != nil || !cert.Equal(root.Certificate) {
		t.Fatalf("ReadCertificate: %v", err)
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "two": pki.MarshalCertificates(root.Certificate, root.Certificate), "DER": root.Certificate.Raw,
		"key": pkcs8(t, newKey(t, pki.RoleSensor)), "cut": pki.MarshalCertificates(root.Certificate)[:200],
	} {
		write(t, path, data)
		if _, err := pki.ReadCertificate(path); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestSPKIHash(t *testing.T) {
	root := newRoot(t, noon)
	machines := newAuthority(t, root, melbMachines, ca.Zones{}, noon)
	key := newKey(t, pki.RoleSensor)
	first, second := newLeaf(t, machines, melbSensor, key, noon), newLeaf(t, machines, melbSensor, key, noon.Add(time.Hour))
	if pki.SPKIHash(first) != pki.SPKIHash(second) {
		t.Error("one key has two pins")
	}
	if pki.SPKIHash(first) == pki.SPKIHash(newLeaf(t, machines, melbSensor, newKey(t, pki.RoleSensor), noon)) {
		t.Error("two keys have one pin")
	}
}

// FuzzParseCredential: no input panics, and a credential that comes out has
// the key of its leaf.
func FuzzParseCredential(f *testing.F) {
	root := newRoot(f, noon)
	machines := newAuthority(f, root, melbMachines, ca.Zones{}, noon)
	for _, id := range []pki.Identity{melbSensor, melbBroker} {
		key := newKey(f, id.Role)
		f.Add(pkcs8(f, key), pki.MarshalCertificates(newLeaf(f, machines, id, key, noon), machines.Certificate))
	}
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"), []byte("-----BEGIN "))
	f.Fuzz(func(t *testing.T, key, chain []byte) {
		credential, err := pki.ParseCredential(key, chain)
		if err != nil {
			if credential != nil {
				t.Fatal("a credential beside an error")
			}
			return
		}
		public := credential.Signer().Public().(interface{ Equal(crypto.PublicKey) bool })
		if !public.Equal(credential.Leaf().PublicKey) {
			t.Fatal("the key is not the leaf's")
		}
	})
}
