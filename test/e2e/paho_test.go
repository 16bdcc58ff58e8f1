package e2e

import (
	"context"
	"encoding/json"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"levee/internal/feed"
	"levee/pki"
	"levee/test/programs"
)

// pythonWithPaho finds a Python that has Eclipse's client, which Debian gives
// to its own Python alone.
func pythonWithPaho(t *testing.T) string {
	t.Helper()
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(python, "-c", "import paho.mqtt.client").Run() == nil {
			return python
		}
	}
	programs.Missing(t, "paho-mqtt for Python", "apt-get install python3-paho-mqtt")
	return ""
}

// A second foreign client, with another TLS and another MQTT library than
// Debian's mosquitto: the essentials are the same.
func TestPaho(t *testing.T) {
	if !goOn(t) {
		return
	}
	python := pythonWithPaho(t)
	b := newBank(t, withGuest)
	broker := b.daemon(t, pki.RoleBroker)
	broker.awaitLog(t, 0, entry{"msg": "broker listens"})
	b.daemon(t, pki.RoleSensor)
	seen := b.watchAs(t, pki.RoleOperator)
	host, port, err := net.SplitHostPort(b.broker)
	if err != nil {
		t.Fatal(err)
	}
	const forbidden = "melb/bank_server/control/command/monitor/mon-1"
	for _, test := range []struct {
		role            pki.Role
		allowed, denied string
		topic, payload  string // of the first message that it reads
	}{
		{pki.RoleViewer, "melb/bank_server/metrics/cpu/+", "melb/bank_server/alerts/+", "melb/bank_server/metrics/cpu/web-1", `"cpu_usage":`},
		{pki.RoleGuest, "public/#", "melb/bank_server/metrics/cpu/+", "public/lobby", "hey from paho as melb_guest_guest-1"},
	} {
		t.Run(string(test.role), func(t *testing.T) {
			f := b.export(t, test.role)
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			out, err := exec.CommandContext(ctx, python, "testdata/paho_client.py", f.dir, host, port, f.client, test.allowed, test.denied, forbidden).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var got struct {
				Connack, Ended int
				Granted        map[string]int
				Message        received
				Published      bool
			}
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if got.Connack != 0 || got.Granted[test.allowed] != 1 || got.Granted[test.denied] != 0x80 || !got.Published || got.Ended == 0 {
				t.Errorf("%s", out)
			}
			text := "hey from paho as " + f.client
			if got.Message.Topic != test.topic || !strings.Contains(got.Message.Payload, test.payload) {
				t.Errorf("%s", out)
			}
			seen.await(t, 30*time.Second, "the operator sees it", func(l feed.Line) bool {
				return l.Topic == "public/lobby" && l.Text == text && l.Verification == feed.Unverified
			})
		})
	}
	for _, reason := range []string{"not_subscriber", "not_publisher"} { // at least of the first, for one line a second
		broker.awaitLog(t, 0, entry{"reason": reason})
	}
	if found := seen.matching(func(l feed.Line) bool { return strings.Contains(l.Text, "must not arrive") || l.Topic == forbidden }); len(found) > 0 {
		t.Errorf("somebody has seen %+v", found[0])
	}
}
