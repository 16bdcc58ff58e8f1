package sensor

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/provision"
	"levee/pki"
)

// Whoever stops a sensor while it measures its baseline does not see it fail,
// and it can be started again.
func TestStopBeforeTheFirstReading(t *testing.T) {
	t.Parallel()
	l := provision.Layout{Dir: t.TempDir()}
	ids, err := provision.Apply(l.Dir, provision.Inventory{TrustDomain: "bank.example", Evaluation: true, Sites: []provision.Site{{
		Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Brokers: []provision.Broker{{Name: "b1", Listen: "127.0.0.1:1", Address: "127.0.0.1:1"}},
		Sensors: []provision.Sensor{{Name: "web-1"}}, Recorder: "rec-1",
	}}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	config := l.Config(ids[slices.IndexFunc(ids, func(id pki.Identity) bool { return id.Role == pki.RoleSensor })])
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	unprivileged := strings.Replace(string(text), "syn_method: auto", "syn_method: estimate", 1)
	if unprivileged == string(text) {
		t.Fatalf("no method in %s", text)
	}
	if err := os.WriteFile(config, []byte(unprivileged), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cause := range []error{nil, errors.New("terminated signal received")} { // the second is what a signal leaves
		p, err := Open(config, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if err := p.Run(ctx); err != nil {
			t.Errorf("stopped with cause %v: %v", cause, err)
		}
	}
}
