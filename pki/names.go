package pki

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
)

// maxURI bounds a URI in bytes before it is looked at: the longest identity of
// the longest trust domain fits well.
const maxURI = 512

// Context-specific tags of GeneralName (RFC 5280, section 4.2.1.6).
const (
	tagDNS = 2
	tagURI = 6
	tagIP  = 7
)

// Extensions (RFC 5280, section 4.2.1).
var (
	oidSubjectAltName  = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}
	oidExtKeyUsage     = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// altNames are the subject alternative names of one certificate, as spelt.
type altNames struct {
	uris []string
	dns  []string
	ips  []netip.Addr
}

// readAltNames reads the names from the extension's bytes. crypto/x509 skips
// the kinds of names that it does not know and normalises URIs. A verifier
// must do neither.
func readAltNames(cert *x509.Certificate) (altNames, error) {
	for _, extension := range cert.Extensions {
		if extension.Id.Equal(oidSubjectAltName) {
			// crypto/x509 refuses to parse a second one.
			return parseAltNames(extension.Value)
		}
	}
	return altNames{}, nil
}

// parseAltNames reads the DER of a SubjectAltName and refuses every kind of
// name but URI, DNS and IP address.
func parseAltNames(der []byte) (altNames, error) {
	var names altNames
	var list asn1.RawValue
	rest, err := asn1.Unmarshal(der, &list)
	if err != nil {
		return altNames{}, fmt.Errorf("reading alternative names: %w", err)
	}
	if len(rest) != 0 || list.Class != asn1.ClassUniversal || list.Tag != asn1.TagSequence || !list.IsCompound {
		return altNames{}, errors.New("reading alternative names: not one sequence")
	}
	for rest = list.Bytes; len(rest) > 0; {
		var name asn1.RawValue
		if rest, err = asn1.Unmarshal(rest, &name); err != nil {
			return altNames{}, fmt.Errorf("reading alternative names: %w", err)
		}
		if name.Class != asn1.ClassContextSpecific || name.IsCompound {
			return altNames{}, errors.New("reading alternative names: a kind of name that no profile has")
		}
		switch name.Tag {
		case tagURI:
			if len(name.Bytes) > maxURI {
				return altNames{}, errors.New("reading alternative names: URI too long")
			}
			names.uris = append(names.uris, string(name.Bytes))
		case tagDNS:
			names.dns = append(names.dns, string(name.Bytes))
		case tagIP:
			ip, ok := netip.AddrFromSlice(name.Bytes)
			// An IPv4 address in IPv6 clothes matches different ranges in
			// different libraries.
			if !ok || ip.Is4In6() {
				return altNames{}, errors.New("reading alternative names: not a plain IP address")
			}
			names.ips = append(names.ips, ip)
		default:
			return altNames{}, errors.New("reading alternative names: a kind of name that no profile has")
		}
	}
	return names, nil
}

// onlyURI returns the one URI of a certificate that carries no other name.
func onlyURI(cert *x509.Certificate) (string, error) {
	names, err := readAltNames(cert)
	if err != nil {
		return "", err
	}
	if len(names.uris) != 1 || len(names.dns) != 0 || len(names.ips) != 0 {
		return "", errors.New("reading alternative names: not exactly one URI alone")
	}
	return names.uris[0], nil
}
