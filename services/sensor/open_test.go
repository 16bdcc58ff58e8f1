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
	"levee/services/sensor/measure"
)

// configured returns the configuration file of a new sensor, with one text in
// it replaced.
func configured(t *testing.T, old, replacement string) string {
	t.Helper()
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
	rewrite(t, config, old, replacement)
	return config
}

func rewrite(t *testing.T, config, old, replacement string) {
	t.Helper()
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("no %s in %s", old, text)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(text), old, replacement, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Whoever stops a sensor while it measures its baseline does not see it fail,
// and it can be started again.
func TestStopBeforeTheFirstReading(t *testing.T) {
	t.Parallel()
	config := configured(t, "syn_method: auto", "syn_method: estimate")
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

// A configuration that would measure something else than it says, or that the
// monitor would take for silence, is refused before anything is opened, and
// the error names the key and what it may be.
func TestSettings(t *testing.T) {
	t.Parallel()
	const interval, method = "interval: 5s", "syn_method: auto"
	config := configured(t, method, method)
	for _, test := range []struct{ old, text, want string }{
		{interval, "interval: 0s", "interval: 0s is not from 100ms to 1m0s"},
		{interval, "interval: 99ms", "interval: 99ms is not from"},
		{interval, "interval: -5s", "interval: -5s is not from"},
		{interval, "interval: 60001ms", "interval: 1m0.001s is not from"},
		{interval, "interval: 5h", "interval: 5h0m0s is not from"},
		{method, "syn_method: magic", `syn_method: "magic" is none of auto, nftables, af_packet, estimate`},
		{method, "syn_method: Auto", `syn_method: "Auto" is none of`},
		{method, `syn_method: ""`, `syn_method: "" is none of`},
		{interval, "interval: 100ms", ""},
		{interval, "interval: 1m", ""},
		{interval, "", ""},
		{method, "syn_method: nftables", ""},
		{method, "syn_method: af_packet", ""},
		{method, "", ""},
	} {
		rewrite(t, config, test.old, test.text)
		p, err := Open(config, slog.New(slog.DiscardHandler))
		switch {
		case err == nil:
			if test.want != "" {
				t.Errorf("%q is accepted", test.text)
			}
			if test.text == "" && (p.settings.Interval != DefaultInterval || p.settings.SYNMethod != measure.Auto) {
				t.Errorf("without %q: %+v", test.old, p.settings)
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		case test.want == "" || !strings.Contains(err.Error(), test.want):
			t.Errorf("%q: %v", test.text, err)
		}
		if test.text == "" {
			config = configured(t, method, method)
			continue
		}
		rewrite(t, config, test.text, test.old)
	}
}
