package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/export"
	"levee/internal/feed"
	"levee/internal/provision"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/programs"
)

// foreign is an identity in the hands of somebody else's MQTT client, which
// has what `levee pki export` wrote and nothing more.
type foreign struct {
	dir    string
	id     pki.Identity
	client string // identifier
	env    []string
}

// withGuest adds a guest to the inventory.
func withGuest(inv *provision.Inventory) {
	inv.Sites[0].Guests = append(inv.Sites[0].Guests, provision.Guest{Name: "guest-1"})
}

// needMosquitto skips the test where Debian's clients are missing.
func needMosquitto(t *testing.T) {
	t.Helper()
	for _, name := range []string{"mosquitto_sub", "mosquitto_pub"} {
		programs.Need(t, name, "apt-get install mosquitto-clients")
	}
}

// export runs `levee pki export`.
func (b *bank) export(t *testing.T, role pki.Role, args ...string) *foreign {
	t.Helper()
	id, dir := b.ids[role], filepath.Join(t.TempDir(), "with blank")
	cmd := exec.Command(filepath.Join(bin, "levee"), append([]string{"pki", "export",
		"--bundle", b.layout.Bundle(id), "--to", "mosquitto", "--out", dir, "--json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("levee pki export: %v", err)
	}
	var r export.Result
	if err := json.Unmarshal(out, &r); err != nil || r.Identity != id.Sender() || r.Dir != dir {
		t.Fatalf("levee pki export prints %s (%v)", out, err)
	}
	return &foreign{dir: dir, id: id, client: r.ClientID}
}

// copy returns the same export in another directory, to be spoilt.
func (f *foreign) copy(t *testing.T) *foreign {
	t.Helper()
	spoilt := *f
	spoilt.dir = filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(spoilt.dir, os.DirFS(f.dir)); err != nil {
		t.Fatal(err)
	}
	return &spoilt
}

// write puts a file into the export's directory and returns its name.
func (f *foreign) write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(f.dir, filepath.FromSlash(name))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// command is one of Debian's clients with the options of the one broker.
func (f *foreign) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = f.dir
	cmd.Env = append(append(os.Environ(), "XDG_CONFIG_HOME=broker-1"), f.env...)
	return cmd
}

// ended is how a client ended.
type ended struct {
	out, err string // its output
	code     int
}

// run runs a client to its end.
func (f *foreign) run(t *testing.T, program string, args ...string) ended {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := f.command(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %q: %v, %v\n%s%s", program, args, err, ctx.Err(), &stdout, &stderr)
	}
	return ended{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// publish publishes a text as mosquitto_pub, and demands that it was accepted.
func (f *foreign) publish(t *testing.T, topic, text string, args ...string) {
	t.Helper()
	if got := f.run(t, "mosquitto_pub", append([]string{"-t", topic, "-m", text}, args...)...); got.code != 0 || got.err != "" {
		t.Fatalf("mosquitto_pub on %s ends with %+v", topic, got)
	}
}

// received is a message as mosquitto_sub prints it with -F %j.
type received struct{ Topic, Payload string }

// subscription is a running mosquitto_sub.
type subscription struct {
	mu  sync.Mutex
	all []received
}

// subscribe runs mosquitto_sub until the test ends.
func (f *foreign) subscribe(t *testing.T, args ...string) *subscription {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := f.command(ctx, "mosquitto_sub", append([]string{"-F", "%j"}, args...)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	s, done := new(subscription), make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			var m received
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
				t.Errorf("mosquitto_sub prints %q: %v", lines.Text(), err)
			}
			s.mu.Lock()
			s.all = append(s.all, m)
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = cmd.Wait() // killed
	})
	return s
}

// saw returns how often a message came.
func (s *subscription) saw(m received) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, got := range s.all {
		if got == m {
			n++
		}
	}
	return n
}

// refuses makes an attempt until the broker has logged its refusal: it writes a
// line for each reason once a second at most.
func refuses(t *testing.T, broker *process, want entry, attempt func(t *testing.T)) {
	t.Helper()
	before := broker.mark()
	for range 8 {
		attempt(t)
		if t.Failed() {
			return
		}
		for deadline := time.Now().Add(1100 * time.Millisecond); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if len(broker.logged(before, want)) > 0 {
				return
			}
		}
	}
	t.Errorf("the broker logs no %v", want)
}

// arrives publishes probes as f until one is seen, and so everything before it.
func arrives(t *testing.T, f *foreign, seen *lines) {
	t.Helper()
	text := "probe " + wire.NewID().String()
	f.publish(t, "public/probe", text)
	seen.await(t, 30*time.Second, text, func(l feed.Line) bool { return l.Text == text })
}

// Debian's clients, with exported files alone: what policy allows works, and
// what it forbids is refused and seen by nobody.
func TestMosquitto(t *testing.T) {
	if !goOn(t) {
		return
	}
	needMosquitto(t)
	b := newBank(t, withGuest, func(inv *provision.Inventory) {
		inv.Sites[0].Sensors = append(inv.Sites[0].Sensors, provision.Sensor{Name: "web-3"})
	})
	b.forgiving(t)
	broker := b.daemon(t, pki.RoleBroker)
	broker.awaitLog(t, 0, entry{"msg": "broker listens"})
	b.daemon(t, pki.RoleSensor)
	vera, guest := b.export(t, pki.RoleViewer), b.export(t, pki.RoleGuest)
	seen := b.watchAs(t, pki.RoleOperator)
	tap := b.tap(t)
	fence := b.fence(t, "web-3")
	fence.pass(t, tap)

	t.Run("a reading is plain JSON", func(t *testing.T) {
		for topic, members := range map[string][]string{
			"melb/bank_server/metrics/cpu/web-1":     {"timestamp", "cpu_usage"},
			"melb/bank_server/metrics/ram/web-1":     {"timestamp", "ram_usage"},
			"melb/bank_server/metrics/network/web-1": {"timestamp", "active_tcp_connections", "syn_packet_count"},
		} {
			got := vera.run(t, "mosquitto_sub", "-t", topic, "-C", "1")
			var message struct {
				V       int
				KID     string
				Topic   string
				Payload map[string]any
				MAC     string
			}
			if err := json.Unmarshal([]byte(got.out), &message); err != nil || got.code != 0 || strings.Count(got.out, "\n") != 1 {
				t.Fatalf("%+v: %v", got, err)
			}
			if message.V != 1 || message.KID != "melb/sensor/web-1/1" || message.Topic != topic || message.Payload["server"] != "web-1" || len(message.MAC) != 43 {
				t.Errorf("%+v", message)
			}
			for _, name := range members {
				if _, ok := message.Payload[name].(float64); !ok {
					t.Errorf("no number %s in %v", name, message.Payload)
				}
			}
		}
	})

	t.Run("public messages", func(t *testing.T) {
		all, itself := guest.subscribe(t, "-t", "public/#"), vera.subscribe(t, "-t", "public")
		for topic, subscribers := range map[string][]*subscription{"public/lobby": {all}, "public": {all, itself}} {
			m := received{topic, "hey from public"}
			await(t, 30*time.Second, "the guest and the viewer read "+topic, func() bool {
				vera.publish(t, topic, m.Payload, "-i", vera.id.ClientID()) // another session than the one that reads
				for _, s := range subscribers {
					if s.saw(m) == 0 {
						return false
					}
				}
				return true
			})
		}
		if itself.saw(received{"public/lobby", "hey from public"}) != 0 {
			t.Error("the filter public lets public/lobby through")
		}
	})

	const secret = "must not arrive"
	_, reading := fence.party.reading(t) // perfect, but for who sends it
	reading1 := vera.write(t, "reading", reading)
	large := vera.write(t, "large", []byte(secret+strings.Repeat("x", 4096-len(secret)+1)))
	closed, denied := entry{"reason": "not_publisher"}, entry{"reason": "not_subscriber"}
	for _, test := range []struct {
		name    string
		as      *foreign
		program string
		args    []string
		code    int    // of the program, as Debian's 2.0.11 ends; -1: any but 0
		says    string // on standard error
		want    entry
	}{
		{"a viewer subscribes to alerts", vera, "mosquitto_sub", []string{"-t", "melb/bank_server/alerts/+"}, 0, "denied", denied},
		{"a viewer subscribes to commands", vera, "mosquitto_sub", []string{"-t", "melb/bank_server/control/command/+/+"}, 0, "denied", denied},
		{"a viewer subscribes to everything", vera, "mosquitto_sub", []string{"-t", "#"}, 0, "denied", denied},
		{"a guest subscribes to readings", guest, "mosquitto_sub", []string{"-t", "melb/bank_server/metrics/cpu/+"}, 0, "denied", denied},
		{"a shared subscription", vera, "mosquitto_sub", []string{"-t", "$share/g/public/#"}, 0, "denied", entry{"reason": "filter"}},
		{"a viewer publishes a reading", vera, "mosquitto_pub", []string{"-t", "melb/bank_server/metrics/cpu/web-3", "-f", reading1}, -1, "", closed},
		{"a viewer publishes a reading at QoS 0", vera, "mosquitto_pub", []string{"-q", "0", "-t", "melb/bank_server/metrics/cpu/web-3", "-f", reading1}, 0, "", closed},
		{"a guest publishes a reading", guest, "mosquitto_pub", []string{"-t", "melb/bank_server/metrics/cpu/web-3", "-f", reading1}, -1, "", closed},
		{"a guest publishes a command", guest, "mosquitto_pub", []string{"-t", "melb/bank_server/control/command/monitor/mon-1", "-m", secret}, -1, "", closed},
		{"retained", guest, "mosquitto_pub", []string{"-r", "-t", "public/lobby", "-m", secret}, -1, "", entry{"reason": "retain"}},
		{"QoS 2", guest, "mosquitto_pub", []string{"-q", "2", "-t", "public/lobby", "-m", secret}, -1, "", entry{"reason": "qos"}},
		{"a will", guest, "mosquitto_pub", []string{"--will-topic", "public/lobby", "--will-payload", secret, "-t", "public/lobby", "-m", secret}, 5, "not authorised", entry{"reason": "will"}},
		{"a persistent session", vera, "mosquitto_sub", []string{"-c", "-t", "public/#"}, 5, "not authorised", entry{"reason": "persistent_session"}},
		{"a password", vera, "mosquitto_pub", []string{"-u", "vera", "-P", "x", "-t", "public/lobby", "-m", secret}, -1, "", entry{"reason": "credential"}},
		{"MQTT 5", vera, "mosquitto_pub", []string{"-V", "mqttv5", "-t", "public/lobby", "-m", secret}, -1, "", entry{"reason": "version"}},
		{"a keep-alive of an hour", vera, "mosquitto_pub", []string{"-k", "3600", "-t", "public/lobby", "-m", secret}, 5, "not authorised", entry{"reason": "keep_alive"}},
		{"another's client identifier", guest, "mosquitto_pub", []string{"-i", vera.client, "-t", "public/lobby", "-m", secret}, 2, "identifier rejected", entry{"reason": "client_id"}},
		{"a guest's second session", guest, "mosquitto_pub", []string{"-i", guest.client + "_2", "-t", "public/lobby", "-m", secret}, 2, "identifier rejected", entry{"reason": "client_id"}},
		{"over the size limit", vera, "mosquitto_pub", []string{"-t", "public/lobby", "-f", large}, 0, "", entry{"msg": "message refused", "reason": "size", "identity": "melb/viewer/vera", "topic": "public/lobby"}},
		{"without a certificate", vera.withoutCertificate(t), "mosquitto_pub", []string{"-t", "public/lobby", "-m", secret}, -1, "", entry{"reason": "handshake"}},
		{"a certificate of another CA", vera.ofAnotherCA(t), "mosquitto_pub", []string{"-t", "public/lobby", "-m", secret}, -1, "", entry{"reason": "certificate"}},
		{"TLS 1.2 alone", vera.ancient(t), "mosquitto_pub", []string{"--tls-version", "tlsv1.2", "-t", "public/lobby", "-m", secret}, -1, "", entry{"reason": "handshake"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			refuses(t, broker, test.want, func(t *testing.T) {
				got := test.as.run(t, test.program, test.args...)
				if test.code >= 0 && got.code != test.code || test.code < 0 && got.code == 0 || got.out != "" || !strings.Contains(got.err, test.says) {
					t.Errorf("%s ends with %+v", test.program, got)
				}
			})
		})
	}
	arrives(t, vera, seen)
	fence.pass(t, tap)
	if found := seen.matching(func(l feed.Line) bool { return strings.Contains(l.Text, secret) }); len(found) > 0 {
		t.Errorf("somebody has seen %d refused messages: %+v", len(found), found[0])
	}
	if n := tap.saw(reading); n > 0 {
		t.Errorf("the operator has seen the reading %d times", n)
	}
}

// withoutCertificate is a client that trusts the site's root and shows nothing.
func (f *foreign) withoutCertificate(t *testing.T) *foreign {
	t.Helper()
	c := f.copy(t)
	var kept []string
	text, err := os.ReadFile(filepath.Join(c.dir, "broker-1", "mosquitto_pub"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "--cert ") && !strings.HasPrefix(line, "--key ") {
			kept = append(kept, line)
		}
	}
	c.write(t, "broker-1/mosquitto_pub", []byte(strings.Join(kept, "")))
	return c
}

// ancient is a client that speaks TLS 1.2 at most. Its own option only says
// what it speaks at least.
func (f *foreign) ancient(t *testing.T) *foreign {
	t.Helper()
	c := f.copy(t)
	c.env = []string{"OPENSSL_CONF=" + c.write(t, "openssl.cnf", []byte("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nMaxProtocol = TLSv1.2\n"))}
	return c
}

// ofAnotherCA is a client whose certificate says the same, by a CA of its own.
func (f *foreign) ofAnotherCA(t *testing.T) *foreign {
	t.Helper()
	c := f.copy(t)
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	create := func(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
		template.SerialNumber = big.NewInt(time.Now().UnixNano())
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	authorityKey, leafKey := newKey(), newKey()
	authority := &x509.Certificate{Subject: pkix.Name{CommonName: "ops.melb.bank.example"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	issuer := create(authority, authority, authorityKey, authorityKey)
	uri, err := url.Parse(f.id.URI())
	if err != nil {
		t.Fatal(err)
	}
	leaf := create(&x509.Certificate{Subject: pkix.Name{CommonName: f.id.ClientID()}, URIs: []*url.URL{uri},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, issuer, leafKey, authorityKey)
	key, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	c.write(t, export.FileChain, append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Raw})...))
	c.write(t, export.FileKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	return c
}
