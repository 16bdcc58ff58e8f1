package export

import (
	"bytes"
	"encoding/json"
	"flag"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/provision"
	"levee/internal/site"
	"levee/pki"
	"levee/policies"
)

var update = flag.Bool("update", false, "write the golden pages anew")

// noon is when the test's bank was provisioned. It is long past, so that the
// golden pages stay the same: everything here takes its time from the caller.
var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func bank(t *testing.T) provision.Layout {
	t.Helper()
	return bankOf(t, noon)
}

// bankOf returns one that was made at another time.
func bankOf(t *testing.T, made time.Time) provision.Layout {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bank")
	apply(t, dir, made)
	return provision.Layout{Dir: dir}
}

func apply(t *testing.T, dir string, now time.Time) {
	t.Helper()
	inv := provision.Inventory{TrustDomain: "bank.example", Sites: []provision.Site{{
		Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fd00::/64")},
		Brokers: []provision.Broker{{Name: "broker-1", Listen: "127.0.0.1:8883", Address: "127.0.0.1:8883"},
			{Name: "broker-2", Listen: "[fd00::2]:8884", Address: "[fd00::2]:8884"}},
		Sensors:     []provision.Sensor{{Name: "web-1"}},
		Monitors:    []provision.Monitor{{Name: "mon-1"}},
		Controllers: []provision.Controller{{Name: "lb-1", Pools: []provision.Pool{{Server: "web-1", Listen: "127.0.0.1:2"}}}},
		Recorder:    "rec-1",
		Consoles:    []provision.Console{{Name: "con-1", Listen: "127.0.0.1:3"}},
		Guests:      []provision.Guest{{Name: "guest-1"}},
		People: []provision.Person{{Role: pki.RoleOperator, Name: "ann"}, {Role: pki.RoleViewer, Name: "vera"},
			{Role: pki.RoleAuditor, Name: "otto"}},
	}}}
	if _, err := provision.Apply(dir, inv, now); err != nil {
		t.Fatal(err)
	}
}

func identity(role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: role, Name: name}
}

func TestMosquitto(t *testing.T) {
	l := bank(t)
	number := func(n int) *int { return &n }
	for _, test := range []struct {
		id       pki.Identity
		session  *int
		clientID string
		read     string
		write    string
	}{
		{identity(pki.RoleViewer, "vera"), nil, "melb_viewer_vera_2", "'melb/bank_server/metrics/cpu/+'", "-i melb_viewer_vera_1 "},
		{identity(pki.RoleViewer, "vera"), number(0), "melb_viewer_vera", "'melb/bank_server/metrics/cpu/+'", "-i melb_viewer_vera_2 "},
		{identity(pki.RoleViewer, "vera"), number(1), "melb_viewer_vera_1", "'melb/bank_server/metrics/cpu/+'", "-i melb_viewer_vera "},
		{identity(pki.RoleOperator, "ann"), nil, "melb_operator_ann_2", "'melb/bank_server/metrics/cpu/+'", "-i melb_operator_ann_1 "},
		{identity(pki.RoleAuditor, "otto"), nil, "melb_auditor_otto_2", "'public/#'", "-i melb_auditor_otto_1 "},
		{identity(pki.RoleGuest, "guest-1"), nil, "melb_guest_guest-1", "'public/#'", "mosquitto_pub -t "},
	} {
		t.Run(test.clientID, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "made", "vera's")
			r, err := Mosquitto(Options{Bundle: l.Bundle(test.id), Out: out, Session: test.session}, noon)
			if err != nil {
				t.Fatal(err)
			}
			if r.Dir != out || r.Identity != test.id.Sender() || r.ClientID != test.clientID || r.Evaluation || !r.NotAfter.After(noon) {
				t.Errorf("%+v", r)
			}
			if !slices.Contains(r.Read, "public/#") || !slices.Equal(r.Publish, []string{"public/#"}) {
				t.Errorf("may read %q and publish %q", r.Read, r.Publish)
			}
			begin := `(cd '` + strings.ReplaceAll(out, "'", `'\''`) + `' && XDG_CONFIG_HOME=broker-1 mosquitto_`
			if len(r.Try) != 2 || !strings.HasPrefix(r.Try[0], begin+"sub -t "+test.read) ||
				!strings.HasPrefix(r.Try[1], begin+"pub ") || !strings.Contains(r.Try[1], test.write) {
				t.Errorf("to try: %q", r.Try)
			}
			c, err := pki.LoadCredential(filepath.Join(out, FileKey), filepath.Join(out, FileChain))
			if err != nil || c.Leaf().Subject.CommonName != test.id.ClientID() {
				t.Fatalf("%v, %v", c, err)
			}
			if root, err := pki.ReadCertificate(filepath.Join(out, FileRoot)); err != nil || c.Issuer().CheckSignatureFrom(root) != nil {
				t.Errorf("the root does not vouch for the chain: %v", err)
			}
			checkOptions(t, out, "broker-1", "127.0.0.1", "8883", test.clientID)
			checkOptions(t, out, "broker-2", "fd00::2", "8884", test.clientID)
			checkModes(t, out)
			checkSecret(t, out, r)
		})
	}
}

// checkOptions demands the options that the broker insists on, in the one form
// that mosquitto's clients read: an option, a blank, a value without blanks.
func checkOptions(t *testing.T, out, broker, host, port, clientID string) {
	t.Helper()
	want := map[string]string{"-h": host, "-p": port, "-i": clientID, "-V": "mqttv311", "-q": "1", "-k": "30",
		"--tls-version": "tlsv1.3", "--cafile": FileRoot, "--cert": FileChain, "--key": FileKey}
	for _, client := range clients {
		b, err := os.ReadFile(filepath.Join(out, broker, client))
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]string)
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			words := strings.Split(strings.TrimSuffix(line, "\n"), " ")
			if len(words) != 2 {
				t.Errorf("%s of %s: %q", client, broker, line)
				continue
			}
			got[words[0]] = words[1]
		}
		if len(got) != len(want) {
			t.Errorf("%s of %s has options %v", client, broker, got)
		}
		for option, value := range want {
			if got[option] != value {
				t.Errorf("%s of %s has %s %q, want %q", client, broker, option, got[option], value)
			}
		}
	}
}

func checkModes(t *testing.T, out string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		return
	}
	err := filepath.WalkDir(out, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode, limit := info.Mode().Perm(), fs.FileMode(0o644)
		if d.IsDir() {
			limit = 0o700
		} else if d.Name() == FileKey {
			limit = 0o600
		}
		if mode&^limit != 0 {
			t.Errorf("%s has mode %04o", path, mode)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// checkSecret demands that the key is in its own file and nowhere else.
func checkSecret(t *testing.T, out string, r *Result) {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(out, FileKey))
	if err != nil {
		t.Fatal(err)
	}
	secret := bytes.Split(key, []byte("\n"))[1] // the first line of base64
	told, err := json.Marshal(r)
	if err != nil || bytes.Contains(told, secret) {
		t.Errorf("the result tells the key: %v", err)
	}
	for _, name := range []string{FileRoot, FileChain, FileReadme, "broker-1/mosquitto_sub", "broker-1/mosquitto_pub"} {
		b, err := os.ReadFile(filepath.Join(out, filepath.FromSlash(name)))
		if err != nil || bytes.Contains(b, secret) {
			t.Errorf("%s holds the key: %v", name, err)
		}
	}
}

func TestReadme(t *testing.T) {
	l := bank(t)
	for _, id := range []pki.Identity{identity(pki.RoleViewer, "vera"), identity(pki.RoleGuest, "guest-1")} {
		out := filepath.Join(t.TempDir(), "out")
		if _, err := Mosquitto(Options{Bundle: l.Bundle(id), Out: out}, noon); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(out, FileReadme))
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", string(id.Role)+".txt")
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s says something else; review, then run: go test ./internal/export -args -update\n%s", golden, got)
		}
	}
}

// The page says what the site's own policy grants, not what ours does.
func TestPolicyOfTheBundle(t *testing.T) {
	l := bank(t)
	text := string(policies.Default())
	at := strings.Index(text, "\n  viewer:\n")
	viewer := text[at:]
	for old, new := range map[string]string{
		`- "public/#"` + "\n    subscribe:":                      `- "public/lobby/+"` + "\n    subscribe:",
		`      - "{site}/bank_server/status/scaling/+"` + "\n":   "",
		`- "public/#"` + "\n    limits: {messages_per_second: 5": `- "public/lobby/+"` + "\n    limits: {messages_per_second: 3",
	} {
		if !strings.Contains(viewer, old) {
			t.Fatalf("the default policy has no %q", old)
		}
		viewer = strings.Replace(viewer, old, new, 1)
	}
	if err := os.WriteFile(filepath.Join(l.Authority(), "melb", site.FilePolicy), []byte(text[:at]+viewer), 0o600); err != nil {
		t.Fatal(err)
	}
	apply(t, l.Dir, noon)
	out := filepath.Join(t.TempDir(), "out")
	r, err := Mosquitto(Options{Bundle: l.Bundle(identity(pki.RoleViewer, "vera")), Out: out}, noon)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(out, FileReadme))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.Publish, []string{"public/lobby/+"}) || strings.Contains(string(page), "status/scaling") ||
		strings.Contains(string(page), "public/#") || !strings.Contains(string(page), "\n  3 messages a second") {
		t.Errorf("%+v\n%s", r, page)
	}
	if len(r.Try) != 1 || strings.Contains(r.Try[0], "mosquitto_pub") { // public/lobby itself is not granted
		t.Errorf("to try: %q", r.Try)
	}
}

func TestRefusals(t *testing.T) {
	l := bank(t)
	vera, guest := identity(pki.RoleViewer, "vera"), identity(pki.RoleGuest, "guest-1")
	number := func(n int) *int { return &n }
	replace := func(name string, from pki.Identity) func(*testing.T, *Options) {
		return func(t *testing.T, o *Options) {
			b, err := os.ReadFile(filepath.Join(l.Bundle(from), name))
			if err == nil {
				err = os.WriteFile(filepath.Join(o.Bundle, name), b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	of := func(id pki.Identity) func(*testing.T, *Options) {
		return func(_ *testing.T, o *Options) { o.Bundle = l.Bundle(id) }
	}
	at := func(id pki.Identity, n int) func(*testing.T, *Options) {
		return func(_ *testing.T, o *Options) { o.Bundle, o.Session = l.Bundle(id), number(n) }
	}
	for _, test := range []struct {
		name   string
		change func(*testing.T, *Options)
		now    time.Time
		want   string
	}{
		{"a sensor", of(identity(pki.RoleSensor, "web-1")), noon, "melb/sensor/web-1 is a part of the site"},
		{"a broker", of(identity(pki.RoleBroker, "broker-1")), noon, "part of the site"},
		{"a monitor", of(identity(pki.RoleMonitor, "mon-1")), noon, "part of the site"},
		{"a controller", of(identity(pki.RoleController, "lb-1")), noon, "part of the site"},
		{"a recorder", of(identity(pki.RoleRecorder, "rec-1")), noon, "part of the site"},
		{"a console", of(identity(pki.RoleConsole, "con-1")), noon, "part of the site"},
		{"a guest's second session", at(guest, 1), noon, "leave --session out"},
		{"a guest's first session by number", at(guest, 0), noon, "leave --session out"},
		{"session -1", at(vera, -1), noon, "not 0 to 2"},
		{"the session of levee up", at(vera, 3), noon, "not 0 to 2"},
		{"no bundle", func(_ *testing.T, o *Options) { o.Bundle = "" }, noon, "names no bundle"},
		{"a bundle that is not there", func(_ *testing.T, o *Options) { o.Bundle += "x" }, noon, "name the bundle of a person or a guest"},
		{"a bundle without its key", func(t *testing.T, o *Options) {
			if err := os.Remove(filepath.Join(o.Bundle, site.FileKey)); err != nil {
				t.Fatal(err)
			}
		}, noon, site.FileKey},
		{"an expired certificate", func(*testing.T, *Options) {}, noon.Add(91 * 24 * time.Hour), "fetch a new bundle from the deployer"},
		{"a certificate from the future", func(*testing.T, *Options) {}, noon.Add(-24 * time.Hour), ""},
		{"another's certificate", replace(site.FileChain, guest), noon, "does not belong"},
		{"another's key", replace(site.FileKey, guest), noon, "does not belong"},
		{"another policy", func(t *testing.T, o *Options) {
			if err := os.WriteFile(filepath.Join(o.Bundle, site.FilePolicy), append(policies.Default(), '\n'), 0o600); err != nil {
				t.Fatal(err)
			}
		}, noon, "not the policy that the site document names"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := Options{Bundle: filepath.Join(t.TempDir(), "bundle"), Out: filepath.Join(t.TempDir(), "out")}
			if err := os.CopyFS(o.Bundle, os.DirFS(l.Bundle(vera))); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(o.Bundle, site.FileKey), 0o600); err != nil { // CopyFS adds to the mode
				t.Fatal(err)
			}
			test.change(t, &o)
			r, err := Mosquitto(o, test.now)
			if err == nil || r != nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%+v, %v", r, err)
			}
			if entries, err := os.ReadDir(filepath.Dir(o.Out)); err != nil || len(entries) > 0 {
				t.Errorf("a refusal leaves %v, %v", entries, err)
			}
		})
	}
}

// Nothing that lies at the destination is written over or read by others.
func TestDestination(t *testing.T) {
	l := bank(t)
	bundle := l.Bundle(identity(pki.RoleViewer, "vera"))
	for name, make := range map[string]func(out string) error{
		"a file": func(out string) error { return os.WriteFile(out, nil, 0o600) },
		"a directory with something in it": func(out string) error {
			return os.MkdirAll(filepath.Join(out, "kept"), 0o700)
		},
		"a link to an empty directory": func(out string) error {
			return os.Symlink(t.TempDir(), out)
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			if err := make(out); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(out)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Mosquitto(Options{Bundle: bundle, Out: out}, noon); err == nil || !strings.Contains(err.Error(), "choose another --out") {
				t.Error(err)
			}
			entries, err := os.ReadDir(filepath.Dir(out))
			if err != nil || len(entries) != 1 {
				t.Errorf("beside it: %v, %v", entries, err)
			}
			if after, err := os.Lstat(out); err != nil || !os.SameFile(before, after) {
				t.Errorf("it was replaced: %v", err)
			}
		})
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(out, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(out, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Mosquitto(Options{Bundle: bundle, Out: out}, noon); err != nil {
		t.Fatal(err)
	}
	checkModes(t, out)
	if _, err := Mosquitto(Options{Bundle: bundle, Out: out}, noon); err == nil {
		t.Error("exported twice to the same place")
	}
}
