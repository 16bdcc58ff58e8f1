package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// maxSerial bounds serial numbers and the numbers of lists in bits (RFC 5280,
// sections 4.1.2.2 and 5.2.3: 20 octets).
const maxSerial = 159

// IssueRevocationList returns an X.509 revocation list, DER, of what issuer
// revoked. number must rise with each list, and the next one is promised for
// next; a relying party refuses the list afterwards. An entry needs its serial
// number, its time, and perhaps a reason (RFC 5280, section 5.3.1).
func IssueRevocationList(issuer Issuer, entries []x509.RevocationListEntry, number *big.Int, now, next time.Time) ([]byte, error) {
	der, err := issueRevocationList(issuer, entries, number, now, next)
	if err != nil {
		return nil, fmt.Errorf("issuing revocation list: %w", err)
	}
	return der, nil
}

func issueRevocationList(issuer Issuer, entries []x509.RevocationListEntry, number *big.Int, now, next time.Time) ([]byte, error) {
	cert := issuer.Certificate
	switch {
	case cert == nil || issuer.Signer == nil:
		return nil, errors.New("no issuer")
	case !cert.IsCA || cert.KeyUsage&x509.KeyUsageCRLSign == 0:
		return nil, errors.New("the issuer may sign none")
	case !samePublic(issuer.Signer.Public(), cert.PublicKey): // crypto/x509 does not look
		return nil, errors.New("the key does not belong to the issuer's certificate")
	case now.Before(cert.NotBefore) || now.After(cert.NotAfter):
		return nil, errors.New("the issuer's certificate is not valid now")
	case number == nil || number.Sign() <= 0 || number.BitLen() > maxSerial:
		return nil, errors.New("the list's number is not a positive one of 20 bytes")
	case !next.After(now):
		return nil, errors.New("the next list would be due before this one")
	}
	seen := make(map[string]bool, len(entries))
	for _, entry := range entries {
		switch serial := entry.SerialNumber; {
		case serial == nil || serial.Sign() <= 0 || serial.BitLen() > maxSerial+1:
			return nil, errors.New("an entry without a serial number")
		case seen[serial.String()]:
			return nil, fmt.Errorf("serial number %x twice", serial)
		case entry.RevocationTime.IsZero() || entry.RevocationTime.After(now):
			return nil, fmt.Errorf("serial number %x was not revoked yet", serial)
		case entry.ReasonCode < 0 || entry.ReasonCode > 10 || entry.ReasonCode == 7 || entry.ReasonCode == 8 || len(entry.ExtraExtensions) != 0:
			// 7 is no reason; 8 belongs in lists that change others.
			return nil, fmt.Errorf("serial number %x for no reason that lists know", serial)
		default:
			seen[serial.String()] = true
		}
	}
	return x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		RevokedCertificateEntries: entries,
		Number:                    number,
		ThisUpdate:                now,
		NextUpdate:                next,
	}, cert, issuer.Signer)
}

func samePublic(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}
