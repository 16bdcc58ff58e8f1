package explain

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"levee/pki"
)

// keyKind names the algorithm of a public key.
func keyKind(public any) string {
	switch key := public.(type) {
	case ed25519.PublicKey:
		return "Ed25519"
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d, which nothing of ours accepts", key.N.BitLen())
	default:
		return "of a kind that nothing of ours accepts"
	}
}

func spki(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func serial(n *big.Int) string { return fmt.Sprintf("%032x", n) }

func authoritiesIn(text []byte) (all []*x509.Certificate) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.IsCA {
			all = append(all, cert)
		}
	}
	return all
}

// chain explains certificates that stand together: a leaf with its issuer, an
// authority, a root, or a heap.
func (t *Trust) chain(certs []*x509.Certificate) (items []Item) {
	for i, cert := range certs {
		switch {
		case !cert.IsCA:
			var issuer *x509.Certificate
			if i+1 < len(certs) {
				issuer = certs[i+1]
			}
			items = append(items, t.leaf(cert, issuer))
		case cert.CheckSignatureFrom(cert) == nil:
			items = append(items, t.root(cert))
		default:
			items = append(items, t.authority(cert))
		}
	}
	return items
}

// dates says from when until when.
func (t *Trust) dates(item *Item, cert *x509.Certificate, renewBy time.Time) {
	item.say("valid", "%s to %s", cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339))
	switch left := cert.NotAfter.Sub(t.now); {
	case t.now.Before(cert.NotBefore):
		item.say("now", "not valid yet")
	case left < 0:
		item.say("now", "EXPIRED %d days ago", int(-left/(24*time.Hour)))
	case !t.now.Before(renewBy):
		item.say("now", "%s left: renew it now", left.Round(time.Minute))
	default:
		item.say("now", "%d days left, renew by %s", int(left/(24*time.Hour)), renewBy.UTC().Format(time.DateOnly))
	}
	item.say("serial", "%s", serial(cert.SerialNumber))
	item.say("key", "%s, SHA-256 %s", keyKind(cert.PublicKey), spki(cert.RawSubjectPublicKeyInfo))
}

func (t *Trust) root(cert *x509.Certificate) Item {
	item := Item{Kind: "root certificate"}
	trustDomain, err := pki.TrustDomain(cert)
	item.refuse(err)
	item.say("trust domain", "%s", trustDomain)
	t.dates(&item, cert, cert.NotAfter.Add(-30*24*time.Hour))
	item.May = []string{"make authorities of sites of " + printable(trustDomain) + ": whoever can replace this file in a bundle decides whom its part believes"}
	if pki.IsEvaluation(cert) {
		item.say("evaluation", "made for evaluation")
		item.May = append(item.May, "nothing in production: configurations without evaluation: true refuse it")
	}
	if err == nil {
		_, err = pki.NewVerifier(pki.VerifierConfig{Root: cert, TrustDomain: trustDomain, AllowEvaluation: true})
		item.refuse(err)
	}
	t.expired(&item, cert)
	switch {
	case t.Root == nil:
		item.Unverified = true
	case !cert.Equal(t.Root):
		item.Refused = append(item.Refused, "it is another root than the one that this is judged by")
	}
	return item
}

func (t *Trust) expired(item *Item, cert *x509.Certificate) {
	if t.now.After(cert.NotAfter) {
		item.Refused = append(item.Refused, "expired")
	}
	if t.now.Before(cert.NotBefore) {
		item.Refused = append(item.Refused, "not valid yet")
	}
}

func (t *Trust) authority(cert *x509.Certificate) Item {
	item := Item{Kind: "issuing authority's certificate"}
	host := ""
	if len(cert.URIs) > 0 {
		host = cert.URIs[0].Host
	}
	authority, err := pki.VerifyAuthorityPath(cert, t.trustDomain(host), t.now)
	if err == nil {
		item.say("site", "%s", authority.Site)
		item.say("class", "%s", authority.Class)
		item.May = []string{fmt.Sprintf("issue certificates of %s of site %s alone, and sign statements in its name", map[pki.Class]string{
			pki.ClassMachine: "machines", pki.ClassPerson: "people"}[authority.Class], authority.Site)}
		if authority.Class == pki.ClassPerson {
			item.May = append(item.May, "sign the site document")
		} else {
			item.May = append(item.May, "sign revocation lists; its key is with the site's issuer, who can mint any machine of the site but the pinned ones")
		}
	}
	item.say("host", "%s", host)
	item.say("URIs", "permitted %s, excluded %s", list(cert.PermittedURIDomains), list(cert.ExcludedURIDomains))
	item.say("DNS names", "permitted %s", list(cert.PermittedDNSDomains))
	item.say("addresses", "permitted %s", list(cert.PermittedIPRanges))
	t.dates(&item, cert, cert.NotAfter.Add(-30*24*time.Hour))
	if t.verifier == nil {
		item.refuse(err)
		item.Unverified = true
		return item
	}
	_, err = t.verifier.VerifyAuthority(cert, t.now)
	item.refuse(err)
	return item
}

// duties say what each role is for, and what it may do.
var duties = map[pki.Role]string{
	pki.RoleBroker:     "pass the site's messages on, and end its sessions; it cannot forge any",
	pki.RoleSensor:     "report its own server",
	pki.RoleMonitor:    "raise alerts, and give the commands that policy lists as automatic; only with the key that the site document pins",
	pki.RoleController: "act on its own host, and report its status",
	pki.RoleApprover:   "sign grants of commands; only with the key that the site document pins",
	pki.RoleIssuer:     "renew machines' certificates, and publish revocations",
	pki.RoleRecorder:   "acknowledge what it recorded, and read issuers' journals",
	pki.RoleConsole:    "read what policy lets consoles read, and ask for commands in a person's name",
	pki.RoleGuest:      "read and write public topics",
	pki.RoleOperator:   "watch, ask for commands and approve them, and order issuers to revoke, readmit and enrol machines",
	pki.RoleViewer:     "watch readings and statuses",
	pki.RoleAuditor:    "read public topics; the record is read from its files",
}

func (t *Trust) leaf(cert, issuer *x509.Certificate) Item {
	item := Item{Kind: "certificate"}
	uri := ""
	if len(cert.URIs) > 0 {
		uri = cert.URIs[0].String()
		item.say("identity", "%s", uri)
		if id, err := pki.ParseIdentity(uri, t.trustDomain(cert.URIs[0].Host)); err == nil {
			item.Kind = "certificate of a " + id.Role.Class().String()
			item.say("sender", "%s", id.Sender())
			item.say("client identifier", "%s", id.ClientID())
			item.May = []string{duties[id.Role]}
			if id.Role.Server() && len(cert.DNSNames)+len(cert.IPAddresses) > 0 {
				item.May = append(item.May, "be dialled as "+list(cert.DNSNames)+" and "+list(cert.IPAddresses))
			}
		} else {
			item.refuse(err)
		}
	}
	item.say("common name", "%s", cert.Subject.CommonName)
	t.dates(&item, cert, cert.NotAfter.Add(-cert.NotAfter.Sub(cert.NotBefore)/3))
	switch {
	case issuer == nil:
		item.Unverified = true
		item.say("issuer", "not in this file: peers want leaf and issuer, in this order")
	case t.verifier == nil:
		item.Unverified = true
		item.refuse(cert.CheckSignatureFrom(issuer))
	default:
		_, err := t.verifier.Verify(cert, issuer, pki.UsageSign, t.now)
		item.refuse(err)
	}
	return item
}

// revocationList explains an X.509 CRL.
func (t *Trust) revocationList(der []byte) (Item, error) {
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return Item{}, ErrUnknown
	}
	item := Item{Kind: "revocation list (X.509)"}
	item.say("issuer", "%s", l.Issuer.CommonName)
	item.say("number", "%s", l.Number)
	item.say("valid", "%s to %s", l.ThisUpdate.UTC().Format(time.RFC3339), l.NextUpdate.UTC().Format(time.RFC3339))
	item.say("revoked", "%d certificates", len(l.RevokedCertificateEntries))
	const shown = 20
	for i, e := range l.RevokedCertificateEntries {
		if i == shown {
			item.say("more", "%d", len(l.RevokedCertificateEntries)-shown)
			break
		}
		item.say(serial(e.SerialNumber), "since %s", e.RevocationTime.UTC().Format(time.RFC3339))
	}
	if t.now.After(l.NextUpdate) {
		item.Refused = append(item.Refused, "it should have been replaced since: ask the issuer for a new one")
	}
	item.Unverified = true
	for _, authority := range t.known {
		if l.CheckSignatureFrom(authority) != nil {
			continue
		}
		item.Unverified = t.verifier == nil
		if t.verifier != nil {
			_, err := t.verifier.VerifyAuthority(authority, t.now)
			item.refuse(err)
		}
		break
	}
	if item.Unverified {
		item.say("signature", "not checked: its authority's certificate is not beside the file")
	}
	item.May = []string{"tell programs that are not ours what is revoked; parts of ours follow the list that their issuer publishes"}
	return item, nil
}
