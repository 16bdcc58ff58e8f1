package provision

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"levee/pki"
	"levee/pki/ca"
	"levee/pki/seal"
)

// Secret says whose keys a passphrase seals. Each may have its own: who can open
// the sites' authorities need not be able to open the root, and an issuer's
// host knows neither.
type Secret string

// The secrets.
const (
	SecretRoot   Secret = "root"   // authority/root.key
	SecretSites  Secret = "sites"  // the sites' authorities
	SecretIssuer Secret = "issuer" // the copy of a machine authority in an issuer's bundle
)

// Secrets returns all of them.
func Secrets() []Secret { return []Secret{SecretRoot, SecretSites, SecretIssuer} }

// passphrase asks once for each.
func (r *run) passphrase(whose Secret, made bool) (seal.Passphrase, error) {
	if p, ok := r.asked[whose]; ok {
		return p, nil
	}
	if r.config.Passphrase == nil {
		return seal.Passphrase{}, fmt.Errorf("the keys of %s are sealed, and nobody was asked for their passphrase", whose)
	}
	p, err := r.config.Passphrase(whose, made)
	if err != nil {
		return seal.Passphrase{}, err
	}
	r.asked[whose] = p
	return p, nil
}

var errSealed = errors.New("sealed")

// openAuthorityKey returns the key at path. A sealed one is opened when it first
// signs, so that a run that signs nothing needs no passphrase. cert, if there is
// one, says which key it must be.
func (r *run) openAuthorityKey(path string, whose Secret, cert *x509.Certificate) (crypto.Signer, error) {
	key, err := ca.OpenKey(path, func() (seal.Passphrase, error) { return seal.Passphrase{}, errSealed })
	switch {
	case errors.Is(err, fs.ErrNotExist) && whose == SecretRoot && cert != nil:
		return &lateKey{public: cert.PublicKey, open: func() (crypto.Signer, error) {
			return nil, fmt.Errorf("%w: put %s back for this run", errNoRoot, path)
		}}, nil
	case errors.Is(err, fs.ErrNotExist) && cert != nil:
		return nil, drift(path, "it is gone, and there is a certificate for it: restore it")
	case errors.Is(err, errSealed) && cert != nil:
		return &lateKey{public: cert.PublicKey, open: func() (crypto.Signer, error) { return r.unseal(path, whose, cert) }}, nil
	case errors.Is(err, errSealed) && r.dry:
		return nil, nil
	case errors.Is(err, errSealed):
		return r.unseal(path, whose, nil)
	case err != nil:
		return nil, drift(path, "%w", err)
	}
	return key, belongs(path, key, cert)
}

func (r *run) unseal(path string, whose Secret, cert *x509.Certificate) (crypto.Signer, error) {
	key, err := ca.OpenKey(path, func() (seal.Passphrase, error) { return r.passphrase(whose, false) })
	if err != nil {
		return nil, err
	}
	return key, belongs(path, key, cert)
}

// belongs wants key to be the one of cert, if there is one.
func belongs(path string, key crypto.Signer, cert *x509.Certificate) error {
	if cert == nil {
		return nil
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(cert.PublicKey) {
		return drift(path, "it is not the key of the certificate beside it")
	}
	return nil
}

// makeAuthorityKey makes and keeps a key of an authority, sealed unless the
// deployer said otherwise.
func (r *run) makeAuthorityKey(path string, whose Secret, newKey func() (crypto.Signer, error)) (key crypto.Signer, err error) {
	r.sealing(whose)
	err = r.create(path, secret, func() ([]byte, error) {
		if key, err = newKey(); err != nil {
			return nil, err
		}
		if r.config.Unsealed {
			return pki.MarshalKey(key)
		}
		p, err := r.newPassphrase(whose)
		if err != nil {
			return nil, err
		}
		return ca.SealKey(key, p)
	})
	return key, err
}

// sealing notes that a key of whose will be made.
func (r *run) sealing(whose Secret) {
	if !slices.Contains(r.seals, whose) {
		r.seals = append(r.seals, whose)
	}
}

// newPassphrase returns the passphrase to seal a new key with. Where keys are
// sealed with it already it must open one of them: a slip of the fingers would
// otherwise make a key that nobody opens again.
func (r *run) newPassphrase(whose Secret) (seal.Passphrase, error) {
	if _, ok := r.asked[whose]; ok {
		return r.passphrase(whose, true)
	}
	others, err := filepath.Glob(filepath.Join(r.site("*"), "*-ca.key"))
	if err != nil {
		return seal.Passphrase{}, err
	}
	if whose != SecretSites {
		others = nil
	}
	i := slices.IndexFunc(others, func(path string) bool {
		_, err := ca.OpenKey(path, func() (seal.Passphrase, error) { return seal.Passphrase{}, errSealed })
		return errors.Is(err, errSealed)
	})
	if i < 0 {
		return r.passphrase(whose, true)
	}
	if _, err := r.unseal(others[i], whose, nil); err != nil {
		return seal.Passphrase{}, err
	}
	return r.passphrase(whose, false)
}

// lateKey is a private key that is opened when it first signs.
type lateKey struct {
	public crypto.PublicKey
	open   func() (crypto.Signer, error)
	key    crypto.Signer
}

func (k *lateKey) Public() crypto.PublicKey { return k.public }

func (k *lateKey) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	key, err := k.opened()
	if err != nil {
		return nil, err
	}
	return key.Sign(rand, digest, opts)
}

// opened returns the key itself, opened once.
func (k *lateKey) opened() (crypto.Signer, error) {
	if k.key == nil {
		key, err := k.open()
		if err != nil {
			return nil, err
		}
		k.key = key
	}
	return k.key, nil
}
