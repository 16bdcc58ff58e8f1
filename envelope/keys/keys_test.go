package keys

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"levee/envelope"
	"levee/envelope/ownkey"
	"levee/pki"
)

// The keys that docs/envelope.md, section 11, prints. They were computed with
// Python's hmac module from section 6.
func TestDerivationOfTheSpecification(t *testing.T) {
	site := SiteKey{site: "melb", key: secret(bytes.Repeat([]byte{0x2a}, 32))}
	role, err := site.Role(pki.RoleSensor)
	if err != nil {
		t.Fatal(err)
	}
	sender, err := role.Sender("web-1", 1)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/envelope.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]secret{"role  ": role.key, "sender": secretOf(t, sender)} {
		if want := "    " + name + " " + hex.EncodeToString(key[:]) + "\n"; !strings.Contains(string(page), want) {
			t.Errorf("docs/envelope.md does not show %q", want)
		}
	}
	if sender.ID().String() != "melb/sensor/web-1/1" {
		t.Errorf("kid %s", sender.ID())
	}
}

// secretOf reads a sender's key in its file, which is the only way out.
func secretOf(t testing.TB, k ownkey.Key) secret {
	t.Helper()
	block, _ := pem.Decode(k.Encode())
	if block == nil {
		t.Fatalf("no file of %s", k)
	}
	return secret(block.Bytes)
}

func TestEveryFieldSeparatesKeys(t *testing.T) {
	seen := make(map[secret]string)
	for _, site := range []string{"melb", "syd"} {
		root := SiteKey{site: site, key: secret(bytes.Repeat([]byte{0x2a}, 32))}
		for _, role := range []pki.Role{pki.RoleSensor, pki.RoleMonitor} {
			k, err := root.Role(role)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"web-1", "web-11", "web-2"} {
				for _, generation := range []uint32{1, 11} {
					s, err := k.Sender(name, generation)
					if err != nil {
						t.Fatal(err)
					}
					key := secretOf(t, s)
					if other, ok := seen[key]; ok {
						t.Errorf("%s has the key of %s", s.ID(), other)
					}
					seen[key] = s.ID().String()
				}
			}
		}
	}
}

func ring(t testing.TB, own pki.Role, reads ...pki.Role) (*Ring, SiteKey) {
	t.Helper()
	site, err := NewSiteKey("melb")
	if err != nil {
		t.Fatal(err)
	}
	role, err := site.Role(own)
	if err != nil {
		t.Fatal(err)
	}
	sender, err := role.Sender("one", 1)
	if err != nil {
		t.Fatal(err)
	}
	var roles []RoleKey
	for _, r := range reads {
		k, err := site.Role(r)
		if err != nil {
			t.Fatal(err)
		}
		roles = append(roles, k)
	}
	path := filepath.Join(t.TempDir(), "envelope.keys")
	if err := os.WriteFile(path, EncodeBundle(sender, roles...), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return r, site
}

func TestRingFindsOnlyWhatItWasIssued(t *testing.T) {
	r, _ := ring(t, pki.RoleMonitor, pki.RoleSensor)
	for kid, want := range map[string]bool{
		"melb/sensor/web-1/1":  true,
		"melb/sensor/web-1/2":  true,
		"melb/monitor/one/1":   true,  // its own
		"melb/monitor/one/2":   false, // its own, of another generation
		"melb/monitor/other/1": false, // its role's, which it was not issued
		"melb/controller/lb/1": false,
		"syd/sensor/web-1/1":   false,
		"melb/sensor/web-1":    false,
		"melb/sensor/web-1/0":  false,
		"melb/nothing/web-1/1": false,
		"":                     false,
	} {
		if got := r.Find([]byte(kid)) != nil; got != want {
			t.Errorf("%q: found %v, want %v", kid, got, want)
		}
	}
	if !r.Holds(pki.RoleSensor) || r.Holds(pki.RoleController) {
		t.Error("wrong about the roles it holds")
	}
}

func TestKeyFilesAreRefused(t *testing.T) {
	site, err := NewSiteKey("melb")
	if err != nil {
		t.Fatal(err)
	}
	role, _ := site.Role(pki.RoleSensor)
	sender, _ := role.Sender("web-1", 1)
	good := EncodeBundle(sender, role)
	roleKey := good[len(EncodeBundle(sender)):]
	other, _ := NewSiteKey("syd")
	foreign, _ := other.Role(pki.RoleSensor)
	for _, test := range []struct {
		name string
		body []byte
		mode os.FileMode
	}{
		{"readable by the group", good, 0o640},
		{"readable by everybody", good, 0o604},
		{"empty", nil, 0o600},
		{"cut short", good[:len(good)-20], 0o600},
		{"text before the key", append([]byte("x"), good...), 0o600},
		{"role key first", append(append([]byte{}, good[bytes.Index(good, []byte("-----BEGIN LEVEE ROLE")):]...), good...), 0o600},
		{"role key of another site", EncodeBundle(sender, foreign), 0o600},
		{"a site key", EncodeSite(site), 0o600},
		{"role key of no role", []byte(strings.Replace(string(good), "-----BEGIN LEVEE ROLE KEY-----\nRole: sensor", "-----BEGIN LEVEE ROLE KEY-----\nRole: none", 1)), 0o600},
		{"too large, and good but for that", append(bytes.Clone(good), bytes.Repeat(roleKey, 656)...), 0o600},
	} {
		path := filepath.Join(t.TempDir(), "envelope.keys")
		if err := os.WriteFile(path, test.body, test.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil {
			t.Errorf("%s: accepted", test.name)
		}
	}
	// Below its bound, that last file is a good one.
	most := append(bytes.Clone(good), bytes.Repeat(roleKey, 100)...)
	largest := filepath.Join(t.TempDir(), "envelope.keys")
	if err := os.WriteFile(largest, most, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(largest); err != nil {
		t.Errorf("the same role's key a hundred times: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	path := filepath.Join(t.TempDir(), "envelope.keys")
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(link); err == nil {
		t.Error("a symbolic link was accepted")
	}
}

func TestSecretsPrintAsRedacted(t *testing.T) {
	k := SiteKey{site: "melb", key: secret(bytes.Repeat([]byte{0x2a}, 32))}
	r, _ := k.Role(pki.RoleSensor)
	for _, v := range []any{k, r, &k, []SiteKey{k}} {
		text := fmt.Sprintf("%v %+v %#v %x", v, v, v, v)
		for _, leak := range []string{"42 42", "2a2a", hex.EncodeToString(r.key[:4])} {
			if strings.Contains(text, leak) {
				t.Errorf("%T printed %q", v, text)
			}
		}
	}
}

// What is no sender and no role has no key.
func TestDerivationRefuses(t *testing.T) {
	site := SiteKey{site: "melb", key: secret(bytes.Repeat([]byte{0x2a}, 32))}
	role, err := site.Role(pki.RoleSensor)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name       string
		generation uint32
	}{{"web-1", 0}, {"", 1}, {"Web-1", 1}, {"web/1", 1}} {
		if k, err := role.Sender(test.name, test.generation); err == nil {
			t.Errorf("%q, generation %d: %v", test.name, test.generation, k)
		}
	}
	for _, name := range []pki.Role{"", "none", "ca"} {
		if k, err := site.Role(name); err == nil {
			t.Errorf("role %q: %v", name, k)
		}
	}
}

// An acknowledgement opens with its peer's key of acknowledgements alone.
func TestOpenAck(t *testing.T) {
	r, site := ring(t, pki.RoleSensor)
	role, err := site.Role(pki.RoleSensor)
	if err != nil {
		t.Fatal(err)
	}
	seal := func(name string, generation uint32) []byte {
		t.Helper()
		peer, err := role.Sender(name, generation)
		if err != nil {
			t.Fatal(err)
		}
		key, err := peer.Ack()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := envelope.Append(nil, envelope.Header{KeyID: envelope.KeyID{Site: "melb", Role: "recorder", Name: "rec-1", Generation: 3}, Time: 1729697327822,
			Nonce: envelope.Nonce{Boot: 1729697310000, Seq: 1}, Topic: "melb/bank_server/acks/rec-1/sensor/one"}, []byte(`{"seq":41}`), key, nil)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if m, err := r.OpenAck(seal("one", 1), envelope.MaxMessage); err != nil || string(m.Sender()) != "melb/recorder/rec-1" {
		t.Errorf("to it: %v", err)
	}
	for what, raw := range map[string][]byte{"to another": seal("two", 1), "to another generation": seal("one", 2), "under its own key": sealed(t, site, "one", 1, 1)} {
		if _, err := r.OpenAck(raw, envelope.MaxMessage); !errors.Is(err, envelope.BadMAC) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := r.Open(seal("one", 1), envelope.MaxMessage); err == nil {
		t.Error("an acknowledgement opened as a message")
	}
}
