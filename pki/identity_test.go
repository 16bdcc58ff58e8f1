package pki_test

import (
	"strings"
	"testing"

	"levee/pki"
)

const trustDomain = "bank.example"

func TestParseIdentity(t *testing.T) {
	longest := strings.Repeat("a", 24)
	accepted := []struct {
		uri  string
		want pki.Identity
		cn   string
	}{
		{"spiffe://melb.bank.example/sensor/web-1",
			pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: pki.RoleSensor, Name: "web-1"}, "melb_sensor_web-1"},
		{"spiffe://ops.melb.bank.example/operator/alice",
			pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: pki.RoleOperator, Name: "alice"}, "melb_operator_alice"},
		{"spiffe://9.bank.example/guest/0",
			pki.Identity{TrustDomain: trustDomain, Site: "9", Role: pki.RoleGuest, Name: "0"}, "9_guest_0"},
		{"spiffe://" + longest + ".bank.example/controller/" + longest,
			pki.Identity{TrustDomain: trustDomain, Site: longest, Role: pki.RoleController, Name: longest}, longest + "_controller_" + longest},
	}
	for _, test := range accepted {
		got, err := pki.ParseIdentity(test.uri, trustDomain)
		if err != nil || got != test.want || got.URI() != test.uri || got.ClientID() != test.cn ||
			got.Sender() != strings.ReplaceAll(test.cn, "_", "/") {
			t.Errorf("ParseIdentity(%q) = %+v (%s), %v", test.uri, got, got.ClientID(), err)
		}
		// A common name has at most 64 characters (RFC 5280, appendix A.1).
		if len(got.ClientID()) > 64 {
			t.Errorf("client ID %q is too long for a common name", got.ClientID())
		}
	}

	refused := map[string]string{
		"empty":                    "",
		"no scheme":                "melb.bank.example/sensor/web-1",
		"other scheme":             "https://melb.bank.example/sensor/web-1",
		"upper-case scheme":        "SPIFFE://melb.bank.example/sensor/web-1",
		"opaque":                   "spiffe:melb.bank.example/sensor/web-1",
		"no path":                  "spiffe://melb.bank.example",
		"empty path":               "spiffe://melb.bank.example/",
		"role alone":               "spiffe://melb.bank.example/sensor",
		"no name":                  "spiffe://melb.bank.example/sensor/",
		"no role":                  "spiffe://melb.bank.example//web-1",
		"further path":             "spiffe://melb.bank.example/sensor/web-1/x",
		"final slash":              "spiffe://melb.bank.example/sensor/web-1/",
		"dots":                     "spiffe://melb.bank.example/sensor/../web-1",
		"other trust domain":       "spiffe://melb.bank.test/sensor/web-1",
		"trust domain as suffix":   "spiffe://melb.xbank.example/sensor/web-1",
		"trust domain as prefix":   "spiffe://melb.bank.example.evil/sensor/web-1",
		"no site":                  "spiffe://bank.example/sensor/web-1",
		"empty site":               "spiffe://.bank.example/sensor/web-1",
		"below the site":           "spiffe://sub.melb.bank.example/sensor/web-1",
		"reserved site public":     "spiffe://public.bank.example/sensor/web-1",
		"reserved site ops":        "spiffe://ops.bank.example/operator/alice",
		"ops twice":                "spiffe://ops.ops.bank.example/operator/alice",
		"user":                     "spiffe://perth.bank.example@melb.bank.example/sensor/web-1",
		"port":                     "spiffe://melb.bank.example:443/sensor/web-1",
		"upper-case host":          "spiffe://MELB.bank.example/sensor/web-1",
		"final dot":                "spiffe://melb.bank.example./sensor/web-1",
		"upper-case name":          "spiffe://melb.bank.example/sensor/Web-1",
		"underscore":               "spiffe://melb.bank.example/sensor/web_1",
		"escape":                   "spiffe://melb.bank.example/sensor/web%2d1",
		"query":                    "spiffe://melb.bank.example/sensor/web-1?x",
		"fragment":                 "spiffe://melb.bank.example/sensor/web-1#x",
		"hyphen first":             "spiffe://melb.bank.example/sensor/-web",
		"hyphen last":              "spiffe://melb.bank.example/sensor/web-",
		"name too long":            "spiffe://melb.bank.example/sensor/" + longest + "a",
		"site too long":            "spiffe://" + longest + "a.bank.example/sensor/web-1",
		"unknown role":             "spiffe://melb.bank.example/root/web-1",
		"role of people, machine":  "spiffe://melb.bank.example/operator/alice",
		"role of machines, person": "spiffe://ops.melb.bank.example/sensor/web-1",
		"NUL":                      "spiffe://melb.bank.example/sensor/web\x001",
		"newline":                  "spiffe://melb.bank.example/sensor/web-1\n",
		"space":                    " spiffe://melb.bank.example/sensor/web-1",
		"letter that folds to k":   "spiffe://melb.ban\u212a.example/sensor/web-1",
	}
	for name, uri := range refused {
		if got, err := pki.ParseIdentity(uri, trustDomain); err == nil || got != (pki.Identity{}) {
			t.Errorf("%s: ParseIdentity(%q) = %+v, %v", name, uri, got, err)
		}
	}
	if _, err := pki.ParseIdentity("spiffe://melb./sensor/web-1", ""); err == nil {
		t.Error("an empty trust domain was accepted")
	}
}

func TestParseAuthority(t *testing.T) {
	for uri, want := range map[string]pki.Authority{
		"spiffe://melb.bank.example":     {TrustDomain: trustDomain, Site: "melb", Class: pki.ClassMachine},
		"spiffe://ops.melb.bank.example": {TrustDomain: trustDomain, Site: "melb", Class: pki.ClassPerson},
	} {
		if got, err := pki.ParseAuthority(uri, trustDomain); err != nil || got != want || got.URI() != uri {
			t.Errorf("ParseAuthority(%q) = %+v, %v", uri, got, err)
		}
	}
	for _, uri := range []string{
		"", "spiffe://", "spiffe://bank.example", "spiffe://melb.bank.example/", "spiffe://melb.bank.example/ca",
		"spiffe://ops.bank.example", "spiffe://x.melb.bank.example", "spiffe://ops.ops.melb.bank.example",
		"spiffe://melb.bank.example:1", "https://melb.bank.example", "spiffe://melb.bank.example.",
	} {
		if got, err := pki.ParseAuthority(uri, trustDomain); err == nil || got != (pki.Authority{}) {
			t.Errorf("ParseAuthority(%q) = %+v, %v", uri, got, err)
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	f.Add("spiffe://melb.bank.example/sensor/web-1", trustDomain)
	f.Add("spiffe://ops.melb.bank.example/operator/alice", trustDomain)
	f.Add("spiffe://perth.bank.example@melb.bank.example/sensor/web-1", trustDomain)
	f.Add("spiffe://a.b/broker/c", "b")
	f.Add("spiffe://ops.b/broker/c", "b")
	f.Fuzz(func(t *testing.T, uri, trustDomain string) {
		id, err := pki.ParseIdentity(uri, trustDomain)
		if err != nil {
			if id != (pki.Identity{}) {
				t.Fatalf("an identity beside an error: %+v", id)
			}
			return
		}
		if id.URI() != uri {
			t.Fatalf("%q was read as %q", uri, id.URI())
		}
		authority, err := pki.ParseAuthority(id.Authority().URI(), trustDomain)
		if err != nil || authority != id.Authority() {
			t.Fatalf("the authority of %q is not readable: %+v, %v", uri, authority, err)
		}
		if parts := strings.Split(id.ClientID(), "_"); len(parts) != 3 {
			t.Fatalf("client ID %q does not read back", id.ClientID())
		}
	})
}
