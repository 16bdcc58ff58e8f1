package recorder

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/config"
	"levee/internal/provision"
	"levee/internal/records"
	"levee/internal/site"
	"levee/internal/translog/proof"
	"levee/internal/translog/witness"
	"levee/pki"
)

// twoSites are melb and perth, whose recorders witness each other.
type twoSites struct {
	provision.Layout
	recorders map[string]pki.Identity
}

func newTwoSites(t *testing.T) *twoSites {
	t.Helper()
	s := &twoSites{Layout: provision.Layout{Dir: t.TempDir()}, recorders: make(map[string]pki.Identity)}
	inv := provision.Inventory{TrustDomain: "bank.example"}
	var held []net.Listener
	for i, name := range []string{"melb", "perth"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
		inv.Sites = append(inv.Sites, provision.Site{Name: name, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Brokers:  []provision.Broker{{Name: "b1", Listen: fmt.Sprint("127.0.0.1:", i+1), Address: fmt.Sprint("127.0.0.1:", i+1)}},
			Recorder: "rec-1", Log: provision.Log{Listen: l.Addr().String(), Address: l.Addr().String()},
			People: []provision.Person{{Role: pki.RoleAuditor, Name: "ann"}}})
	}
	ids, err := provision.Apply(s.Dir, inv, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if id.Role == pki.RoleRecorder {
			s.recorders[id.Site] = id
		}
	}
	for _, l := range held {
		l.Close()
	}
	return s
}

// edit replaces old in the configuration of a site's recorder.
func (s *twoSites) edit(t *testing.T, name, old, new string) {
	t.Helper()
	path := s.Config(s.recorders[name])
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), old) {
		t.Fatalf("%q is not in\n%s", old, text)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), old, new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What site document, configuration and bundle say of witnesses must fit together.
func TestWitnessesThatDoNotFit(t *testing.T) {
	t.Parallel()
	s := newTwoSites(t)
	melb, perth := s.recorders["melb"], s.recorders["perth"]
	path := s.Config(melb)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(s.Bundle(melb), records.FileWitnessKey))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.ReadFile(filepath.Join(s.Bundle(perth), records.FileWitnessKey))
	if err != nil {
		t.Fatal(err)
	}
	const name = "perth.bank.example/witness/rec-1"
	i := strings.Index(string(text), "  - name: "+name)
	entry := string(text)[i:]
	for what, tc := range map[string]struct {
		old, new string
		key      []byte
		want     string // of the error; "" if it opens, and says logged
		logged   string
	}{
		"as provisioned":                  {"", "", key, "", ""},
		"a witness of no key":             {name, "syd.bank.example/witness/rec-1", key, "has no key of it", ""},
		"its own witness":                 {name, "melb.bank.example/witness/rec-1", key, "has no key of it", ""},
		"a witness asked twice":           {entry, entry + entry, key, "asked twice", ""},
		"an interval that is none":        {"log_listen:", "witness_interval: 100ms\nlog_listen:", key, "witness_interval", ""},
		"without its key":                 {"", "", nil, records.FileWitnessKey, ""},
		"with another's key":              {"", "", theirs, "is the key of", ""},
		"nobody asked":                    {"witnesses:\n" + entry, "", key, "", "the site document needs more witnesses"},
		"nowhere to be asked, and nobody": {string(text)[strings.Index(string(text), "log_listen:"):], "", nil, "", "has no log_listen"},
	} {
		if err := os.WriteFile(path, []byte(strings.Replace(string(text), tc.old, tc.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(s.Bundle(melb), records.FileWitnessKey)
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
		if tc.key != nil {
			if err := os.WriteFile(file, tc.key, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var out bytes.Buffer
		p, err := Open(path, slog.New(slog.NewTextHandler(&out, nil)))
		if err == nil {
			_ = p.Close()
			if tc.want != "" {
				t.Errorf("%s: it opens", what)
			}
		} else if tc.want == "" || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", what, err)
		}
		if errors := strings.Count(out.String(), "level=ERROR"); (errors > 0) != (tc.logged != "") || !strings.Contains(out.String(), tc.logged) {
			t.Errorf("%s: it says\n%s", what, out.String())
		}
	}
}

// Two recorders cosign each other's logs, and an auditor reads what was cosigned.
func TestRecordersWitnessEachOther(t *testing.T) {
	t.Parallel()
	s := newTwoSites(t)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	address := ""
	for name, id := range s.recorders {
		s.edit(t, name, "log_listen:", "witness_interval: 1s\nlog_listen:")
		p, err := Open(s.Config(id), quiet())
		if err != nil {
			t.Fatal(err)
		}
		if name == "melb" {
			address = p.witnessing.server.Address()
			for _, f := range p.witnessing.families() {
				n := 0
				f.Collect(func(string, float64) { n++ })
				if n == 0 {
					t.Errorf("%s has no sample", f.Name)
				}
			}
		}
		running.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	melb := s.recorders["melb"]
	trust, err := site.OpenTrust(site.Settings{Bundle: config.Path(s.Bundle(melb))}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	log, err := proof.NewVerifier(records.LogOrigin(melb), trust.Document.LogKey)
	if err != nil {
		t.Fatal(err)
	}
	auditor := s.Bundle(pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: pki.RoleAuditor, Name: "ann"})
	store, err := pki.OpenStore(filepath.Join(auditor, site.FileKey), filepath.Join(auditor, site.FileChain), trust.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	client := dialer(store, trust.Verifier, melb)
	var raw []byte
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		response, err := client.Get("https://" + address + "/checkpoint")
		if err != nil {
			t.Fatal(err)
		}
		raw, err = io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode == http.StatusOK && !bytes.Contains(raw, []byte("\n0\n")) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d: %s", response.StatusCode, raw)
		}
	}
	cp, err := proof.OpenCheckpoint(raw, log)
	if err != nil {
		t.Fatal(err)
	}
	q := proof.Quorum{Witnesses: trust.Document.WitnessKeys, Need: trust.Document.Needed()}
	_, by, err := proof.Witnessed(os.DirFS(filepath.Join(s.State(melb), "log")), raw, log, q, cp.Tree)
	if err != nil || len(by) != 1 || by[0].Witness != "perth.bank.example/witness/rec-1" {
		t.Errorf("cosigned by %v, %v", by, err)
	}
	// Nobody but melb's recorder is taken for it, whatever its certificate's names.
	other := melb
	other.Name = "rec-2"
	if _, err := dialer(store, trust.Verifier, other).Get("https://" + address + "/checkpoint"); err == nil || !strings.Contains(err.Error(), "it is not "+other.URI()) {
		t.Errorf("got %v", err)
	}
}

// A site is not its own witness, whatever its document says.
func TestOwnWitness(t *testing.T) {
	t.Parallel()
	s := newTwoSites(t)
	for what, change := range map[string]func(*records.Settings, *site.Document){
		"its log cosigned by itself": func(settings *records.Settings, d *site.Document) {
			key, err := witness.ReadKey(filepath.Join(s.Bundle(s.recorders["melb"]), records.FileWitnessKey))
			if err != nil {
				t.Fatal(err)
			}
			d.WitnessKeys = []string{key.VKey()}
			settings.Witnesses = []records.Witness{{Name: key.Name(), Address: "127.0.0.1:1"}}
		},
		"its own log cosigned": func(_ *records.Settings, d *site.Document) { d.WitnessedLogs = []string{d.LogKey} },
	} {
		settings, bundle, c, err := load(s.Config(s.recorders["melb"]), quiet())
		if err != nil {
			t.Fatal(err)
		}
		change(&settings, bundle.Document)
		if w, err := openWitnessing(settings, bundle, bundle.Verifier, c); err == nil || !strings.Contains(err.Error(), "is of this site") {
			if err == nil {
				w.close()
			}
			t.Errorf("%s: %v", what, err)
		}
	}
}
