package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
)

// Bounds of a certs-only message.
const (
	maxCertsOnly     = 128 << 10 // bytes
	maxCertsOnlyList = 4         // certificates
)

// What a certs-only message has around its certificates (RFC 5652, sections 3
// to 5): the content types signedData and data, version 1, and no algorithms
// and no signers.
var (
	derSignedData = []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2}
	derData       = []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1}
	derVersion    = []byte{2, 1, 1}
	derEmptySet   = []byte{0x31, 0}
)

// Tags of DER.
const (
	derSequence = 0x30
	derContext0 = 0xa0
)

// MarshalCertsOnly returns the DER of certs, 1 to 4, as the degenerate PKCS#7
// that servers of EST answer with (RFC 7030, section 4.1.3): a SignedData
// without content and signers. They stay in the order given, which a reader
// may not rely upon (CertificateSet is a set).
func MarshalCertsOnly(certs ...*x509.Certificate) []byte {
	raw := make([][]byte, len(certs))
	for i, cert := range certs {
		raw[i] = cert.Raw
	}
	return marshalCertsOnly(raw)
}

func marshalCertsOnly(certs [][]byte) []byte {
	return der(derSequence,
		derSignedData,
		der(derContext0, der(derSequence,
			derVersion,
			derEmptySet, // digestAlgorithms
			der(derSequence, derData),
			der(derContext0, certs...),
			derEmptySet, // signerInfos
		)),
	)
}

// der encodes one constructed value.
func der(tag byte, parts ...[]byte) []byte {
	content := bytes.Join(parts, nil)
	length := []byte{byte(len(content))}
	if len(content) > 127 {
		length = bytes.TrimLeft(binary.BigEndian.AppendUint64(nil, uint64(len(content))), "\x00")
		length = append([]byte{0x80 | byte(len(length))}, length...)
	}
	return append(append([]byte{tag}, length...), content...)
}

// ParseCertsOnly reads exactly what MarshalCertsOnly returns, one spelling and
// nothing after it. That anybody vouches for the certificates it does not say.
func ParseCertsOnly(message []byte) ([]*x509.Certificate, error) {
	certs, err := parseCertsOnly(message)
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	return certs, nil
}

func parseCertsOnly(message []byte) ([]*x509.Certificate, error) {
	if len(message) > maxCertsOnly {
		return nil, fmt.Errorf("longer than %d bytes", maxCertsOnly)
	}
	var info struct {
		Type    asn1.RawValue
		Content struct {
			Version, Algorithms, Info, Certificates, Signers asn1.RawValue
		} `asn1:"explicit,tag:0"`
	}
	if rest, err := asn1.Unmarshal(message, &info); err != nil || len(rest) != 0 {
		return nil, errors.New("not a certs-only message")
	}
	var raw [][]byte
	var certs []*x509.Certificate
	for list := info.Content.Certificates.Bytes; len(list) > 0; {
		var element asn1.RawValue
		var err error
		if list, err = asn1.Unmarshal(list, &element); err != nil || len(certs) == maxCertsOnlyList {
			return nil, fmt.Errorf("not 1 to %d certificates", maxCertsOnlyList)
		}
		cert, err := x509.ParseCertificate(element.FullBytes)
		if err != nil {
			return nil, err
		}
		raw, certs = append(raw, element.FullBytes), append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificates")
	}
	// Whatever was not looked at above must be what we write.
	if !bytes.Equal(marshalCertsOnly(raw), message) {
		return nil, errors.New("not a certs-only message in DER")
	}
	return certs, nil
}
