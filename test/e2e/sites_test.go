package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/feed"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/processes"
	"levee/test/programs"
	"levee/test/rawmqtt"
)

// carried is one site whose bundles were carried away from the deployer, each
// to a directory of its own.
type carried struct {
	name     string
	bundles  map[string]string // by "role/name"
	broker   string            // address
	balancer string            // address of web-1's pool
	daemons  map[string]*process
	seen     *lines
}

// issue runs the deployer's script on the inventory to begin with, on free
// ports, and carries every bundle away.
func issue(t *testing.T) map[string]*carried {
	t.Helper()
	bash := programs.Need(t, "bash", "apt-get install bash")
	dir := t.TempDir()
	inventory, bank := filepath.Join(dir, "inventory.yaml"), filepath.Join(dir, "bank")
	if out, err := exec.Command(filepath.Join(bin, "levee"), "pki", "init", inventory).CombinedOutput(); err != nil {
		t.Fatalf("levee pki init: %v\n%s", err, out)
	}
	text, err := os.ReadFile(inventory)
	if err != nil {
		t.Fatal(err)
	}
	ports := make(map[string]string) // each address stands where it binds and where it is dialled
	moved := regexp.MustCompile(`127\.0\.0\.1:\d+`).ReplaceAllFunc(text, func(old []byte) []byte {
		if ports[string(old)] == "" {
			ports[string(old)] = freePort(t)
		}
		return []byte(ports[string(old)])
	})
	if err := os.WriteFile(inventory, moved, 0o600); err != nil {
		t.Fatal(err)
	}
	script := exec.Command(bash, filepath.Join("..", "..", "scripts", "issue-certs.sh"), inventory, bank, "--unsealed")
	script.Env = append(os.Environ(), "LEVEE="+filepath.Join(bin, "levee"))
	if out, err := script.CombinedOutput(); err != nil {
		t.Fatalf("scripts/issue-certs.sh: %v\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(bank, "bundles", "*", "*", "*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no bundles: %v", err)
	}
	sites := map[string]*carried{
		"melb":  {name: "melb", broker: ports["127.0.0.1:18883"], balancer: ports["127.0.0.1:18081"]},
		"perth": {name: "perth", broker: ports["127.0.0.1:28883"], balancer: ports["127.0.0.1:28081"]},
	}
	for _, from := range found {
		role, name := filepath.Base(filepath.Dir(from)), filepath.Base(from)
		s := sites[filepath.Base(filepath.Dir(filepath.Dir(from)))]
		if s.bundles == nil {
			s.bundles, s.daemons = make(map[string]string), make(map[string]*process)
		}
		to := filepath.Join(t.TempDir(), "etc", "levee")
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
		s.bundles[role+"/"+name] = to
	}
	if err := os.RemoveAll(bank); err != nil { // nobody needs the deployer any more
		t.Fatal(err)
	}
	return sites
}

// run starts every daemon of the site from its bundle alone, and a watcher.
func (s *carried) run(t *testing.T) {
	t.Helper()
	for _, part := range []string{"broker/broker-1", "recorder/recorder-1", "controller/balancer-1", "monitor/monitor-1", "sensor/web-1", "sensor/web-2"} {
		role, _, _ := strings.Cut(part, "/")
		config := filepath.Join(s.bundles[part], "levee-"+role+".yaml")
		switch role {
		case "sensor":
			processes.Edit(t, config, "interval: 5s", "interval: 1s\ndigest_interval: 3s")
		case "monitor":
			processes.Edit(t, config, "mode: act", "mode: act\nhold: 2s\ndigest_interval: 3s")
		}
		s.daemons[part] = start(t, "levee-"+role, "--config", config)
		if role == "broker" {
			s.daemons[part].awaitLog(t, 0, entry{"msg": "broker listens"})
			s.seen = watchBundle(t, s.bundles["operator/alice"])
		}
	}
}

// chain requires that the site's own chain ran: readings of both sensors, an
// alert, the command that answers it, its success.
func (s *carried) chain(t *testing.T) {
	t.Helper()
	for _, sensor := range []string{"web-1", "web-2"} {
		s.seen.await(t, 60*time.Second, s.name+"'s readings of "+sensor+" are confirmed", func(l feed.Line) bool {
			return l.Kind == "confirmation" && l.Verification == "confirmed" && l.Sender == s.name+"/sensor/"+sensor && l.Seen >= 3
		})
	}
	var alert wire.Alert
	s.seen.await(t, 60*time.Second, s.name+"'s alert", func(l feed.Line) bool {
		return l.Verification == feed.Verified && l.Kind == wire.KindAlert.String() && json.Unmarshal(l.Payload, &alert) == nil &&
			(alert.Alert == wire.AlertSYN || alert.Alert == wire.AlertConnections)
	})
	var status wire.Status
	s.seen.await(t, 60*time.Second, s.name+"'s command succeeds", func(l feed.Line) bool {
		return l.Verification == feed.Verified && l.Kind == wire.KindRateLimiting.String() && json.Unmarshal(l.Payload, &status) == nil &&
			status.Status == wire.StatusSuccess && status.State == wire.StateActive
	})
}

// Two sites from one inventory: both chains run, from bundles that were carried
// to directories of their own, and nothing of one reaches the other.
func TestTwoSites(t *testing.T) {
	if !goOn(t) {
		return
	}
	sites := issue(t)
	melb, perth := sites["melb"], sites["perth"]
	melb.run(t)
	perth.run(t)
	// The sensors of both sites watch this one machine: one flood is both's.
	flood := exec.Command(filepath.Join(bin, "levee"), "drill", "flood", "--target", melb.balancer, "--rate", "600", "--duration", "20s")
	flooded := make(chan string, 1)
	go func() {
		out, err := flood.CombinedOutput()
		flooded <- fmt.Sprintf("%s%v", out, err)
	}()
	melb.chain(t)
	perth.chain(t)
	if report := <-flooded; !strings.Contains(report, "first refusal after") {
		t.Errorf("the drill reports:\n%s", report)
	}

	for _, pair := range [][2]*carried{{melb, perth}, {perth, melb}} {
		t.Run(pair[1].name+"'s credentials at "+pair[0].name, func(t *testing.T) { pair[0].refuses(t, pair[1]) })
	}
	t.Run("perth's address leads to melb", func(t *testing.T) { perth.misled(t, melb) })

	for _, s := range []*carried{melb, perth} {
		for _, part := range []string{"sensor/web-1", "sensor/web-2", "monitor/monitor-1", "controller/balancer-1", "recorder/recorder-1", "broker/broker-1"} {
			s.daemons[part].Stop(t)
		}
		recorder := filepath.Join(s.bundles["recorder/recorder-1"], "levee-recorder.yaml")
		if out, err := exec.Command(filepath.Join(bin, "levee"), "audit", "verify", "--config", recorder).CombinedOutput(); err != nil {
			t.Errorf("the record of %s: %v\n%s", s.name, err, out)
		}
	}
	melb.holdsNothingOf(t, "perth")
	perth.holdsNothingOf(t, "melb")
}

// refuses tries every credential of another site at the broker, as itself and
// as its namesake here.
func (s *carried) refuses(t *testing.T, other *carried) {
	broker := s.daemons["broker/broker-1"]
	before := broker.mark()
	roots := x509.NewCertPool()
	root, err := pki.ReadCertificate(filepath.Join(s.bundles["broker/broker-1"], site.FileRoot))
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(root)
	tried := 0
	for who, bundle := range other.bundles {
		c, err := pki.LoadCredential(filepath.Join(bundle, site.FileKey), filepath.Join(bundle, site.FileChain))
		if err != nil {
			t.Fatal(err)
		}
		cert := c.TLS()
		own := strings.ReplaceAll(other.name+"/"+who, "/", "_")
		for _, clientID := range []string{own, s.name + strings.TrimPrefix(own, other.name)} {
			conn, err := net.Dial("tcp", s.broker)
			if err != nil {
				t.Fatal(err)
			}
			client := rawmqtt.New(tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: s.name + ".bank.example",
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }}))
			if code, err := client.Connect(rawmqtt.ConnectOptions{ClientID: clientID, KeepAlive: 60}); err == nil {
				t.Errorf("%s of %s as %s: CONNACK %d", who, other.name, clientID, code)
			} else if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s of %s as %s: no answer: %v", who, other.name, clientID, err)
			}
			client.Close()
			tried++
		}
	}
	if tried != 2*11 {
		t.Errorf("%d attempts", tried)
	}
	if len(broker.logged(before, entry{"reason": "certificate"})) == 0 {
		t.Error("the broker logs no refused certificate")
	}
}

// misled puts the other site's broker where this site's was: its parts must
// not take it for theirs.
func (s *carried) misled(t *testing.T, other *carried) {
	marks := make(map[string]mark)
	for part, p := range s.daemons {
		marks[part] = p.mark()
	}
	theirs := other.daemons["broker/broker-1"]
	theirMark := theirs.mark()
	s.daemons["broker/broker-1"].Kill(t)
	l, err := net.Listen("tcp", s.broker)
	if err != nil {
		t.Fatal(err)
	}
	go forward(l, other.broker)
	shown := len(s.seen.matching(func(feed.Line) bool { return true }))
	for part, p := range s.daemons {
		if part == "broker/broker-1" {
			continue
		}
		await(t, 60*time.Second, s.name+"'s "+part+" refuses "+other.name+"'s broker", func() bool {
			return slices.ContainsFunc(p.logged(marks[part], entry{"msg": "not connected"}), func(e entry) bool {
				text, _ := e["error"].(string)
				return strings.Contains(text, "certificate")
			})
		})
		if n := len(p.logged(marks[part], entry{"msg": "connected"})); n != 0 {
			t.Errorf("%s's %s connected to %s's broker", s.name, part, other.name)
		}
	}
	if after := s.seen.matching(func(feed.Line) bool { return true }); len(after) != shown {
		t.Errorf("%s's watcher was shown %+v", s.name, after[shown:])
	}
	if opened := theirs.logged(theirMark, entry{"msg": "session opened"}); len(opened) != 0 {
		t.Errorf("%s's broker opened %v", other.name, opened)
	}
	l.Close()
	// With their own broker back they are themselves again.
	broker := start(t, "levee-broker", "--config", filepath.Join(s.bundles["broker/broker-1"], "levee-broker.yaml"))
	s.daemons["broker/broker-1"] = broker
	for part, p := range s.daemons {
		if part != "broker/broker-1" {
			p.awaitLog(t, marks[part], entry{"msg": "connected"})
		}
	}
}

// forward copies bytes between whoever connects to l and an address.
func forward(l net.Listener, address string) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", address)
		if err != nil {
			from.Close()
			continue
		}
		go func() { io.Copy(to, from); to.Close() }()
		go func() { io.Copy(from, to); from.Close() }()
	}
}

// holdsNothingOf requires that nothing that this site's watcher saw, its
// recorder kept or its parts remember names the other site as a sender.
func (s *carried) holdsNothingOf(t *testing.T, other string) {
	t.Helper()
	foreign := s.seen.matching(func(l feed.Line) bool {
		return !strings.HasPrefix(l.Topic, s.name+"/") && l.Kind != "confirmation" || l.Sender != "" && !strings.HasPrefix(l.Sender, s.name+"/")
	})
	if len(foreign) > 0 {
		t.Errorf("%s's watcher saw %+v", s.name, foreign)
	}
	kept := 0
	for _, part := range []string{"recorder/recorder-1", "broker/broker-1", "monitor/monitor-1", "controller/balancer-1"} {
		err := filepath.WalkDir(filepath.Join(s.bundles[part], "state"), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if bytes.Contains(b, []byte(other+"/")) {
				t.Errorf("%s's %s holds something of %s in %s", s.name, part, other, path)
			}
			kept += bytes.Count(b, []byte(s.name+"/sensor/"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if kept == 0 {
		t.Errorf("%s's parts hold nothing of their own: the search would find nothing", s.name)
	}
}
