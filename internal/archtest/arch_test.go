// Package archtest holds the architecture: who may import whom, and why. It
// has no code of its own.
package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
	Doc        string
}

// load lists the module's own packages as the Linux build sees them.
func load(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports,Deps,Doc", "levee/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := make(map[string]pkg)
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 {
			pkgs[strings.TrimPrefix(p.ImportPath, "levee/")] = p
		}
	}
}

// layers, lowest first: a package may import those below it and, within the
// layer, what peers allows.
var layers = [][]string{
	{"internal/clocks", "internal/durable", "internal/wire", "envelope/replay", "internal/translog/proof", "internal/translog/leaf", "pki", "pki/ca"},
	{"internal/enrol", "internal/renewal", "envelope", "envelope/keys", "envelope/ownkey", "pki/revocation"},
	{"policies"},
	{"internal/config", "internal/issuance", "internal/siem", "internal/site", "internal/spool"},
	{"internal/brokeradmin", "internal/bulletin", "internal/confirm", "internal/feed", "internal/metrics", "internal/presence", "internal/records", "internal/session", "internal/translog"},
	{"services/broker", "services/sensor", "services/monitor", "services/controller", "services/recorder", "services/console", "services/issuer"},
	{"internal/audit", "internal/watch", "internal/drill", "internal/daemon", "internal/export", "internal/provision"},
	{"internal/stack"},
	{"cmd"},
}

// layerOf returns the layer of a package by its longest listed prefix.
func layerOf(name string) (layer int, entry string) {
	layer = -1
	for i, names := range layers {
		for _, n := range names {
			if (name == n || strings.HasPrefix(name, n+"/")) && len(n) > len(entry) {
				layer, entry = i, n
			}
		}
	}
	return layer, entry
}

func TestImportsPointDown(t *testing.T) {
	for name, p := range load(t) {
		layer, entry := layerOf(name)
		if layer < 0 {
			if !strings.HasPrefix(name, "test/") {
				t.Errorf("%s has no layer: say in this test where it belongs, and why", name)
			}
			continue
		}
		for _, imported := range p.Imports {
			target, ours := strings.CutPrefix(imported, "levee/")
			if !ours {
				continue
			}
			below, other := layerOf(target)
			if strings.HasPrefix(target, "test/") {
				t.Errorf("%s imports %s: test support does not belong in what runs", name, target)
			}
			if below > layer || below == layer && other != entry && !slices.Contains(peers[entry], other) {
				t.Errorf("%s imports %s: imports point down", name, target)
			}
		}
	}
}

// peers are the imports allowed within a layer.
var peers = map[string][]string{
	"pki":              {"internal/durable"},
	"pki/ca":           {"pki"},
	"envelope/keys":    {"envelope", "envelope/ownkey"},
	"envelope/ownkey":  {"envelope"},
	"pki/revocation":   {"envelope"}, // a list is a signed message
	"internal/renewal": {"internal/enrol"},
	"internal/site":    {"internal/config"},
	"internal/siem":    {"internal/config"},
	"internal/feed":    {"internal/confirm", "internal/session"},
}

// onlyIn says which one package may know a library, so that replacing it, or
// surviving its defects, is one package's business.
var onlyIn = map[string]struct{ owner, reason string }{
	"github.com/mochi-mqtt/server/v2":     {"services/broker", "mochi fails open in known ways; one package survives them"},
	"github.com/eclipse/paho.mqtt.golang": {"internal/session", "paho completes tokens without acknowledgements; one package knows"},
	"github.com/transparency-dev/tessera": {"internal/translog", "Tessera starts on a damaged log; one package guards it"},
	"github.com/prometheus/client_golang": {"internal/metrics", "its default registry is a global; one package has its own, and bounds labels"},
	"software.sslmate.com/src/go-pkcs12":  {"pki/pkcs12", "its key derivation is weak; one package gives each file a passphrase of its own"},
	"golang.org/x/crypto/argon2":          {"pki/seal", "its parameters are the strength of a passphrase; one package fixes them"},
}

// alsoIn says which other package may know a library, and why.
var alsoIn = map[[2]string]string{
	{"test/bench/mochi", "github.com/mochi-mqtt/server/v2"}: "what the owner's checks cost is measured against the library without them",
}

func TestLibrariesHaveOneOwner(t *testing.T) {
	used := make(map[string]bool)
	for name, p := range load(t) {
		for _, imported := range p.Imports {
			for library, rule := range onlyIn {
				if imported != library && !strings.HasPrefix(imported, library+"/") {
					continue
				}
				used[library] = true
				if alsoIn[[2]string{name, library}] != "" {
					continue
				}
				if name != rule.owner && !strings.HasPrefix(name, rule.owner+"/") {
					t.Errorf("%s imports %s: only %s may (%s)", name, imported, rule.owner, rule.reason)
				}
			}
		}
	}
	for library := range onlyIn {
		if !used[library] {
			t.Errorf("nothing imports %s: remove its rule", library)
		}
	}
}

// mustNotLink says what a binary must not contain, however indirectly.
var mustNotLink = []struct{ binary, linked, reason string }{
	{"cmd/levee-broker", "levee/envelope/keys", "a captured broker must hold no code that derives senders' keys"},
	{"cmd/levee-sensor", "levee/envelope/keys", "a sensor seals with its own key and judges nobody"},
	{"cmd/levee-console", "levee/envelope/keys", "a console holds no key but its own, and shows what the broker passes as unverified until it is signed for"},
	{"cmd/levee-issuer", "levee/envelope/keys", "an issuer holds no key but its own"},
	{"cmd/levee-monitor", "levee/envelope/keys", ""},
	{"cmd/levee-broker", "levee/pki/ca", "a broker issues nothing"},
	{"cmd/levee-broker", "levee/internal/translog", "a broker records nothing"},
	{"cmd/levee-sensor", "levee/pki/ca", "a sensor issues nothing"},
	{"cmd/levee-sensor", "levee/services/broker", "a sensor is no broker"},
	{"cmd/levee-sensor", "levee/internal/metrics", "a sensor serves no HTTP: it runs beside what it watches"},
	{"cmd/levee-monitor", "levee/internal/metrics", ""},
	{"cmd/levee-sensor", "github.com/pquerna/otp", "a sensor approves nothing"},
	{"cmd/levee-controller", "levee/pki/ca", "a controller issues nothing"},
	{"cmd/levee-controller", "levee/services/monitor", "a controller judges commands, not readings"},
	{"cmd/levee-monitor", "levee/services/controller", "a monitor does not act"},
	{"cmd/levee-recorder", "levee/services/broker", "a recorder is no broker"},
	{"internal/siem", "levee/internal/session", "what delivers to others' systems reads no message of ours"},
	{"cmd/levee-console", "levee/pki/ca", "a console issues nothing"},
	{"cmd/levee-console", "levee/services/broker", "a console is no broker"},
	{"cmd/levee-console", "levee/services/monitor", "a console shows judgements and makes none"},
	{"cmd/levee-console", "levee/services/controller", "a console does not act"},
	{"cmd/levee-console", "levee/internal/translog", "a console records nothing"},
	{"cmd/levee-issuer", "levee/services/broker", "an issuer is no broker"},
	{"cmd/levee-issuer", "levee/services/controller", "an issuer does not act"},
	{"cmd/levee-issuer", "levee/internal/translog", "an issuer keeps its own journal, and the recorder the log"},
	{"cmd/levee-issuer", "levee/pki/ca", ""},
	{"internal/brokeradmin", "levee/services/broker", "who asks a broker needs none"},
	{"internal/issuance", "levee/pki/ca", "who verifies what was issued issues nothing"},
	{"internal/audit", "github.com/transparency-dev/tessera", "auditors verify with a second implementation"},
	{"internal/audit", "levee/internal/translog/proof", ""},
	{"internal/translog/witness", "github.com/transparency-dev/tessera", "a witness shares no code with the writer of the logs that it watches"},
	{"internal/translog/witness", "levee/internal/translog/proof", ""},
	{"internal/audit", "levee/pki/revocation", "auditors judge a message as of its time: what is revoked later changes nothing"},
}

func TestBinariesLinkNoMoreThanTheyMay(t *testing.T) {
	pkgs := load(t)
	for _, rule := range mustNotLink {
		p, ok := pkgs[rule.binary]
		if !ok {
			t.Errorf("%s is gone: remove its rule", rule.binary)
			continue
		}
		linked := slices.ContainsFunc(p.Deps, func(d string) bool { return d == rule.linked || strings.HasPrefix(d, rule.linked+"/") })
		if rule.reason == "" { // a rule's other side: this one must be there
			if !linked {
				t.Errorf("%s does not link %s", rule.binary, rule.linked)
			}
			continue
		}
		if linked {
			t.Errorf("%s links %s: %s", rule.binary, rule.linked, rule.reason)
		}
	}
}

// leaves import the standard library and what is named here, nothing else.
var leaves = map[string][]string{
	"envelope/replay":         {"golang.org/x/sys/"},
	"internal/clocks":         {"golang.org/x/sys/"},
	"internal/translog/proof": {"golang.org/x/mod/"},
	"internal/wire":           nil,
}

func TestLeavesStayLeaves(t *testing.T) {
	pkgs := load(t)
	for name, allowed := range leaves {
		p, ok := pkgs[name]
		if !ok {
			t.Errorf("%s is gone: remove its rule", name)
			continue
		}
		for _, imported := range p.Imports {
			if strings.Contains(strings.SplitN(imported, "/", 2)[0], ".") || strings.HasPrefix(imported, "levee/") {
				if !slices.ContainsFunc(allowed, func(a string) bool { return strings.HasPrefix(imported, a) }) {
					t.Errorf("%s imports %s: it is a leaf", name, imported)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItGuarantees(t *testing.T) {
	for name, p := range load(t) {
		if p.Doc == "" {
			t.Errorf("%s has no doc comment", name)
		}
		for _, catchAll := range []string{"util", "utils", "common", "helpers", "misc"} {
			if filepath.Base(name) == catchAll {
				t.Errorf("%s is a catch-all", name)
			}
		}
		for _, imported := range p.Deps {
			if imported == "testing" && !strings.HasPrefix(name, "test/") {
				t.Errorf("%s links package testing: test hooks do not belong in what runs", name)
			}
		}
	}
}
