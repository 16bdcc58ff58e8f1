package witness

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"levee/internal/durable"
	"levee/internal/translog/proof"
)

// maxKeyFile bounds a key file in bytes.
const maxKeyFile = 1 << 10

// keyPrefix begins a key file, as it does that of a log's key (C2SP signed-note).
const keyPrefix = "PRIVATE+KEY+"

// Key cosigns. It is used for nothing else, and prints as "redacted".
type Key struct {
	private ed25519.PrivateKey
	name    string
	vkey    string
	hash    uint32
}

// Name returns the witness's name, "" for a zero Key.
func (k Key) Name() string { return k.name }

// VKey returns the public key as a verifier key (C2SP signed-note).
func (k Key) VKey() string { return k.vkey }

// String returns "redacted".
func (Key) String() string { return "redacted" }

// GoString returns "redacted".
func (Key) GoString() string { return "redacted" }

// LogValue returns "redacted".
func (Key) LogValue() slog.Value { return slog.StringValue("redacted") }

// GenerateKey makes a key and returns it as ReadKey reads it: a secret.
func GenerateKey(name string) (file []byte, err error) {
	if !validName(name) {
		return nil, fmt.Errorf("making a witness's key: %q cannot name a witness", name)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a witness's key: %w", err)
	}
	return marshalKey(name, private), nil
}

func marshalKey(name string, private ed25519.PrivateKey) []byte {
	_, hash := proof.WitnessKey(name, public(private))
	secret := append([]byte{proof.AlgorithmCosignature}, private.Seed()...)
	return fmt.Appendf(nil, "%s%s+%08x+%s\n", keyPrefix, name, hash, base64.StdEncoding.EncodeToString(secret))
}

func public(private ed25519.PrivateKey) ed25519.PublicKey {
	return ed25519.PublicKey(private[ed25519.SeedSize:])
}

// ReadKey reads a key file. It refuses one that others than its owner may read.
func ReadKey(path string) (Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Key{}, fmt.Errorf("reading a witness's key: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return Key{}, fmt.Errorf("reading a witness's key: %s has mode %v: only its owner may have access (chmod 0600)", path, info.Mode())
	}
	text, err := durable.ReadFile(path, maxKeyFile)
	if err != nil {
		return Key{}, fmt.Errorf("reading a witness's key: %w", err)
	}
	k, err := ParseKey(text)
	if err != nil {
		return Key{}, fmt.Errorf("reading a witness's key: %s: %w", path, err)
	}
	return k, nil
}

// errKeyFile does not say what is wrong, so as not to quote a secret.
var errKeyFile = errors.New("it is not the key file of a witness")

// ParseKey reads the content of a key file. It accepts nothing but what
// GenerateKey makes.
func ParseKey(file []byte) (Key, error) {
	rest, ok := strings.CutPrefix(string(file), keyPrefix)
	parts := strings.SplitN(strings.TrimSuffix(rest, "\n"), "+", 3)
	if !ok || len(parts) != 3 || !validName(parts[0]) {
		return Key{}, errKeyFile
	}
	secret, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(secret) != 1+ed25519.SeedSize || secret[0] != proof.AlgorithmCosignature {
		return Key{}, errKeyFile
	}
	k := Key{name: parts[0], private: ed25519.NewKeyFromSeed(secret[1:])}
	k.vkey, k.hash = proof.WitnessKey(k.name, public(k.private))
	if string(marshalKey(k.name, k.private)) != string(file) {
		return Key{}, errKeyFile
	}
	return k, nil
}

// sign returns the line by which the witness cosigns a checkpoint's text.
func (k Key) sign(text string, now time.Time) []byte {
	raw := binary.BigEndian.AppendUint32(nil, k.hash)
	raw = binary.BigEndian.AppendUint64(raw, uint64(now.Unix()))
	raw = append(raw, ed25519.Sign(k.private, proof.CosignatureText(text, now.Unix()))...)
	return []byte(signatureLine(k.name, raw))
}

// signatureLine spells a signature of a note (C2SP signed-note).
func signatureLine(name string, raw []byte) string {
	return "\u2014 " + name + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
}

// validName reports whether s may name a witness or a log here: 1 to 128 of "a-z
// 0-9 . / -", so that it is one in every line, path and command.
func validName(s string) bool {
	return len(s) > 0 && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '/' && r != '-'
	})
}
