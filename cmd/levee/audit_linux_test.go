package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/internal/audit"
	"levee/internal/daemon"
	"levee/internal/provision"
	"levee/pki"
	"levee/services/recorder"
)

// recorded provisions a site and lets its recorder write down what was issued.
func recorded(t *testing.T) provision.Layout {
	t.Helper()
	layout := provision.Layout{Dir: filepath.Join(t.TempDir(), "bank")}
	_, err := provision.Apply(layout.Dir, provision.Inventory{TrustDomain: "bank.example", Evaluation: true, Sites: []provision.Site{{
		Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Brokers: []provision.Broker{{Name: "b1", Listen: "127.0.0.1:1", Address: "127.0.0.1:1"}},
		Sensors: []provision.Sensor{{Name: "web-1"}}, Recorder: "rec-1",
	}}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id := pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: pki.RoleRecorder, Name: "rec-1"}
	part, err := recorder.Open(layout.Config(id), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- part.Run(ctx) }()
	imported := filepath.Join(layout.State(id), "imported")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(imported); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is imported")
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return layout
}

// An auditor's way: export, verify elsewhere, go on from there, prove one entry,
// show it; and each command with what was changed.
func TestAuditor(t *testing.T) {
	layout := recorded(t)
	away := t.TempDir()
	root := filepath.Join(layout.Authority(), "root.pem")
	export, state, page, proof := filepath.Join(away, "export"), filepath.Join(away, "state"), filepath.Join(away, "report.html"), filepath.Join(away, "entry-2.proof")
	run := func(code int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if got := execute(t.Context(), append([]string{"audit"}, args...), &out, &out); got != code {
			t.Fatalf("%q ends with %d:\n%s", args, got, &out)
		}
		return out.String()
	}
	var made audit.Exported
	if err := json.Unmarshal([]byte(run(0, "export", export, "--dir", layout.Dir, "--json")), &made); err != nil || made.Entries == 0 {
		t.Fatalf("%+v, %v", made, err)
	}
	run(daemon.ExitFailure, "export", export, "--dir", layout.Dir)
	run(daemon.ExitUsage, "export", "--dir", layout.Dir)
	run(0, "verify", "--export", export, "--root", root, "--site", filepath.Join(export, "site.json"), "--state", state, "--html", page, "--complete")
	if out := run(0, "verify", "--export", export, "--root", root, "--state", state); !strings.Contains(out, "of them verified before") {
		t.Errorf("%s", out)
	}
	if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), "Nothing is wrong") {
		t.Errorf("%s, %v", text, err)
	}
	run(0, "prove", "--export", export, "--root", root, "--entry", "2", "--out", proof)
	run(daemon.ExitFailure, "prove", "--export", export, "--root", root, "--entry", "2", "--out", proof)
	run(daemon.ExitFailure, "prove", "--export", export, "--root", root, "--sender", "melb/sensor/web-1", "--nonce", "1929c0a7f3e-42")
	for _, wrong := range [][]string{{}, {"--entry", "2", "--sender", "x"}, {"--sender", "x"}, {"--nonce", "x"}} {
		run(daemon.ExitUsage, append([]string{"prove", "--export", export, "--root", root}, wrong...)...)
	}
	if out := run(0, "verify", proof, "--root", root); !strings.Contains(out, "entry 2 of ") || !strings.Contains(out, "issuance") {
		t.Errorf("%s", out)
	}
	run(0, "verify", proof, "--root", root, "--site", filepath.Join(export, "site.json"), "--json")
	run(daemon.ExitUsage, "verify", proof)
	if out := run(0, "show", "--export", export, "--root", root, "--entries", "1-2"); strings.Count(out, "entry ") != 2 {
		t.Errorf("%s", out)
	}
	if out := run(0, "show", "--export", export, "--root", root, "--limit", "1", "--json"); strings.Count(out, `"where"`) != 1 || !strings.Contains(out, "raise --limit") {
		t.Errorf("%s", out)
	}
	for _, wrong := range [][]string{{"--entries", "2-1"}, {"--entries", "x"}, {"--from", "yesterday"}, {"--to", "yesterday"}} {
		run(daemon.ExitUsage, append([]string{"show", "--export", export, "--root", root}, wrong...)...)
	}

	for _, path := range []string{proof, filepath.Join(export, "policy.yaml"), filepath.Join(export, "log", "checkpoint")} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		change := bytes.Clone(text)
		change[len(change)/3] ^= 1
		if err := os.WriteFile(path, change, 0o600); err != nil {
			t.Fatal(err)
		}
		if path == proof {
			run(exitVerification, "verify", proof, "--root", root)
		} else {
			run(exitVerification, "verify", "--export", export, "--root", root)
			run(exitVerification, "show", "--export", export, "--root", root)
			run(exitVerification, "prove", "--export", export, "--root", root, "--entry", "2")
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(0, "verify", "--export", export, "--root", root)
}

// The exit code is that of the worst finding.
func TestOutcome(t *testing.T) {
	for kind, want := range map[string]int{
		audit.KindTree: exitVerification, audit.KindExecution: exitUnauthorised, audit.KindRevoked: exitUnauthorised, audit.KindNotIssued: exitUnauthorised, audit.KindLate: exitLate,
	} {
		var f failure
		v := verification{}
		if err := v.outcome(audit.Fail(audit.Finding{Where: "here", What: "this", Kind: kind})); !asFailure(err, &f) || f.code != want {
			t.Errorf("%s ends with %v", kind, err)
		}
	}
	whole, gap, silent := &audit.Report{}, &audit.Report{Missing: 1}, &audit.Report{Silent: 1}
	for _, r := range []*audit.Report{whole, gap, silent} {
		if err := (&verification{}).outcome(r); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
		var f failure
		err := (&verification{complete: true}).outcome(r)
		if r == whole && err != nil || r != whole && (!asFailure(err, &f) || f.code != exitMissing) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func asFailure(err error, f *failure) bool {
	got, ok := err.(failure)
	*f = got
	return ok
}
