// Package explain says in plain words what a file of levee's is: certificates
// and chains, keys, requests, revocation lists, site documents, orders, journals.
//
// It guarantees that it shows nothing of a private key but its kind, that what it
// shows of anything else is safe to print, and that it calls something good only
// if the code that parts verify with does, below the root that it was given, at the
// time that it was given. Without a root it says that nothing was verified.
//
// What a running part has besides, such as revocations and the number of the
// last site document, it does not know.
package explain

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"levee/internal/durable"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
	"levee/pki/seal"
)

// MaxFile bounds a file in bytes: a journal may be long.
const MaxFile = 256 << 20

// Explanation is what there is to say of one file.
type Explanation struct {
	File  string `json:"file"`
	Items []Item `json:"items"`
}

// Item is one thing in a file.
type Item struct {
	Kind  string   `json:"kind"`
	Facts []Fact   `json:"facts"`
	May   []string `json:"may,omitempty"` // what its holder may do with it
	// Refused says why a part would refuse it now; empty if it would not, or if
	// Unverified is true.
	Refused    []string `json:"refused,omitempty"`
	Unverified bool     `json:"unverified,omitempty"` // no root was at hand
}

// Fact is a name and its value.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func (i *Item) say(name, format string, args ...any) {
	i.Facts = append(i.Facts, Fact{name, printable(fmt.Sprintf(format, args...))})
}

func (i *Item) refuse(err error) {
	if err != nil {
		i.Refused = append(i.Refused, printable(err.Error()))
	}
}

// Good reports whether nothing would be refused.
func (e Explanation) Good() bool {
	for _, i := range e.Items {
		if len(i.Refused) > 0 {
			return false
		}
	}
	return true
}

// ErrUnknown says that a file is none of ours.
var ErrUnknown = errors.New("none of levee's files: not a certificate, key, request, revocation list, site document, order or journal")

// Trust is what a file is judged by.
type Trust struct {
	Root     *x509.Certificate
	verifier *pki.Verifier
	known    []*x509.Certificate // authorities that may have signed a revocation list
	now      time.Time
}

// NewTrust returns what to judge by as of now. root may be nil: then nothing is
// verified.
func NewTrust(root *x509.Certificate, now time.Time) (*Trust, error) {
	t := &Trust{Root: root, now: now}
	if root == nil {
		return t, nil
	}
	trustDomain, err := pki.TrustDomain(root)
	if err != nil {
		return nil, err
	}
	t.verifier, err = pki.NewVerifier(pki.VerifierConfig{Root: root, TrustDomain: trustDomain, AllowEvaluation: true})
	return t, err
}

// FindRoot returns the root that lies nearest to a file: beside it, or in a
// directory above it or in "authority" there. It returns nil if there is none.
func FindRoot(path string) *x509.Certificate {
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil
	}
	for range 5 {
		for _, name := range []string{site.FileRoot, filepath.Join("authority", site.FileRoot)} {
			if cert, err := pki.ReadCertificate(filepath.Join(dir, name)); err == nil {
				return cert
			}
		}
		dir = filepath.Dir(dir)
	}
	return nil
}

// File explains a file.
func File(path string, t *Trust) (*Explanation, error) {
	text, err := durable.ReadFile(path, MaxFile)
	if err != nil {
		return nil, fmt.Errorf("inspecting: %w", err)
	}
	for _, name := range []string{"machines.pem", "machine-ca.pem", "people-ca.pem", site.FileChain} {
		beside, err := durable.ReadFile(filepath.Join(filepath.Dir(path), name), 64<<10)
		if err == nil {
			t.known = append(t.known, authoritiesIn(beside)...)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("inspecting: %w", err)
		}
	}
	items, err := t.explain(text)
	if err != nil {
		return nil, fmt.Errorf("inspecting %s: %w", path, err)
	}
	return &Explanation{File: path, Items: items}, nil
}

func (t *Trust) explain(text []byte) ([]Item, error) {
	trimmed := bytes.TrimSpace(text)
	switch {
	case seal.Is(trimmed):
		return []Item{sealedKey()}, nil
	case bytes.HasPrefix(trimmed, []byte("-----BEGIN ")):
		return t.pem(trimmed)
	case bytes.HasPrefix(trimmed, []byte("{")):
		return t.statements(trimmed)
	case len(text) == 0:
		item := Item{Kind: "nothing"}
		item.say("content", "the file is empty; a journal is, before its first entry")
		return []Item{item}, nil
	default:
		return t.der(text)
	}
}

// pem explains the blocks of a file; certificates that follow each other are a
// chain.
func (t *Trust) pem(text []byte) ([]Item, error) {
	var (
		items []Item
		chain []*x509.Certificate
	)
	for len(text) > 0 {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errors.New("broken PEM")
		}
		text = bytes.TrimSpace(rest)
		switch block.Type {
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			chain = append(chain, cert)
		case "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY":
			items = append(items, plainKey(block))
		case "X509 CRL":
			item, err := t.revocationList(block.Bytes)
			if err != nil {
				return nil, err
			}
			items = append(items, item)
		case "CERTIFICATE REQUEST":
			item, err := t.request(block.Bytes)
			if err != nil {
				return nil, err
			}
			items = append(items, item)
		default:
			if !strings.HasPrefix(block.Type, "LEVEE ") {
				return nil, ErrUnknown
			}
			items = append(items, envelopeKeys(block))
		}
	}
	return append(items, t.chain(chain)...), nil
}

func (t *Trust) der(text []byte) ([]Item, error) {
	if cert, err := x509.ParseCertificate(text); err == nil {
		return t.chain([]*x509.Certificate{cert}), nil
	}
	if certs, err := pki.ParseCertsOnly(text); err == nil {
		return t.chain(certs), nil
	}
	if item, err := t.revocationList(text); err == nil {
		return []Item{item}, nil
	}
	if item, err := t.request(text); err == nil {
		return []Item{item}, nil
	}
	return nil, ErrUnknown
}

func sealedKey() Item {
	item := Item{Kind: "sealed private key"}
	item.say("sealed", "under a passphrase: Argon2id, 64 MiB, three passes; XChaCha20-Poly1305")
	item.say("whose", "nobody can tell without the passphrase; the certificate beside it says")
	item.May = []string{"be opened by whoever knows the passphrase, and by nobody else"}
	return item
}

// plainKey tells the kind of a key and nothing else of it.
func plainKey(block *pem.Block) Item {
	item := Item{Kind: "private key, not sealed"}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	signer, ok := key.(crypto.Signer)
	switch {
	case block.Type != "PRIVATE KEY":
		item.Refused = []string{"it is in an older form than PKCS#8, which nothing of ours reads"}
	case err != nil || !ok:
		item.Refused = []string{"it is not PKCS#8"}
	default:
		item.say("kind", "%s", keyKind(signer.Public()))
	}
	item.May = []string{"be used by whoever reads this file: it belongs to one host, mode 0600"}
	return item
}

func envelopeKeys(block *pem.Block) Item {
	item := Item{Kind: "envelope keys"}
	item.say("block", "%s", block.Type)
	for _, name := range []string{"Site", "Role", "Name", "Sender", "Generation"} {
		if v, ok := block.Headers[name]; ok {
			item.say(strings.ToLower(name), "%s", v)
		}
	}
	item.May = []string{"seal and check messages in the name of whoever they are of"}
	return item
}

// request explains a certificate request: of an authority, or of a leaf.
func (t *Trust) request(der []byte) (Item, error) {
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return Item{}, ErrUnknown
	}
	item := Item{Kind: "certificate request"}
	item.say("key", "%s, SHA-256 %s", keyKind(request.PublicKey), spki(request.RawSubjectPublicKeyInfo))
	item.refuse(request.CheckSignature())
	if len(request.URIs) == 0 {
		_, err := ca.ParseRequest(der)
		item.refuse(err)
		item.say("identity", "none: whoever issues takes it from elsewhere")
		item.May = []string{"be renewed by an issuer for whoever connects with a valid certificate"}
		return item, nil
	}
	trustDomain := t.trustDomain(request.URIs[0].Host)
	asked, err := ca.ParseAuthorityRequest(der, trustDomain)
	item.refuse(err)
	if err == nil {
		item.Kind = "request of an issuing authority"
		item.say("site", "%s", asked.Authority.Site)
		item.say("class", "%s", asked.Authority.Class)
		item.say("host", "%s", asked.Authority.Host())
		item.say("networks", "%s", list(asked.Zones.Networks))
		item.say("zones", "%s", list(asked.Zones.DNS))
		item.May = []string{"be signed where the root is: levee pki sign-issuer"}
	}
	return item, nil
}

// trustDomain returns the root's, or what is behind the site's name in host.
func (t *Trust) trustDomain(host string) string {
	if t.verifier != nil {
		return t.verifier.TrustDomain()
	}
	_, rest, _ := strings.Cut(strings.TrimPrefix(host, "ops."), ".")
	return rest
}

func list[T any](all []T) string {
	if len(all) == 0 {
		return "none"
	}
	text := make([]string, len(all))
	for i, v := range all {
		text[i] = fmt.Sprint(v)
	}
	return strings.Join(text, ", ")
}

// printable makes what a file says fit for a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
