package translog

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.key")
	vkey, err := GenerateKey(path, "melb.bank.example/log")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	key, err := ReadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if key.VKey() != vkey || key.Origin() != "melb.bank.example/log" {
		t.Fatalf("read %q of %q, made %q", key.VKey(), key.Origin(), vkey)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: "x\n"}, key.signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(signed, note.VerifierList(v)); err != nil {
		t.Fatal(err)
	}
	if _, err := GenerateKey(path, "melb.bank.example/log"); err == nil {
		t.Error("a key was overwritten")
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKey(path); err == nil || !strings.Contains(err.Error(), "only its owner") {
		t.Errorf("a key that others may read: %v", err)
	}
}

func TestKeyIsNotPrinted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.key")
	if _, err := GenerateKey(path, "melb.bank.example/log"); err != nil {
		t.Fatal(err)
	}
	key, err := ReadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seed := strings.TrimSpace(string(raw[bytes.LastIndexByte(raw, '+')+1:]))
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", slog.Any("key", key), slog.Any("config", struct{ K Key }{key}))
	fmt.Fprintf(&out, "%v %+v %#v %s", key, key, key, key)
	if strings.Contains(out.String(), seed) || strings.Count(out.String(), "redacted") < 5 {
		t.Fatalf("printed %s", out.String())
	}
}

func TestGenerateKeyRefusesAnOrigin(t *testing.T) {
	for _, origin := range []string{"", "a b", "a+b", "A", "a\nb", strings.Repeat("a", 129)} {
		path := filepath.Join(t.TempDir(), "log.key")
		if _, err := GenerateKey(path, origin); err == nil {
			t.Errorf("%q was accepted", origin)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%q left a file", origin)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	skey, _, err := note.GenerateKey(zeros{}, "melb.bank.example/log")
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(skey + "\n"))
	f.Add([]byte(skey))
	f.Fuzz(func(t *testing.T, raw []byte) {
		key, err := parseKey(raw)
		if err != nil {
			if key != (Key{}) {
				t.Fatal("an error and a key")
			}
			return
		}
		v, err := note.NewVerifier(key.VKey())
		if err != nil {
			t.Fatal(err)
		}
		signed, err := note.Sign(&note.Note{Text: "x\n"}, key.signer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := note.Open(signed, note.VerifierList(v)); err != nil {
			t.Fatalf("the public key of %q does not verify what it signs", raw)
		}
	})
}

// zeros makes a key that is the same each time and secret to nobody.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
