package translog

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"levee/internal/durable"
)

// maxKeyFile bounds a key file in bytes.
const maxKeyFile = 1 << 10

// Key signs a log's checkpoints: an Ed25519 key of a C2SP signed note, made
// for one origin. It prints as "redacted".
type Key struct {
	signer note.Signer
	vkey   string
}

// Origin returns the name of the log that the key belongs to, "" for a zero Key.
func (k Key) Origin() string {
	if k.signer == nil {
		return ""
	}
	return k.signer.Name()
}

// VKey returns the public key as a C2SP note verifier key.
func (k Key) VKey() string { return k.vkey }

// String returns "redacted".
func (Key) String() string { return "redacted" }

// GoString returns "redacted".
func (Key) GoString() string { return "redacted" }

// LogValue returns "redacted".
func (Key) LogValue() slog.Value { return slog.StringValue("redacted") }

// GenerateKey makes a key for the log named origin and writes it to a new file
// that only its owner may read. It returns the public key as a C2SP note
// verifier key. It never overwrites a file.
func GenerateKey(path, origin string) (vkey string, err error) {
	if !validOrigin(origin) {
		return "", fmt.Errorf("making log key: %q cannot name a log", origin)
	}
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return "", fmt.Errorf("making log key: %w", err)
	}
	if err := durable.CreateFile(path, []byte(skey+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("writing log key: %w", err)
	}
	return vkey, nil
}

// ReadKey reads a key that GenerateKey wrote. It refuses a file that others
// than its owner may read.
func ReadKey(path string) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("reading log key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Key{}, fmt.Errorf("reading log key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return Key{}, fmt.Errorf("reading log key: %s has mode %v: only its owner may have access (chmod 0600)", path, info.Mode())
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return Key{}, fmt.Errorf("reading log key: %w", err)
	}
	k, err := parseKey(raw)
	if err != nil {
		return Key{}, fmt.Errorf("reading log key %s: %w", path, err)
	}
	return k, nil
}

// errKeyFile does not say what is wrong, so as not to quote a secret.
var errKeyFile = errors.New("it is not the key file of a log")

func parseKey(raw []byte) (Key, error) {
	skey, ok := strings.CutSuffix(string(raw), "\n")
	if !ok || len(raw) > maxKeyFile || strings.ContainsAny(skey, "\r\n") {
		return Key{}, errKeyFile
	}
	signer, err := note.NewSigner(skey)
	if err != nil || !validOrigin(signer.Name()) {
		return Key{}, errKeyFile
	}
	// The note package does not derive the public key: PRIVATE+KEY+name+hash+base64(1, seed).
	fields := strings.SplitN(skey, "+", 5)
	seed, err := base64.StdEncoding.DecodeString(fields[len(fields)-1])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return Key{}, errKeyFile
	}
	public, ok := ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return Key{}, errKeyFile
	}
	vkey, err := note.NewEd25519VerifierKey(signer.Name(), public)
	if err != nil {
		return Key{}, errKeyFile
	}
	return Key{signer: signer, vkey: vkey}, nil
}

// validOrigin reports whether s may name a log: 1 to 128 of "a-z 0-9 . / -",
// so that it is one in every line, path and command.
func validOrigin(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '/' && c != '-' {
			return false
		}
	}
	return true
}
