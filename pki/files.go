package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
)

// Bounds of the files read, in bytes. A chain of ours has about 2 KiB; an
// authority with many zones has more.
const (
	maxKeyFile   = 4 << 10
	maxCertFile  = 32 << 10
	maxChainFile = 2 * maxCertFile
)

// The PEM types read (RFC 7468, sections 5.1 and 10).
const (
	pemCertificate = "CERTIFICATE"
	pemPrivateKey  = "PRIVATE KEY"
)

// ReadCertificate reads a PEM file that holds exactly one certificate.
func ReadCertificate(path string) (*x509.Certificate, error) {
	data, err := readFile(path, maxCertFile, false)
	if err != nil {
		return nil, fmt.Errorf("reading certificate: %w", err)
	}
	certs, err := parseCertificates(data, 1)
	if err != nil {
		return nil, fmt.Errorf("reading certificate %s: %w", path, err)
	}
	return certs[0], nil
}

// ReadPrivate reads a file that holds a secret, of at most limit bytes: a
// regular file of mode 0600 or stricter that belongs to this process's user or
// to root. What it holds is the caller's to check.
func ReadPrivate(path string, limit int64) ([]byte, error) {
	return readFile(path, limit, true)
}

// SPKIHash returns SHA-256 of the certificate's SubjectPublicKeyInfo: the pin
// of its key, which outlives the certificate.
func SPKIHash(cert *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// parseCertificates reads exactly n certificates.
func parseCertificates(data []byte, n int) ([]*x509.Certificate, error) {
	blocks, err := parsePEM(data, pemCertificate, n)
	if err != nil {
		return nil, err
	}
	certs := make([]*x509.Certificate, n)
	for i, block := range blocks {
		if certs[i], err = x509.ParseCertificate(block); err != nil {
			return nil, err
		}
	}
	return certs, nil
}

// parsePEM reads exactly n blocks of one type without headers, with nothing
// but white space around them: package pem by itself skips what it does not
// understand.
func parsePEM(data []byte, blockType string, n int) ([][]byte, error) {
	blocks := make([][]byte, 0, n)
	for data = bytes.TrimSpace(data); len(data) > 0; data = bytes.TrimSpace(data) {
		if !bytes.HasPrefix(data, []byte("-----BEGIN ")) {
			return nil, errors.New("something other than PEM")
		}
		// A broken block makes pem.Decode skip to the next one.
		starts := bytes.Count(data, []byte("-----BEGIN "))
		block, rest := pem.Decode(data)
		if block == nil || starts != bytes.Count(rest, []byte("-----BEGIN "))+1 {
			return nil, errors.New("broken PEM")
		}
		if block.Type != blockType || len(block.Headers) != 0 {
			return nil, fmt.Errorf("not a PEM block of type %q without headers", blockType)
		}
		blocks, data = append(blocks, block.Bytes), rest
	}
	if len(blocks) != n {
		return nil, fmt.Errorf("%d PEM blocks of type %q instead of %d", len(blocks), blockType, n)
	}
	return blocks, nil
}

// readFile reads a regular file of at most limit bytes. A secret one must be
// for its owner alone, who must be us or root: anybody else could have put it
// there. Windows has no such mode, and the directory's access list decides.
func readFile(path string, limit int64, secret bool) ([]byte, error) {
	// Looked at before it is opened: opening a pipe would wait for a writer.
	before, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if err := checkFile(path, before, secret); err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	// What was opened must be what was looked at.
	opened, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !os.SameFile(before, opened) {
		return nil, fmt.Errorf("%s was replaced while it was opened", path)
	}
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return data, nil
}

func checkFile(path string, info fs.FileInfo, secret bool) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if secret && runtime.GOOS != "windows" && info.Mode().Perm()&^0o600 != 0 {
		return fmt.Errorf("%s has mode %04o: others could read the key; it must be 0600", path, info.Mode().Perm())
	}
	if secret && !ownedByUs(info) {
		return fmt.Errorf("%s belongs to another user, who knows the key and could change it", path)
	}
	return nil
}
