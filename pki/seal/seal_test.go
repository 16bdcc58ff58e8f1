package seal_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"levee/pki/seal"
)

const purpose = "private key"

func passphrase(t testing.TB, text string) seal.Passphrase {
	t.Helper()
	p, err := seal.NewPassphrase([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func sealed(t testing.TB, secret string) []byte {
	t.Helper()
	data, err := seal.Seal([]byte(secret), passphrase(t, "correct horse"), purpose)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSealAndOpen(t *testing.T) {
	p := passphrase(t, "correct horse")
	for _, size := range []int{1, 119, seal.MaxSecret} {
		secret := bytes.Repeat([]byte("k"), size)
		data, err := seal.Seal(secret, p, purpose)
		if err != nil {
			t.Fatal(err)
		}
		if !seal.Is(data) || len(data) > seal.MaxSealed || bytes.Contains(data, []byte("kkkkkkkkkkkk")) {
			t.Errorf("%d bytes were sealed as %.60q…, %d bytes", size, data, len(data))
		}
		if got, err := seal.Open(data, p, purpose); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if first, second := sealed(t, "k"), sealed(t, "k"); bytes.Equal(first, second) {
		t.Error("sealed twice, the same bytes: there is no fresh salt and nonce")
	}
}

// What the package says of the format, computed a second time: 64 MiB and
// three passes, whatever constants the package has.
func TestFormat(t *testing.T) {
	block, rest := pem.Decode(sealed(t, "secret"))
	if block == nil || len(rest) != 0 || block.Type != "LEVEE SEALED KEY" || len(block.Headers) != 0 {
		t.Fatal("not one PEM block without headers")
	}
	header := []byte{1, 0, 1, 0, 0, 0, 0, 0, 3, 1} // version, 65536 KiB, 3 passes, 1 lane
	if !bytes.HasPrefix(block.Bytes, header) || len(block.Bytes) != 10+16+24+len("secret")+16 {
		t.Fatalf("the body is %x", block.Bytes)
	}
	key := argon2.IDKey([]byte("correct horse"), block.Bytes[10:26], 3, 64<<10, 1, 32)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		t.Fatal(err)
	}
	additional := append([]byte("levee/seal/v1\x00"), header...)
	if got, err := aead.Open(nil, block.Bytes[26:50], block.Bytes[50:], append(additional, purpose...)); err != nil || string(got) != "secret" {
		t.Errorf("opened by hand: %q, %v", got, err)
	}
}

// A file sealed by an earlier build opens for ever.
func TestOldFile(t *testing.T) {
	const file = `-----BEGIN LEVEE SEALED KEY-----
AQABAAAAAAADASf1nNufZ7syLcSjmR8QlaIGP4aQJsoMYNPEzoQTr/bDvzOheDEv
Mi7mJUlFH8IjEAmYf+g6qx8mLpu0VyzSZXHt
-----END LEVEE SEALED KEY-----
`
	if got, err := seal.Open([]byte(file), passphrase(t, "correct horse"), purpose); err != nil || string(got) != "not a key" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	good, p := sealed(t, "secret"), passphrase(t, "correct horse")
	block, _ := pem.Decode(good)
	flip := func(i int) []byte {
		body := bytes.Clone(block.Bytes)
		body[i] ^= 1
		return pem.EncodeToMemory(&pem.Block{Type: seal.PEMType, Bytes: body})
	}
	text := func(old, new string) []byte { return []byte(strings.Replace(string(good), old, new, 1)) }
	body := func(b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: seal.PEMType, Bytes: b}) }

	wrong := []struct {
		name    string
		data    []byte
		p       seal.Passphrase
		purpose string
		want    error
	}{
		{"wrong passphrase", good, passphrase(t, "correct horsf"), purpose, seal.ErrOpen},
		{"a space after the passphrase", good, passphrase(t, "correct horse "), purpose, seal.ErrOpen},
		{"no passphrase", good, seal.Passphrase{}, purpose, seal.ErrOpen},
		{"other purpose", good, p, "site key", seal.ErrOpen},
		{"purpose cut", good, p, "private ke", seal.ErrOpen},
		{"no purpose", good, p, "", seal.ErrOpen},
		{"salt", flip(10), p, purpose, seal.ErrOpen},
		{"nonce", flip(26), p, purpose, seal.ErrOpen},
		{"secret", flip(50), p, purpose, seal.ErrOpen},
		{"tag", flip(len(block.Bytes) - 1), p, purpose, seal.ErrOpen},
		{"cut by a byte", body(block.Bytes[:len(block.Bytes)-1]), p, purpose, seal.ErrOpen},
		{"a byte more", body(append(bytes.Clone(block.Bytes), 0)), p, purpose, seal.ErrOpen},

		{"version", flip(0), p, purpose, seal.ErrFormat},
		{"more memory", flip(1), p, purpose, seal.ErrFormat},
		{"less memory", flip(2), p, purpose, seal.ErrFormat},
		{"passes", flip(8), p, purpose, seal.ErrFormat},
		{"lanes", flip(9), p, purpose, seal.ErrFormat},
		{"no secret", body(block.Bytes[:10+16+24+16]), p, purpose, seal.ErrFormat},
		{"header alone", body(block.Bytes[:10]), p, purpose, seal.ErrFormat},
		{"empty block", body(nil), p, purpose, seal.ErrFormat},
		{"secret too long", body(append(bytes.Clone(block.Bytes), make([]byte, seal.MaxSecret)...)), p, purpose, seal.ErrFormat},
		{"nothing", nil, p, purpose, seal.ErrFormat},
		{"plain key", text("LEVEE SEALED", "PRIVATE"), p, purpose, seal.ErrFormat},
		{"text before", append([]byte("x\n"), good...), p, purpose, seal.ErrFormat},
		{"line break after", append(bytes.Clone(good), '\n'), p, purpose, seal.ErrFormat},
		{"two blocks", append(bytes.Clone(good), good...), p, purpose, seal.ErrFormat},
		{"header lines", text("-----\n", "-----\nProc-Type: 4\n\n"), p, purpose, seal.ErrFormat},
		{"other line ends", bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")), p, purpose, seal.ErrFormat},
		{"no end", good[:len(good)-2], p, purpose, seal.ErrFormat},
		{"too long", append(bytes.Clone(good), bytes.Repeat([]byte("\n"), seal.MaxSealed)...), p, purpose, seal.ErrFormat},
	}
	for _, test := range wrong {
		got, err := seal.Open(test.data, test.p, test.purpose)
		if !errors.Is(err, test.want) || got != nil {
			t.Errorf("%s: %q, %v", test.name, got, err)
		}
		// One error, that tells nobody which.
		if test.want == seal.ErrOpen && err.Error() != "opening sealed key: "+seal.ErrOpen.Error() {
			t.Errorf("%s: the error says more: %v", test.name, err)
		}
	}
}

func TestSealRefuses(t *testing.T) {
	p := passphrase(t, "correct horse")
	for name, try := range map[string]func() ([]byte, error){
		"nothing":             func() ([]byte, error) { return seal.Seal(nil, p, purpose) },
		"too much":            func() ([]byte, error) { return seal.Seal(make([]byte, seal.MaxSecret+1), p, purpose) },
		"no passphrase":       func() ([]byte, error) { return seal.Seal([]byte("k"), seal.Passphrase{}, purpose) },
		"no purpose":          func() ([]byte, error) { return seal.Seal([]byte("k"), p, "") },
		"purpose without end": func() ([]byte, error) { return seal.Seal([]byte("k"), p, strings.Repeat("p", 65)) },
	} {
		if got, err := try(); err == nil || got != nil {
			t.Errorf("%s: sealed", name)
		}
	}
}

func TestNewPassphrase(t *testing.T) {
	tests := []struct {
		name, line string
		same       string // the passphrase that it is; "" if it is none
	}{
		{"12 characters", "abcdefghijkl", "abcdefghijkl"},
		{"12 characters of two bytes", strings.Repeat("ü", 12), strings.Repeat("ü", 12)},
		{"line break", "correct horse\n", "correct horse"},
		{"line break of Windows", "correct horse\r\n", "correct horse"},
		{"blanks around", " correct horse ", " correct horse "},
		{"1024 bytes", strings.Repeat("x", 1024) + "\r\n", strings.Repeat("x", 1024)},

		{"empty", "", ""},
		{"empty line", "\n", ""},
		{"11 characters", "abcdefghijk", ""},
		{"11 characters and a line break", "abcdefghijk\n", ""},
		{"11 characters of two bytes", strings.Repeat("ü", 11), ""},
		{"two line breaks", "correct horse\n\n", ""},
		{"two lines", "correct horse\nbattery staple\n", ""},
		{"carriage return alone", "correct horse\r", ""},
		{"tab", "correct\thorse", ""},
		{"NUL", "correct horse\x00", ""},
		{"not UTF-8", "correct horse\xff", ""},
		{"1025 bytes", strings.Repeat("x", 1025), ""},
	}
	for _, test := range tests {
		got, err := seal.NewPassphrase([]byte(test.line))
		if (err == nil) != (test.same != "") {
			t.Errorf("%s: %v", test.name, err)
		}
		if err != nil {
			if strings.Contains(err.Error(), "correct") {
				t.Errorf("%s: the error shows it: %v", test.name, err)
			}
			continue
		}
		if !seal.Equal(got, passphrase(t, test.same)) {
			t.Errorf("%s: it became another", test.name)
		}
	}
}

// The caller may use its buffer again.
func TestPassphraseIsACopy(t *testing.T) {
	line := []byte("correct horse")
	p, err := seal.NewPassphrase(line)
	clear(line)
	if err != nil || !seal.Equal(p, passphrase(t, "correct horse")) {
		t.Errorf("it changed with the caller's bytes: %v", err)
	}
}

func TestPassphrasePrintsAsRedacted(t *testing.T) {
	p := passphrase(t, "correct horse")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", slog.Any("p", p), slog.Any("in", struct{ P seal.Passphrase }{p}))
	holder := struct{ p, q any }{p, &p}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if got := fmt.Sprintf(verb, p); got != "redacted" {
			t.Errorf("%s prints %s", verb, got)
		}
		log.WriteString(fmt.Sprintf(verb, &p) + fmt.Sprintf(verb, holder) + "\n")
	}
	if out := log.String(); strings.Contains(out, "correct") || strings.Contains(out, "636f7272") || strings.Contains(out, "99 111") ||
		strings.Contains(out, base64.StdEncoding.EncodeToString([]byte("correct horse"))) || !strings.Contains(out, "redacted") {
		t.Errorf("printed: %s", out)
	}
	if b, err := json.Marshal(p); err == nil {
		t.Errorf("marshalled as %s", b)
	}
}

func FuzzOpen(f *testing.F) {
	good := sealed(f, "secret")
	block, _ := pem.Decode(good)
	f.Add(good)
	f.Add(good[:40])
	f.Add([]byte(""))
	f.Add(bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: seal.PEMType, Bytes: block.Bytes[:66]}))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Without the key derivation, which would make fuzzing too slow.
		body, err := seal.Parse(data)
		if err != nil {
			if body != nil || !errors.Is(err, seal.ErrFormat) {
				t.Errorf("%x, %v", body, err)
			}
			return
		}
		if again := pem.EncodeToMemory(&pem.Block{Type: seal.PEMType, Bytes: body}); !bytes.Equal(again, data) {
			t.Errorf("read from a second spelling: %q", data)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	data, p := sealed(b, "secret"), passphrase(b, "correct horse")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := seal.Open(data, p, purpose); err != nil {
			b.Fatal(err)
		}
	}
}
