package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"levee/internal/audit"
	"levee/internal/daemon"
)

func TestFindRecorder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "[a-z]*") // no pattern, but a name
	for i, path := range []string{"melb/sensor/web-1", "melb/recorder/rec-1", "syd/recorder/rec-1"} {
		bundle := filepath.Join(dir, "bundles", path)
		if err := os.MkdirAll(bundle, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, stray := range []string{filepath.Join(dir, "bundles", "notes"), filepath.Join(filepath.Dir(bundle), "notes")} {
			if err := os.WriteFile(stray, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := findRecorder(dir)
		if i == 1 {
			if err != nil || got != filepath.Join(bundle, "levee-recorder.yaml") {
				t.Errorf("%q, %v", got, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint(i, " recorders below ")) {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// Exit codes tell a record that is wrong from a check that was not made.
func TestAuditExitCodes(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "levee-recorder.yaml")
	if err := os.WriteFile(config, []byte("bundle: .\nstate: gone\nwatermark: mark\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--config", config}, exitVerification, config},
		{[]string{"--config", config, "--json"}, exitVerification, `"found":1`},
		{[]string{"--config", config + "x"}, daemon.ExitFailure, "no such file"},
		{[]string{"--dir", dir}, daemon.ExitFailure, "0 recorders"},
		{[]string{"--kept-since", "yesterday"}, daemon.ExitUsage, "is not a day like"},
		{[]string{"everything"}, daemon.ExitUsage, "holds no root certificate"},
		{[]string{"one", "two"}, daemon.ExitUsage, "one proof at a time"},
		{[]string{"--export", dir}, daemon.ExitFailure, "name the one that you trust with --root"},
		{[]string{"--export", dir, "--config", config}, daemon.ExitUsage, "two records"},
		{[]string{"--silence", "0s"}, daemon.ExitUsage, "is no time"},
	} {
		var out bytes.Buffer
		code := execute(t.Context(), append([]string{"audit", "verify"}, test.args...), &out, &out)
		if code != test.code || !strings.Contains(out.String(), test.want) {
			t.Errorf("%q ends with %d:\n%s", test.args, code, &out)
		}
	}
}

// A report for people is of bounded length, and nothing in it steers the
// terminal.
func TestPrintReport(t *testing.T) {
	r := &audit.Report{Root: "abc", Origin: "log", Found: 5000}
	for i := range 100 {
		r.Findings = append(r.Findings, audit.Finding{Where: fmt.Sprintf("segments/\x1b[2J%d", i), What: "does not\nbelong \u202ethere"})
		r.Gaps = append(r.Gaps, audit.Gap{What: audit.GapMissing, Sender: "melb/sensor/web-1", Boot: "1929c0a7f3e", First: 3, Last: 7, After: 1729697327000, Before: 1729697337000})
	}
	var text bytes.Buffer
	if err := printReport(&text, r, false, false); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(text.String(), "\n"); n > 60 {
		t.Errorf("%d lines", n)
	}
	if i := strings.IndexFunc(text.String(), func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }); i >= 0 {
		t.Errorf("it holds %q", text.String()[i:i+4])
	}
	for _, want := range []string{"WRONG", "and 80 gaps more", "and 4980 findings more",
		"missing: melb/sensor/web-1 1929c0a7f3e-3 to 7, between 2024-10-23T15:28:47Z and 2024-10-23T15:28:57Z"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, &text)
		}
	}
	text.Reset()
	certificates := &audit.Report{Root: "abc", Issued: 12, Revoked: 3, Readmitted: 1, AwaitingIssuance: 2, WithoutJournal: []string{"ops.melb.bank.example"}, Found: 1,
		Findings: []audit.Finding{{Where: "entry 7", What: "no journal has it", Kind: audit.KindNotIssued}}}
	if err := printReport(&text, certificates, false, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"issued      12 certificates, 3 orders to revoke, 1 to readmit", "note: 2 certificates began to sign",
		"note: the log holds no journal of ops.melb.bank.example", "entry 7: certificate_not_issued: no journal has it\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, &text)
		}
	}
	text.Reset()
	if err := printReport(&text, &audit.Report{Root: "abc"}, false, false); err != nil || !strings.Contains(text.String(), "nothing is wrong") {
		t.Errorf("%v\n%s", err, &text)
	}
	text.Reset()
	var again audit.Report
	if err := printReport(&text, r, true, false); err != nil || json.Unmarshal(text.Bytes(), &again) != nil || len(again.Gaps) != 100 {
		t.Errorf("%v\n%s", err, &text)
	}
	if err := printReport(broken{}, r, false, false); err == nil {
		t.Error("a report that could not be written counts as written")
	}
}

// broken is an output that is full.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrShortWrite }
