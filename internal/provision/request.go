package provision

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"levee/internal/durable"
	"levee/pki"
	"levee/pki/ca"
)

// FileRequest is the request for a site's authorities, in the site's directory
// of the deployer: what is carried to where the root is.
const FileRequest = "request.pem"

// maxRequests bounds the file in bytes: two requests.
const maxRequests = 128 << 10

const pemRequest = "CERTIFICATE REQUEST"

// Requests are what a site asks of an offline root: its authorities.
type Requests struct {
	Authorities []ca.AuthorityRequest
	// Digest is of all that is asked for, for the people at both ends to
	// compare: 16 characters.
	Digest string
}

// Request makes the keys of the authorities that a site lacks, writes the
// request for their certificates beside them, and returns it. The root's key is
// not needed. Running it again asks for the same.
func (c Config) Request(name string, now time.Time) (*Requests, string, error) {
	result, err := c.Plan(now)
	if err != nil {
		return nil, "", err
	}
	if blocked := result.Blocked(); len(blocked) > 0 {
		return nil, "", fmt.Errorf("%w:\n  %s", ErrDrift, strings.Join(blocked, "\n  "))
	}
	r := c.run(now, false)
	path, err := r.request(name)
	if err != nil {
		return nil, "", fmt.Errorf("requesting authorities of %s: %w", name, err)
	}
	text, err := durable.ReadFile(path, maxRequests)
	if err != nil {
		return nil, "", err
	}
	requests, err := ParseRequests(text, c.Inventory.TrustDomain)
	return requests, path, err
}

func (c Config) site(name string) (Site, error) {
	for _, s := range c.Inventory.Sites {
		if s.Name == name {
			return s, nil
		}
	}
	return Site{}, fmt.Errorf("the inventory has no site %q", name)
}

func (r *run) request(name string) (string, error) {
	s, err := r.config.site(name)
	if err != nil {
		return "", err
	}
	if _, err := pki.ReadCertificate(filepath.Join(r.Authority(), fileRoot+".pem")); err != nil {
		return "", fmt.Errorf("%w: bring the root's certificate first", err)
	}
	dir := r.site(name)
	if err := errors.Join(r.directory(dir), r.sweep(dir)); err != nil {
		return "", err
	}
	var text bytes.Buffer
	for _, a := range s.authorities(r.config.Inventory.TrustDomain) {
		path := filepath.Join(dir, a.file)
		if exists(path + ".pem") {
			continue
		}
		var key crypto.Signer
		if exists(path + ".key") {
			key, err = r.openAuthorityKey(path+".key", SecretSites, nil)
		} else {
			key, err = r.makeAuthorityKey(path+".key", SecretSites, ca.NewAuthorityKey)
		}
		if err != nil {
			return "", err
		}
		der, err := ca.NewAuthorityRequest(key, a.Authority, a.zones)
		if err != nil {
			return "", err
		}
		text.Write(pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der}))
	}
	if text.Len() == 0 {
		return "", errors.New("it has its authorities already")
	}
	path := filepath.Join(dir, FileRequest)
	return path, r.write(path, public, func() ([]byte, error) { return text.Bytes(), nil })
}

// ParseRequests reads what Request wrote.
func ParseRequests(text []byte, trustDomain string) (*Requests, error) {
	if len(text) > maxRequests {
		return nil, errors.New("reading requests: too long")
	}
	var requests Requests
	digest := sha256.New()
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		block, after := pem.Decode(rest)
		if block == nil || block.Type != pemRequest || !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			return nil, errors.New("reading requests: not requests of levee pki csr")
		}
		asked, err := ca.ParseAuthorityRequest(block.Bytes, trustDomain)
		if err != nil {
			return nil, err
		}
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return nil, err
		}
		digest.Write(request.RawTBSCertificateRequest) // a signature differs each time
		requests.Authorities = append(requests.Authorities, asked)
		rest = after
	}
	n := len(requests.Authorities)
	if n == 0 || n > 2 || n == 2 && requests.Authorities[0].Authority.Class == requests.Authorities[1].Authority.Class ||
		n == 2 && requests.Authorities[0].Authority.Site != requests.Authorities[1].Authority.Site {
		return nil, errors.New("reading requests: not one of each class of one site")
	}
	requests.Digest = strings.ToLower(base32.StdEncoding.EncodeToString(digest.Sum(nil)))[:16]
	return &requests, nil
}

// SignRequests makes the certificates that were asked for, with the root whose
// key and certificate are in dir, and returns them as PEM. Only the public keys
// come from the requests' bytes: what they ask for, a person has seen.
func (c Config) SignRequests(dir string, requests *Requests, now time.Time) ([]byte, error) {
	r := c.run(now, false)
	path := filepath.Join(dir, fileRoot)
	cert, err := pki.ReadCertificate(path + ".pem")
	if err != nil {
		return nil, err
	}
	if !exists(path + ".key") {
		return nil, fmt.Errorf("%s.key is not there: sign where the root's key is", path)
	}
	key, err := r.openAuthorityKey(path+".key", SecretRoot, cert)
	if err != nil {
		return nil, err
	}
	var made []*x509.Certificate
	for _, a := range requests.Authorities {
		issued, err := ca.IssueAuthority(ca.Issuer{Certificate: cert, Signer: key}, a.Authority, a.Public, a.Zones, authorityLifetime, now)
		if err != nil {
			return nil, err
		}
		made = append(made, issued)
	}
	return pki.MarshalCertificates(made...), nil
}

// RootDomain returns the trust domain of the root in dir.
func RootDomain(dir string) (string, error) {
	cert, err := pki.ReadCertificate(filepath.Join(dir, fileRoot+".pem"))
	if err != nil {
		return "", err
	}
	return pki.TrustDomain(cert)
}

// Accept takes the certificates that SignRequests made, and returns where it put
// them. Each must be what the inventory says, for the key that was asked with,
// below our root.
func (c Config) Accept(name string, answer []byte, now time.Time) ([]string, error) {
	r := c.run(now, false)
	paths, err := r.accept(name, answer)
	if err != nil {
		return nil, fmt.Errorf("accepting authorities of %s: %w", name, err)
	}
	return paths, nil
}

func (r *run) accept(name string, answer []byte) (paths []string, err error) {
	s, err := r.config.site(name)
	if err != nil {
		return nil, err
	}
	root, err := pki.ReadCertificate(filepath.Join(r.Authority(), fileRoot+".pem"))
	if err != nil {
		return nil, err
	}
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root, TrustDomain: r.config.Inventory.TrustDomain, AllowEvaluation: true, Site: name})
	if err != nil {
		return nil, err
	}
	text, err := durable.ReadFile(filepath.Join(r.site(name), FileRequest), maxRequests)
	if err != nil {
		return nil, fmt.Errorf("%w: levee pki csr writes it", err)
	}
	requests, err := ParseRequests(text, r.config.Inventory.TrustDomain)
	if err != nil {
		return nil, err
	}
	made := make(map[string]*x509.Certificate)
	for rest := bytes.TrimSpace(answer); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		block, after := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || len(made) > 2 {
			return nil, errors.New("not the answer of levee pki sign-issuer")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		a, asked, err := requests.answered(cert, s.authorities(r.config.Inventory.TrustDomain))
		if err != nil {
			return nil, err
		}
		path := filepath.Join(r.site(name), a.file+".pem")
		if err := a.check("the certificate", cert, v, r.now); err != nil {
			return nil, err
		}
		if !a.permitted(cert) || asked.Authority != a.Authority {
			return nil, fmt.Errorf("%s is certified for other networks than the inventory's", a.Host())
		}
		if exists(path) || made[path] != nil {
			return nil, fmt.Errorf("%s is there already", path)
		}
		made[path] = cert
		paths = append(paths, path)
		rest = after
	}
	if len(made) != len(requests.Authorities) {
		return nil, fmt.Errorf("%d certificates for %d requests", len(made), len(requests.Authorities))
	}
	for _, path := range paths {
		if err := r.write(path, public, func() ([]byte, error) { return pki.MarshalCertificates(made[path]), nil }); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// answered returns which authority a certificate is for, by its key.
func (q *Requests) answered(cert *x509.Certificate, authorities [2]siteAuthority) (siteAuthority, ca.AuthorityRequest, error) {
	for _, asked := range q.Authorities {
		if asked.Key != pki.SPKIHash(cert) {
			continue
		}
		for _, a := range authorities {
			if a.Class == asked.Authority.Class {
				return a, asked, nil
			}
		}
	}
	return siteAuthority{}, ca.AuthorityRequest{}, errors.New("a certificate is for another key than was asked with")
}
