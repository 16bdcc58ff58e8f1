package ownkey

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"levee/envelope"
	"levee/pki"
)

func example(t testing.TB) Key {
	t.Helper()
	page, err := os.ReadFile("../../docs/envelope.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if rest, ok := strings.CutPrefix(line, "    sender "); ok {
			secret, err := hex.DecodeString(strings.TrimSpace(rest))
			if err != nil || len(secret) != envelope.KeySize {
				t.Fatalf("docs/envelope.md: %q", line)
			}
			return New(envelope.KeyID{Site: "melb", Role: "sensor", Name: "web-1", Generation: 1}, [envelope.KeySize]byte(secret))
		}
	}
	t.Fatal("docs/envelope.md shows no sender key")
	return Key{}
}

func seal(t testing.TB, key *envelope.Key, kid envelope.KeyID, topic string) []byte {
	t.Helper()
	raw, err := envelope.Append(nil, envelope.Header{KeyID: kid, Time: 1729697327822, Nonce: envelope.Nonce{Boot: 1729697310000, Seq: 1}, Topic: topic},
		[]byte(`{"seq":41}`), key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// The key of acknowledgements is the one that docs/envelope.md, section 11,
// prints, which was computed with Python's hmac module from section 6.
func TestAckOfTheSpecification(t *testing.T) {
	page, err := os.ReadFile("../../docs/envelope.md")
	if err != nil {
		t.Fatal(err)
	}
	var shown *envelope.Key
	for line := range strings.Lines(string(page)) {
		if rest, ok := strings.CutPrefix(line, "    ack    "); ok {
			secret, err := hex.DecodeString(strings.TrimSpace(rest))
			if err != nil {
				t.Fatal(err)
			}
			if shown, err = envelope.NewKey(secret); err != nil {
				t.Fatal(err)
			}
		}
	}
	if shown == nil {
		t.Fatal("docs/envelope.md shows no key of acknowledgements")
	}
	key := example(t)
	ring, err := NewRing(key)
	if err != nil {
		t.Fatal(err)
	}
	ack := seal(t, shown, envelope.KeyID{Site: "melb", Role: "recorder", Name: "rec-1", Generation: 1}, "melb/bank_server/acks/rec-1/sensor/web-1")
	if _, err := ring.OpenAck(ack, envelope.MaxMessage); err != nil {
		t.Error(err)
	}
	own, kid := ring.Own()
	if _, err := ring.OpenAck(seal(t, own, kid, "melb/bank_server/acks/rec-1/sensor/web-1"), envelope.MaxMessage); !errors.Is(err, envelope.BadMAC) {
		t.Errorf("an acknowledgement under the sender's own key: %v", err)
	}
}

// A ring of one key opens what that key sealed, and nothing under any other
// name.
func TestRingHoldsItsOwnKeyAlone(t *testing.T) {
	key := example(t)
	ring, err := NewRing(key)
	if err != nil {
		t.Fatal(err)
	}
	own, kid := ring.Own()
	if kid != key.ID() {
		t.Errorf("kid %s", kid)
	}
	if _, err := ring.Open(seal(t, own, kid, "melb/bank_server/metrics/ram/web-1"), envelope.MaxMessage); err != nil {
		t.Error(err)
	}
	for _, other := range []envelope.KeyID{
		{Site: "melb", Role: "sensor", Name: "web-1", Generation: 2}, {Site: "melb", Role: "sensor", Name: "web-2", Generation: 1},
		{Site: "melb", Role: "monitor", Name: "web-1", Generation: 1}, {Site: "syd", Role: "sensor", Name: "web-1", Generation: 1},
	} {
		if _, err := ring.Open(seal(t, own, other, "melb/bank_server/metrics/ram/web-1"), envelope.MaxMessage); err == nil {
			t.Errorf("%s: opened", other)
		}
	}
	if ring.Find([]byte("nonsense")) != nil {
		t.Error("a key for what is no kid")
	}
	for _, role := range []pki.Role{pki.RoleSensor, pki.RoleBroker, pki.RoleRecorder, ""} {
		if ring.Holds(role) {
			t.Errorf("holds the key of role %q", role)
		}
	}
}

func TestKeyFilesAreRefused(t *testing.T) {
	good := example(t).Encode()
	renamed := func(old, new string) []byte { return bytes.Replace(bytes.Clone(good), []byte(old), []byte(new), 1) }
	for _, test := range []struct {
		name string
		body []byte
		mode os.FileMode
	}{
		{"readable by the group", good, 0o640},
		{"readable by everybody", good, 0o604},
		{"empty", nil, 0o600},
		{"cut short", good[:len(good)-20], 0o600},
		{"two keys of senders", append(bytes.Clone(good), good...), 0o600},
		{"a role key beside it", append(bytes.Clone(good), bytes.ReplaceAll(good, []byte("SENDER"), []byte("ROLE"))...), 0o600},
		{"a role key alone", bytes.ReplaceAll(good, []byte("SENDER"), []byte("ROLE")), 0o600},
		{"a site key", bytes.ReplaceAll(good, []byte("SENDER"), []byte("SITE")), 0o600},
		{"no generation", renamed("Generation: 1", "Generation: 0"), 0o600},
		{"no name", renamed("Name: web-1", "Name: Web"), 0o600},
		{"too large", append(bytes.Clone(good), bytes.Repeat([]byte("\n"), maxFile)...), 0o600},
	} {
		path := filepath.Join(t.TempDir(), "envelope.keys")
		if err := os.WriteFile(path, test.body, test.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil {
			t.Errorf("%s: accepted", test.name)
		}
	}
	path := filepath.Join(t.TempDir(), "envelope.keys")
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	ring, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, kid := ring.Own(); kid != example(t).ID() {
		t.Errorf("kid %s", kid)
	}
	if err := os.Symlink(path, path+".link"); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path + ".link"); err == nil {
		t.Error("a symbolic link was accepted")
	}
	if _, err := Load(path + ".gone"); err == nil || !strings.Contains(err.Error(), Remedy) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestSecretsPrintAsRedacted(t *testing.T) {
	k := New(envelope.KeyID{Site: "melb", Role: "sensor", Name: "web-1", Generation: 1}, [envelope.KeySize]byte(bytes.Repeat([]byte{0x2a}, envelope.KeySize)))
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("", slog.Any("key", k), slog.Any("keys", []Key{k}))
	asJSON, err := json.Marshal(map[string]any{"key": k})
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{log.String(), string(asJSON)}
	for _, v := range []any{k, &k, []Key{k}} {
		texts = append(texts, fmt.Sprintf("%v %+v %#v %x %s", v, v, v, v, v))
	}
	for _, text := range texts {
		for _, leak := range []string{"42 42", "42,42", "2a2a", "****", "0x2a"} {
			if strings.Contains(text, leak) {
				t.Errorf("printed %q", text)
			}
		}
	}
}
