package main

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"math/big"
	"net/url"
	"strings"
	"time"

	"levee/test/vectors"
)

// ed25519Order is L of RFC 8032, section 5.1.
var ed25519Order, _ = new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)

// withS returns the signature with change applied to the number in its second
// half.
func withS(little bool, change func(*big.Int)) func([]byte) []byte {
	return func(sig []byte) []byte {
		half := sig[32:]
		if little {
			reverse(half)
		}
		n := new(big.Int).SetBytes(half)
		change(n)
		n.FillBytes(half)
		if little {
			reverse(half)
		}
		return sig
	}
}

func reverse(b []byte) {
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
}

func (s *set) signatures() {
	good := m1.on(command).by(s.m1)
	status := lb1.on(scaling).by(s.lb1EC)
	order := elliptic.P256().Params().N
	stolen := *s.m1 // m1's certificate, another key
	stolen.key = edKey("a thief")
	bare := *s.m1
	bare.bare = true
	add := func(name, says string, m message, raw, want string) {
		s.vector("signature-"+name, "4", says, s.verifying(monitor()), given(m.sender, m.topic, raw, want))
	}
	for _, c := range []struct {
		name, says string
		m          message
	}{
		{"one-bit", "one bit of an Ed25519 signature is flipped", good.by(s.m1.mended(spoil))},
		{"another-key", "signed with a key that is not the certificate's", good.by(&stolen)},
		{"without-label", "the signature does not cover the prefix", good.by(&bare)},
		{"zero", "an Ed25519 signature that is all zero", good.by(s.m1.mended(func([]byte) []byte { return make([]byte, 64) }))},
		{"s-more-l", "an Ed25519 signature whose S is higher by the group order", good.by(s.m1.mended(withS(true, func(n *big.Int) { n.Add(n, ed25519Order) })))},
		{"halves-swapped", "the halves of an Ed25519 signature are swapped", good.by(s.m1.mended(func(b []byte) []byte { return append(b[32:64:64], b[:32]...) }))},
		{"p256-one-bit", "one bit of an ECDSA signature is flipped", status.by(s.lb1EC.mended(spoil))},
		{"p256-high-s", "n - s in the place of s", status.by(s.lb1EC.mended(withS(false, func(n *big.Int) { n.Sub(order, n) })))},
		{"p256-zero", "an ECDSA signature that is all zero", status.by(s.lb1EC.mended(func([]byte) []byte { return make([]byte, 64) }))},
		{"p256-s-zero", "s is zero", status.by(s.lb1EC.mended(withS(false, func(n *big.Int) { n.SetInt64(0) })))},
		{"p256-r-zero", "r is zero", status.by(s.lb1EC.mended(func(b []byte) []byte { clear(b[:32]); return b }))},
		{"p256-r-order", "r is the group order", status.by(s.lb1EC.mended(func(b []byte) []byte { order.FillBytes(b[:32]); return b }))},
		{"p256-s-order", "s is the group order", status.by(s.lb1EC.mended(withS(false, func(n *big.Int) { n.Set(order) })))},
		{"p256-s-half-more-1", "s is the lowest value above half the group order", status.by(s.lb1EC.mended(withS(false, func(n *big.Int) { n.Add(n.Rsh(order, 1), big.NewInt(1)) })))},
		{"p256-s-largest", "s is 2^256-1", status.by(s.lb1EC.mended(func(b []byte) []byte { return append(b[:32:32], bytes.Repeat([]byte{0xff}, 32)...) }))},
		{"p256-little-endian", "r and s in the other byte order", status.by(s.lb1EC.mended(func(b []byte) []byte { reverse(b[:32]); reverse(b[32:]); return b }))},
		{"p256-another-key", "signed with a P-256 key that is not the certificate's", status.by(func() *signer {
			t := *s.lb1EC
			t.key = ecKey("a thief, P-256", elliptic.P256())
			return &t
		}())},
	} {
		add(c.name, c.says, c.m, c.m.raw(), "signature")
	}
	for _, c := range []edit{
		{"payload-changed", "a digit of the payload is another, under a MAC that is right", "41.5", "11.5"},
		{"ts-changed", "ts is another, under a MAC that is right", `"ts":1729697327822`, `"ts":1729697327823`},
		{"nonce-changed", "seq is another, under a MAC that is right", `-1","topic"`, `-2","topic"`},
		{"generation-changed", "the generation is another, under a MAC that is right", `m1/1"`, `m1/2"`},
	} {
		m := good
		if c.name == "generation-changed" {
			m = m.under(good.as(2).sender.key())
		}
		add(c.name, c.says, m, m.edited(c.old, c.new), "signature")
	}
	body := good.body()
	cut := strings.LastIndex(body, `,"sig":"`)
	swapped := body[:cut] + `,"sig":"` + base64url(s.m1.sign(signPrefix+body[:cut]+macMember+mac(good.key(), macPrefix+body)+`"}`)) + `"`
	add("over-mac", "the signature covers a MAC", good, good.seal(swapped), "signature")
	s.vector("signature-reading", "7", "a wrong signature on a reading, which need not be signed", s.verifying(monitor()),
		web1.on(ramWeb1).by(s.web1.mended(spoil)).given("signature"))
	s.vector("signature-person", "7", "a wrong signature, at a receiver without keys", s.verifying(person()), good.by(s.m1.mended(spoil)).given("signature"))
	rootless := func(r vectors.Receiver) vectors.Receiver {
		r.Pins = map[string]string{m1.String(): s.m1.pin()}
		return r
	}
	s.vector("signature-without-root", "7", "a good signature, at a receiver that has no root", rootless(monitor()), good.given("signature"))
	s.vector("signature-without-root-person", "7", "a good signature, at a receiver that has neither root nor keys", rootless(person()), good.given("signature"))
	s.vector("signature-before-stale", "7", "a wrong signature, and stale: the signature comes first", s.verifying(monitor()),
		good.by(s.m1.mended(spoil)).at(now-skew-1).given("signature"))
	// The second message's signature covers its own head: the first one's does
	// not fit it.
	again := good.number(2)
	old := body[cut:]
	b := again.body()
	add("of-another-message", "the signature of another message", again, again.seal(b[:strings.LastIndex(b, `,"sig":"`)]+old), "signature")
}

func (s *set) certificates() {
	good := m1.on(command)
	commands := func(name, says string, by *signer, want string) {
		s.vector("chain-"+name, "4", says, s.verifying(monitor()), good.by(by).given(want))
	}
	readings := func(name, says string, by *signer, want string) {
		s.vector("chain-"+name, "4", says, s.verifying(monitor()), web1.on(ramWeb1).by(by).given(want))
	}
	leaf := s.m1.leaf
	readings("another-name", "the certificate of web-2", s.web2, "sender")
	readings("another-role", "the certificate of the monitor web-1", s.web1Monitor, "sender")
	readings("another-site", "the certificate of syd's web-1, below the same root", s.sydWeb1, "sender")
	commands("third-certificate", "the root follows leaf and issuer", s.m1.carrying(leaf, s.machines.cert, s.root.cert), "signature")
	commands("one-certificate", "the leaf alone", s.m1.carrying(leaf), "signature")
	commands("issuer-alone", "the issuer alone", s.m1.carrying(s.machines.cert), "signature")
	commands("swapped", "the issuer stands before the leaf", s.m1.carrying(s.machines.cert, leaf), "signature")
	commands("leaf-twice", "the leaf is its own issuer", s.m1.carrying(leaf, leaf), "signature")
	commands("root-as-issuer", "the root stands in the place of the issuer", s.m1.carrying(leaf, s.root.cert), "signature")
	commands("wrong-issuer", "an issuer of the same root that did not issue the leaf", s.m1.carrying(leaf, s.people.cert), "signature")
	commands("issuer-of-another-site", "another site's issuer, which did not issue the leaf", s.m1.carrying(leaf, s.otherSite.cert), "signature")
	for _, c := range []struct{ name, says, der string }{
		{"no-der", "the chain is no certificate", strings.Repeat("levee ", 100)},
		{"zero", "the chain is a zero byte", "\x00"},
		{"trailing-byte", "a byte follows the issuer", string(s.m1.certs) + "\x00"},
		{"cut", "the issuer's last byte is missing", string(s.m1.certs[:len(s.m1.certs)-1])},
	} {
		t := *s.m1
		t.certs = []byte(c.der)
		commands(c.name, c.says, &t, "signature")
	}
	spoilt := *s.m1
	spoilt.certs = append([]byte(nil), s.m1.certs...)
	spoilt.certs[len(leaf.Raw)-1] ^= 1
	commands("leaf-signature", "one bit of the issuer's signature of the leaf is flipped", &spoilt, "signature")
	spoilt.certs = append([]byte(nil), s.m1.certs...)
	spoilt.certs[len(spoilt.certs)-1] ^= 1
	commands("issuer-signature", "one bit of the root's signature of the issuer is flipped", &spoilt, "signature")

	commands("another-root", "a chain of the same names below another root", s.signer(s.otherMachines, m1, edKey("m1"), nil), "signature")
	commands("forged-issuer", "an issuer in the root's name that the root did not sign", s.signer(s.forged, m1, edKey("m1"), nil), "signature")
	commands("expired-issuer", "the issuer's certificate ended three days before ts", s.signer(s.expired, m1, edKey("m1"), nil), "signature")
	commands("leaf-of-root", "the root issued the leaf, and is no issuing authority", s.signer(s.root, m1, edKey("m1"), nil), "signature")
	commands("issuer-not-ca", "a leaf issued the leaf", s.signer(issuer{cert: s.web1.leaf, key: s.web1.key}, m1, edKey("m1"), nil), "signature")
	commands("people-issued", "the people's authority issued a machine's leaf", s.signer(s.people, m1, edKey("m1"), nil), "signature")
	commands("site-issued", "another site's authority issued the leaf", s.signer(s.otherSite, m1, edKey("m1"), nil), "signature")
	at := time.UnixMilli(ts)
	for _, c := range []struct {
		name, says string
		change     func(*x509.Certificate)
		want       string
	}{
		{"expired", "the leaf ended two seconds before ts", func(c *x509.Certificate) { c.NotAfter = at.Add(-2 * time.Second) }, "signature"},
		{"not-yet-valid", "the leaf begins two seconds after ts", func(c *x509.Certificate) { c.NotBefore = at.Add(2 * time.Second) }, "signature"},
		{"nearly-expired", "the leaf ends two seconds after ts", func(c *x509.Certificate) { c.NotAfter = at.Add(2 * time.Second) }, "accepted"},
		{"just-valid", "the leaf began two seconds before ts", func(c *x509.Certificate) { c.NotBefore = at.Add(-2 * time.Second) }, "accepted"},
		{"no-uri", "the leaf has no URI", func(c *x509.Certificate) { c.URIs = nil }, "signature"},
		{"two-uris", "the leaf has two URIs", func(c *x509.Certificate) {
			second := *c.URIs[0]
			second.Path = "/monitor/m2"
			c.URIs = append(c.URIs, &second)
		}, "signature"},
		{"trust-domain", "the URI is of another trust domain", func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "melb.bank.test", Path: "/monitor/m1"}}
		}, "signature"},
		{"https-uri", "the URI has another scheme", func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "https", Host: "melb.bank.example", Path: "/monitor/m1"}}
		}, "signature"},
	} {
		commands(c.name, c.says, s.signer(s.machines, m1, edKey("m1"), c.change), c.want)
	}
	// Ended since, but valid at ts: an auditor must come to the same verdict
	// years later.
	m := good.by(s.signer(s.machines, m1, edKey("m1"), func(c *x509.Certificate) { c.NotAfter = at.Add(5 * time.Second) }))
	late := m.given("accepted")
	late.Now = ts + 20_000
	s.vector("chain-expired-since", "4", "the leaf ended after ts and before the receiver's clock", s.verifying(monitor()), late)

	commands("p384-leaf", "the leaf's key is on P-384, which signs no messages", s.signer(s.machines, m1, ecKey("m1, P-384", elliptic.P384()), nil), "signature")
	s.validity()

	// An authority that constrains no names, so that only the reading of the
	// URI can tell.
	free := s.authorityWith(s.root, "melb."+trustDomain, "melb machine authority", "free machines", authorityTo, func(c *x509.Certificate) {
		c.PermittedURIDomains, c.ExcludedURIDomains, c.PermittedDNSDomains, c.PermittedEmailAddresses, c.ExcludedIPRanges = nil, nil, nil, nil, nil
		c.PermittedDNSDomainsCritical = false
	})
	commands("trust-domain-unconstrained", "the URI is of another trust domain, and the issuer constrains no names", s.signer(free, m1, edKey("m1"), func(c *x509.Certificate) {
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "melb.bank.test", Path: "/monitor/m1"}}
	}), "signature")
}

// validity has the edges of notBefore and notAfter: both are whole seconds,
// both are included, and ts is compared with them to the millisecond.
func (s *set) validity() {
	second := time.UnixMilli(ts).Truncate(time.Second)
	at := second.UnixMilli()
	until := s.authority(s.root, "melb."+trustDomain, "melb machine authority", "machines until then", second)
	oldRoot := s.rootUntil("root until then", second)
	below := s.authority(oldRoot, "melb."+trustDomain, "melb machine authority", "machines of the root until then", authorityTo)
	trusting := s.verifying(monitor())
	trusting.Root = oldRoot.cert.Raw
	for _, c := range []struct {
		name, says string
		by         *signer
		r          vectors.Receiver
		in, out    int64
	}{
		{"leaf-ends", "the leaf's end", s.signer(s.machines, m1, edKey("m1"), func(c *x509.Certificate) { c.NotAfter = second }), s.verifying(monitor()), at, at + 1},
		{"leaf-begins", "the leaf's beginning", s.signer(s.machines, m1, edKey("m1"), func(c *x509.Certificate) { c.NotBefore = second }), s.verifying(monitor()), at, at - 1},
		{"issuer-ends", "the issuer's end", s.signer(until, m1, edKey("m1"), nil), s.verifying(monitor()), at, at + 1},
		{"root-ends", "the root's end", s.signer(below, m1, edKey("m1"), nil), trusting, at, at + 1},
	} {
		m := m1.on(command).by(c.by)
		s.vector("chain-"+c.name, "4", "exactly at "+c.says, c.r, m.at(c.in).given("accepted"))
		s.vector("chain-"+c.name+"-by-1", "4", "one millisecond beyond "+c.says, c.r, m.at(c.out).given("signature"))
		s.vector("chain-"+c.name+"-met-before", "4", "one millisecond beyond "+c.says+", with a chain that was good before", c.r,
			m.at(c.in).given("accepted"), m.number(2).at(c.out).given("signature"), m.number(3).at(c.in).given("accepted"))
	}
}

func (s *set) pins() {
	good := m1.on(command)
	with := func(pins map[string]string) vectors.Receiver {
		r := s.verifying(monitor())
		r.Pins = pins
		return r
	}
	pinned := map[string]string{m1.String(): s.m1.pin()}
	s.vector("pin-another-key", "7", "a good certificate of the monitor for another key than the pinned one", with(pinned), good.by(s.m1New).given("pin"))
	s.vector("pin-renewed", "7", "a renewed certificate for the pinned key", with(pinned), good.by(s.m1Renewed).given("accepted"))
	s.vector("pin-missing-monitor", "7", "a monitor that is not pinned", with(nil), good.by(s.m1).given("pin"))
	s.vector("pin-of-another", "7", "the pin of another monitor", with(map[string]string{"melb/monitor/m2": s.m1.pin()}), good.by(s.m1).given("pin"))
	s.vector("pin-not-needed", "7", "a controller need not be pinned", with(pinned), lb1.on(scaling).by(s.lb1).given("accepted"))
	s.vector("pin-controller", "7", "a pinned controller", with(map[string]string{lb1.String(): s.lb1.pin()}), lb1.on(scaling).by(s.lb1).given("accepted"))
	s.vector("pin-controller-another-key", "7", "a pinned controller with another key", with(map[string]string{lb1.String(): s.lb1.pin()}),
		lb1.on(scaling).by(s.lb1EC).given("pin"))
	s.vector("pin-reading", "7", "a pinned sensor with another key, on a reading that need not be signed", with(map[string]string{web1.String(): s.web2.pin()}),
		web1.on(ramWeb1).by(s.web1).given("pin"))
	s.vector("pin-unsigned", "7", "a pinned sensor's reading, which need not be signed and is not", with(map[string]string{web1.String(): s.web1.pin()}),
		web1.on(ramWeb1).given("accepted"))
	statements := "melb/bank_server/statements/approver"
	approver := func(pins map[string]string) vectors.Receiver {
		r := with(pins)
		r.Keys = hexKeys("approver", "monitor")
		return r
	}
	s.vector("pin-approver", "7", "a pinned approver", approver(map[string]string{appr.String(): s.appr.pin()}),
		appr.on(statements).by(s.appr).given("accepted"))
	s.vector("pin-missing-approver", "7", "an approver that is not pinned", approver(pinned), appr.on(statements).by(s.appr).given("pin"))
	s.vector("pin-person", "7", "another key than the pinned one, at a receiver without keys", func() vectors.Receiver {
		r := with(pinned)
		r.Keys = nil
		return r
	}(), good.by(s.m1New).given("pin"))
	s.vector("pin-before-stale", "7", "another key than the pinned one, and stale: the pin comes first", with(pinned),
		good.by(s.m1New).at(now-skew-1).given("pin"))
	s.vector("pin-after-signature", "7", "another key than the pinned one, and a wrong signature: the signature comes first", with(pinned),
		good.by(s.m1New.mended(spoil)).given("signature"))
}
