package e2e

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/internal/feed"
	"levee/internal/wire"
	"levee/pki"
)

// The whole chain, each part a process of its own, from the files that
// `levee up` writes: reading, alert, automatic command, action, status, record.
func TestChain(t *testing.T) {
	if !goOn(t) {
		return
	}
	b := newBank(t)
	broker := b.daemon(t, pki.RoleBroker)
	recorder := b.daemon(t, pki.RoleRecorder)
	controller := b.daemon(t, pki.RoleController)
	monitor := b.daemon(t, pki.RoleMonitor)
	seen := b.watchAs(t, pki.RoleOperator)
	sensor := b.daemon(t, pki.RoleSensor)

	for _, kind := range []wire.Kind{wire.KindCPU, wire.KindRAM, wire.KindNetwork} {
		line := seen.await(t, 20*time.Second, kind.String(), func(l feed.Line) bool { return l.Kind == kind.String() })
		if line.Verification != feed.Unconfirmed || line.Sender != "melb/sensor/web-1" {
			t.Errorf("%s is shown as %s of %s", line.Kind, line.Verification, line.Sender)
		}
	}
	confirmed := seen.await(t, 20*time.Second, "a confirmation of the sensor's readings", func(l feed.Line) bool {
		return l.Kind == "confirmation" && l.Verification == "confirmed" && l.Sender == "melb/sensor/web-1"
	})
	if confirmed.Seen < 3 || confirmed.Missing != 0 {
		t.Errorf("confirmed %+v", confirmed)
	}
	await(t, 60*time.Second, "the balancer answers 200", func() bool { return get(b.balancer).code == http.StatusOK })

	flood := exec.Command(filepath.Join(bin, "levee"), "drill", "flood", "--target", b.balancer, "--rate", "600", "--duration", "20s")
	report := make(chan string, 1)
	go func() {
		out, err := flood.CombinedOutput()
		if err != nil {
			out = append(out, err.Error()...)
		}
		report <- string(out)
	}()
	var alert wire.Alert
	raised := seen.await(t, 30*time.Second, "an alert about SYNs or connections", func(l feed.Line) bool {
		return l.Kind == wire.KindAlert.String() && json.Unmarshal(l.Payload, &alert) == nil && alert.State == wire.StateRaised &&
			(alert.Alert == wire.AlertSYN || alert.Alert == wire.AlertConnections)
	})
	var command wire.Command
	commanded := seen.await(t, 10*time.Second, "the command that answers it", func(l feed.Line) bool {
		return l.Kind == wire.KindCommand.String() && json.Unmarshal(l.Payload, &command) == nil && command.Incident == alert.Incident
	})
	var status wire.Status
	answered := seen.await(t, 10*time.Second, "its status", func(l feed.Line) bool {
		return l.Kind == wire.KindRateLimiting.String() && json.Unmarshal(l.Payload, &status) == nil && status.ID == command.ID
	})
	for _, line := range []feed.Line{raised, commanded, answered} {
		if line.Verification != feed.Verified {
			t.Errorf("%s of %s is %s", line.Kind, line.Sender, line.Verification)
		}
	}
	if command.Command != wire.EnableRateLimiting || command.Server != "web-1" || status.Status != wire.StatusSuccess || status.State != wire.StateActive {
		t.Errorf("command %+v, status %+v", command, status)
	}
	var limited answer
	await(t, 10*time.Second, "the balancer refuses", func() bool {
		limited = get(b.balancer)
		return limited.code == http.StatusTooManyRequests
	})
	if limited.retryAfter == "" {
		t.Error("429 without Retry-After")
	}
	if text := <-report; !strings.Contains(text, "first refusal after") {
		t.Errorf("the drill reports:\n%s", text)
	}
	seen.await(t, 30*time.Second, "the alert's end", func(l feed.Line) bool {
		var end wire.Alert
		return l.Kind == wire.KindAlert.String() && json.Unmarshal(l.Payload, &end) == nil && end.State == wire.StateEnded && end.Incident == alert.Incident
	})
	seen.await(t, 90*time.Second, "the limit lapses", func(l feed.Line) bool {
		var end wire.Status
		return l.Kind == wire.KindRateLimiting.String() && json.Unmarshal(l.Payload, &end) == nil && end.State == wire.StateLapsed
	})
	await(t, 10*time.Second, "200 after the time to live", func() bool { return get(b.balancer).code == http.StatusOK })
	if raisedTwice := seen.matching(func(l feed.Line) bool {
		var again wire.Alert
		return l.Kind == wire.KindAlert.String() && json.Unmarshal(l.Payload, &again) == nil && again.State == wire.StateRaised && again.Incident == alert.Incident
	}); len(raisedTwice) != 1 {
		t.Errorf("the incident was raised %d times", len(raisedTwice))
	}

	for _, p := range []*process{sensor, monitor, controller, recorder, broker} {
		p.Stop(t)
	}
	out, err := exec.Command(filepath.Join(bin, "levee"), "audit", "verify", "--dir", b.dir).CombinedOutput()
	if err != nil {
		t.Errorf("levee audit verify: %v\n%s", err, out)
	}
}

type answer struct {
	code       int
	retryAfter string
}

func get(address string) answer {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + address + "/")
	if err != nil {
		return answer{}
	}
	response.Body.Close()
	return answer{response.StatusCode, response.Header.Get("Retry-After")}
}
