package explain

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/provision"
	"levee/pki"
	"levee/pki/ca"
	"levee/pki/seal"
)

var noon = time.Now().Truncate(time.Second)

// bank provisions a site, and returns its directory.
func bank(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bank")
	_, err := provision.Apply(dir, provision.Inventory{TrustDomain: "bank.example", Sites: []provision.Site{{
		Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Brokers:  []provision.Broker{{Name: "b1", Listen: "127.0.0.1:1", Address: "127.0.0.1:1"}},
		Recorder: "rec-1", People: []provision.Person{{Role: pki.RoleOperator, Name: "ann"}},
	}}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func judge(t testing.TB, dir string, now time.Time) *Trust {
	t.Helper()
	root := FindRoot(filepath.Join(dir, "authority", "melb", "site.json"))
	trust, err := NewTrust(root, now)
	if err != nil || root == nil {
		t.Fatal(root, err)
	}
	return trust
}

// No file of ours shows a byte of a private key, and none is refused.
func TestEveryFile(t *testing.T) {
	t.Parallel()
	dir := bank(t)
	kinds := make(map[string]int)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		name := filepath.Base(path)
		if err != nil || d.IsDir() || filepath.Ext(path) == ".yaml" || name == "first-start" || name == "new-log" || name == "SHA256SUMS" || name == "log.key" {
			return err
		}
		e, err := File(path, judge(t, dir, noon))
		if err != nil {
			return err
		}
		shown, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if !e.Good() {
			t.Errorf("%s: %s", path, shown)
		}
		for _, item := range e.Items {
			kinds[item.Kind]++
		}
		text, err := os.ReadFile(path)
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if body := base64.StdEncoding.EncodeToString(block.Bytes); strings.Contains(block.Type, "KEY") &&
				(strings.Contains(string(shown), body[:24]) || strings.Contains(string(shown), body[len(body)-24:])) {
				t.Errorf("%s shows its key", path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]int{"root certificate": 4, "certificate of a machine": 2, "certificate of a person": 1, "issuing authority's certificate": 2 + 3,
		"private key, not sealed": 3 + 3, "envelope keys": 0, KindDocument: 4, "journal of what an authority issued": 4} {
		if kinds[kind] != want && want > 0 {
			t.Errorf("%d times %s", kinds[kind], kind)
		}
	}
}

// What a part would refuse is called refused, with the reason.
func TestRefused(t *testing.T) {
	t.Parallel()
	dir, other := bank(t), bank(t)
	chain := filepath.Join(dir, "bundles/melb/broker/b1/tls.pem")
	for name, test := range map[string]struct {
		path  string
		trust *Trust
		want  string
	}{
		"expired":              {chain, judge(t, dir, noon.Add(pki.MaxMachineLifetime+time.Hour)), "expired"},
		"not valid yet":        {chain, judge(t, dir, noon.Add(-time.Hour)), "not yet valid"},
		"another root":         {chain, judge(t, other, noon), "chain refused"},
		"another root's":       {filepath.Join(dir, "authority/root.pem"), judge(t, other, noon), "another root"},
		"a document":           {filepath.Join(dir, "authority/melb/site.json"), judge(t, other, noon), "does not end in our root"},
		"a journal":            {filepath.Join(dir, "authority/melb/issued.people"), judge(t, other, noon), "does not end in our root"},
		"an expired authority": {filepath.Join(dir, "authority/melb/people-ca.pem"), judge(t, dir, noon.AddDate(3, 0, 0)), "expired"},
	} {
		e, err := File(test.path, test.trust)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		shown, err := json.Marshal(e)
		if err != nil || e.Good() || !strings.Contains(string(shown), test.want) {
			t.Errorf("%s: %s, %v", name, shown, err)
		}
	}
	// A chain whose leaf somebody else signed.
	mixed := filepath.Join(t.TempDir(), "tls.pem")
	leaf, _ := pem.Decode(mustRead(t, chain))
	authority := mustRead(t, filepath.Join(other, "authority/melb/machine-ca.pem"))
	if err := os.WriteFile(mixed, append(pem.EncodeToMemory(leaf), authority...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, trust := range []*Trust{judge(t, dir, noon), {now: noon}} { // with and without a root
		if e, err := File(mixed, trust); err != nil || e.Good() {
			t.Errorf("%+v, %v", e, err)
		}
	}
}

// Without a root nothing is called verified.
func TestUnverified(t *testing.T) {
	t.Parallel()
	dir := bank(t)
	trust, err := NewTrust(nil, noon)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"bundles/melb/broker/b1/tls.pem", "authority/root.pem", "authority/melb/site.json", "authority/melb/issued.machine"} {
		e, err := File(filepath.Join(dir, path), trust)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range e.Items {
			if !item.Unverified {
				t.Errorf("%s: %s was verified by nothing", path, item.Kind)
			}
		}
	}
}

func TestSealedAndUnknown(t *testing.T) {
	t.Parallel()
	key, err := ca.NewAuthorityKey()
	if err != nil {
		t.Fatal(err)
	}
	p, err := seal.NewPassphrase([]byte("correct horse battery staple"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := ca.SealKey(key, p)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := NewTrust(nil, noon)
	if err != nil {
		t.Fatal(err)
	}
	if items, err := trust.explain(sealed); err != nil || len(items) != 1 || items[0].Kind != "sealed private key" {
		t.Errorf("%+v, %v", items, err)
	}
	for _, text := range []string{"hello", "{}", "-----BEGIN NOTHING-----\n-----END NOTHING-----\n", "-----BEGIN CERTIFICATE-----\n", "\x30\x00"} {
		if items, err := trust.explain([]byte(text)); err == nil {
			t.Errorf("%q is %+v", text, items)
		}
	}
}

// What a file says steers no terminal.
func TestPrintable(t *testing.T) {
	t.Parallel()
	key, err := ca.NewAuthorityKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "\x1b[2Jann\u202e"}, NotAfter: noon.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	items, err := (&Trust{now: noon}).explain(der)
	if err != nil || len(items) != 1 || !slices.Contains(items[0].Facts, Fact{"common name", "?[2Jann?"}) {
		t.Errorf("%+v, %v", items, err)
	}
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whatever a file holds, explaining it ends, and shows nothing that a terminal
// would obey.
func FuzzExplain(f *testing.F) {
	dir := bank(f)
	for _, path := range []string{"bundles/melb/broker/b1/tls.pem", "authority/melb/site.json", "authority/melb/issued.people", "authority/root.pem"} {
		f.Add(mustRead(f, filepath.Join(dir, path)))
	}
	block, _ := pem.Decode(mustRead(f, filepath.Join(dir, "authority/root.pem")))
	f.Add(block.Bytes)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, r := range []*x509.Certificate{nil, root} {
			trust, err := NewTrust(r, noon)
			if err != nil {
				t.Fatal(err)
			}
			items, err := trust.explain(text)
			if err != nil {
				continue
			}
			for _, item := range items {
				for _, s := range append([]string{item.Kind}, item.Refused...) {
					if s != printable(s) {
						t.Errorf("%q", s)
					}
				}
				for _, fact := range item.Facts {
					if fact.Value != printable(fact.Value) {
						t.Errorf("%q", fact.Value)
					}
				}
				for _, s := range item.May {
					if s != printable(s) {
						t.Errorf("%q", s)
					}
				}
			}
		}
	})
}
