package provision

import (
	"crypto"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"time"

	"levee/internal/durable"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
	"levee/pki/seal"
)

// openCredential makes key and certificate of a bundle that lacks them, and
// checks those of one that does not. Whether the certificate has expired is
// for its part to say.
func (r *run) openCredential(d *deployer, s Site, id pki.Identity) error {
	keyFile, chainFile := filepath.Join(r.Bundle(id), site.FileKey), filepath.Join(r.Bundle(id), site.FileChain)
	by := d.authority(id.Role.Class())
	if !exists(keyFile) && exists(chainFile) {
		return drift(keyFile, "it is gone, and there is a certificate for it: restore it, or remove %s as well", chainFile)
	}
	err := r.createMissing(keyFile, secret, func() ([]byte, error) {
		key, err := pki.NewKey(id.Role)
		if err != nil {
			return nil, err
		}
		return pki.MarshalKey(key)
	})
	if err != nil {
		return err
	}
	if !exists(chainFile) {
		by.journal.pending = r.dry
	}
	err = r.createMissing(chainFile, public, func() ([]byte, error) {
		key, err := pki.ReadKey(keyFile)
		if err != nil {
			return nil, err
		}
		leaf, err := r.issue(by, s, id, key.Public())
		if err != nil {
			return nil, err
		}
		return pki.MarshalCertificates(leaf, by.Certificate), nil
	})
	if err != nil || r.planned(chainFile) {
		return err
	}
	c, err := pki.LoadCredential(keyFile, chainFile)
	if err != nil {
		return drift(r.Bundle(id), "%w", err)
	}
	is, err := d.verifier.Verify(c.Leaf(), c.Issuer(), pki.UsageSign, c.Leaf().NotBefore)
	if err != nil {
		return drift(chainFile, "%w", err)
	}
	if is != id {
		return drift(chainFile, "it is the certificate of %s", is)
	}
	if r.now.Before(c.Leaf().NotBefore) {
		r.note(chainFile, "it is not valid yet, and nobody accepts it before %s: a clock was wrong; remove %s and %s to have another",
			c.Leaf().NotBefore.UTC().Format(time.RFC3339), keyFile, chainFile)
	}
	if !by.journal.holds(c.Leaf()) {
		r.note(chainFile, "its certificate is not in %s: whoever audits takes it for one that nobody issued; remove %s and %s to have another", by.journal.path, keyFile, chainFile)
	}
	if address := s.address(id); address != "" {
		host, _, err := net.SplitHostPort(address)
		if err == nil {
			err = c.Leaf().VerifyHostname(host)
		}
		if err != nil {
			return drift(chainFile, "the certificate of %s is not for its address (%w): remove %s and %s, and run this again", id.Sender(), err, site.FileKey, site.FileChain)
		}
	}
	return nil
}

// issue returns a certificate of id for the key, after it stands in the journal
// of its authority. One that stood there already, when a run was interrupted
// before it reached the bundle, is used.
func (r *run) issue(by *authority, s Site, id pki.Identity, public crypto.PublicKey) (*x509.Certificate, error) {
	if cert := by.journal.unused(id, public, r.now); cert != nil {
		return cert, nil
	}
	leaf, err := ca.IssueLeaf(by.Issuer, id, public, s.names(id), r.config.Inventory.lifetime(id.Role.Class()), r.now)
	if err != nil {
		return nil, err
	}
	return leaf, by.journal.append(leaf, r.now)
}

// giveAuthority gives an issuer the machine authority of its site: the
// certificate, and the key as the deployer has it, or sealed for that host alone.
func (r *run) giveAuthority(d *deployer, id pki.Identity) error {
	if d.machines.Certificate != nil {
		if err := r.keep(filepath.Join(r.Bundle(id), FileIssuing+".pem"), public, pki.MarshalCertificates(d.machines.Certificate)); err != nil {
			return err
		}
	}
	own, path := filepath.Join(r.site(id.Site), fileMachineCA+".key"), filepath.Join(r.Bundle(id), FileIssuing+".key")
	text, err := durable.ReadFile(path, seal.MaxSealed)
	if err == nil && seal.Is(text) {
		return nil // whether it opens, its issuer says
	}
	if err == nil {
		key, err := ca.OpenKey(path, nil)
		if err != nil {
			return drift(path, "%w", err)
		}
		return belongs(path, key, d.machines.Certificate)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !r.config.Unsealed && keyState(own) != KeyPlain {
		r.sealing(SecretIssuer)
	}
	return r.create(path, secret, func() ([]byte, error) {
		text, err := durable.ReadFile(own, seal.MaxSealed)
		if err != nil || !seal.Is(text) {
			return text, err
		}
		key := d.machines.Signer
		if late, ok := key.(*lateKey); ok {
			if key, err = late.opened(); err != nil {
				return nil, err
			}
		}
		p, err := r.passphrase(SecretIssuer, true)
		if err != nil {
			return nil, err
		}
		return ca.SealKey(key, p)
	})
}
