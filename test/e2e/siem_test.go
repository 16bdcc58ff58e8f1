package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/feed"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/programs"
)

// rsyslog is Debian's syslog server, as a SIEM's collector: over TLS, to clients
// whose certificate it knows, each message a line of a file.
type rsyslog struct {
	program, dir, address string
}

// newRsyslog skips the test where Debian's packages are missing.
func newRsyslog(t *testing.T) *rsyslog {
	t.Helper()
	const source = "apt-get install rsyslog rsyslog-openssl"
	r := &rsyslog{program: programs.Need(t, "rsyslogd", source), dir: t.TempDir(), address: steadyPorts(t, 1)[0]}
	if drivers, _ := filepath.Glob("/usr/lib/*/rsyslog/lmnsd_ossl.so"); len(drivers) == 0 {
		programs.Missing(t, "rsyslog's driver for OpenSSL", source)
	}
	authority := r.certificates(t)
	_, port, _ := strings.Cut(r.address, ":")
	r.write(t, "rsyslog.conf", fmt.Appendf(nil, `global(workDirectory=%q maxMessageSize="8k" defaultNetstreamDriver="ossl"
  defaultNetstreamDriverCAFile=%q defaultNetstreamDriverCertFile=%q defaultNetstreamDriverKeyFile=%q)
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="x509/name" permittedPeer=["recorder.siem.example"])
input(type="imtcp" address="127.0.0.1" port=%q)
template(name="parts" type="string" string="%%pri%%\t%%hostname%%\t%%app-name%%\t%%msgid%%\t%%msg%%\n")
action(type="omfile" file=%q template="parts")
`, r.dir, authority, r.path("server.pem"), r.path("server.key"), port, r.path("received")))
	return r
}

func (r *rsyslog) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rsyslog) write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(r.path(name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificates writes an authority that has nothing to do with levee, and what it
// issues to the server and to the recorder.
func (r *rsyslog) certificates(t *testing.T) (authority string) {
	t.Helper()
	var parent *x509.Certificate
	var by *ecdsa.PrivateKey
	for i, name := range []string{"authority", "server", "recorder"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name + ".siem.example"}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: i == 0}
		if i == 0 {
			template.KeyUsage = x509.KeyUsageCertSign
			parent, by = template, key
		} else {
			template.DNSNames, template.KeyUsage = []string{name + ".siem.example"}, x509.KeyUsageDigitalSignature
			template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		r.write(t, name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		r.write(t, name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	}
	return r.path("authority.pem")
}

func (r *rsyslog) start(t *testing.T) *process {
	t.Helper()
	return startCommand(t, exec.Command(r.program, "-n", "-f", r.path("rsyslog.conf"), "-i", r.path("pid")))
}

// received returns the lines of one kind of event: priority, host, program and
// message, or those that no kind fits.
func (r *rsyslog) received(kind string) (lines []string) {
	b, _ := os.ReadFile(r.path("received"))
	for line := range strings.Lines(string(b)) {
		if parts := strings.Split(strings.TrimSuffix(line, "\n"), "\t"); len(parts) == 5 && parts[3] == kind {
			lines = append(lines, strings.Join(slices.Delete(parts, 3, 4), " "))
		} else if len(parts) != 5 && kind == "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// A bank's collector hears of a site: an alert that a monitor raised arrives once,
// as one line of CEF, and so does what was tried on the site. While the collector
// is away nothing is lost, and the recorder goes on.
func TestSIEM(t *testing.T) {
	t.Parallel()
	server := newRsyslog(t)
	b := newBank(t)
	config := b.layout.Config(b.ids[pki.RoleRecorder])
	file, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	file = fmt.Appendf(file, "siem:\n  address: %s\n  server_name: server.siem.example\n  ca: %s\n  certificate: %s\n  key: %s\n",
		server.address, server.path("authority.pem"), server.path("recorder.pem"), server.path("recorder.key"))
	if err := os.WriteFile(config, file, 0o600); err != nil {
		t.Fatal(err)
	}
	collector := server.start(t)
	broker := b.daemon(t, pki.RoleBroker)
	broker.awaitLog(t, 0, entry{"msg": "broker listens"})
	recorder, monitor := b.daemon(t, pki.RoleRecorder), b.daemon(t, pki.RoleMonitor)
	recorder.awaitLog(t, 0, entry{"msg": "the SIEM is connected"})
	for _, p := range []*process{recorder, monitor} {
		p.awaitLog(t, 0, entry{"msg": "connected"})
	}

	seen := b.watchAs(t, pki.RoleOperator)

	// A sensor whose server is busy, until the monitor says so, and then is not.
	sensor := b.steal(t, pki.RoleSensor, "web-1")
	line := b.connect(t, sensor)
	read := func(usage float64) {
		topic := sensor.topic(wire.KindCPU)
		publish(t, line, topic, sensor.seal(t, sensor.header(topic), sensor.cpu(usage)))
		time.Sleep(500 * time.Millisecond)
	}
	await(t, 30*time.Second, "the collector has the alert", func() bool {
		read(99)
		return len(server.received("alert_raised")) > 0
	})
	alerts := server.received("alert_raised")
	if len(alerts) != 1 || !strings.HasPrefix(alerts[0], "83 melb.bank.example levee CEF:0|levee|levee recorder|") ||
		!strings.Contains(alerts[0], "|alert_raised|Alert raised|8|rt=") || !strings.Contains(alerts[0], " suser=melb/monitor/mon-1 dhost=web-1 ") ||
		!strings.Contains(alerts[0], " msg=CPU usage exceeded threshold: ") {
		t.Errorf("received %q", alerts)
	}

	// What is tried on the site is heard of: a message that somebody changed.
	at := recorder.mark()
	topic := sensor.topic(wire.KindRAM)
	raw := sensor.seal(t, sensor.header(topic), &wire.RAM{Timestamp: unixSeconds(time.Now()), Server: "web-1", RAMUsage: 10})
	publish(t, line, topic, flip(t, raw, `"ram_usage":`))
	recorder.awaitLog(t, at, entry{"msg": "message refused", "reason": "mac"})
	await(t, 20*time.Second, "the collector hears of the refusal", func() bool {
		lines := server.received("message_refused")
		return len(lines) > 0 && strings.Contains(lines[0], " suser=melb/sensor/web-1 reason=mac ")
	})

	// The collector is away when the alert ends.
	at = recorder.mark()
	collector.Stop(t)
	recorder.awaitLog(t, at, entry{"msg": "the SIEM is not connected; events wait"})
	await(t, 60*time.Second, "the alert ends", func() bool {
		read(1)
		return len(seen.matching(func(l feed.Line) bool {
			return l.Kind == wire.KindAlert.String() && strings.Contains(string(l.Payload), `"state":"ended"`)
		})) > 0
	})
	server.start(t)
	await(t, 60*time.Second, "the collector has what it missed", func() bool { return len(server.received("alert_ended")) > 0 })

	recorder.Stop(t)
	await(t, 20*time.Second, "the collector has the recorder's end", func() bool { return len(server.received("recorder_stopped")) > 0 })
	if torn := server.received(""); len(torn) > 0 {
		t.Errorf("torn: %q", torn)
	}
	for _, p := range []*process{monitor, broker} {
		p.Stop(t)
	}
}
