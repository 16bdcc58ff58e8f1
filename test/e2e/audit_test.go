package e2e

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/internal/audit"
	"levee/pki"
)

// auditVerify runs `levee audit verify` and returns its exit code and what it
// prints.
func (b *bank) auditVerify(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "levee"), append([]string{"audit", "verify", "--dir", b.dir}, args...)...)
	raw, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, string(raw)
	case errors.As(err, &exit):
		return exit.ExitCode(), string(raw) + string(exit.Stderr)
	default:
		t.Fatal(err)
		return 0, ""
	}
}

// audited returns the report of an audit that finds nothing wrong.
func (b *bank) audited(t *testing.T) (r audit.Report) {
	t.Helper()
	code, out := b.auditVerify(t, "--json")
	if code != 0 {
		t.Fatalf("levee audit verify ends with %d:\n%s", code, out)
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// The record of real processes: it passes while they run and after they have
// stopped or crashed, and with one byte changed, in any of its files, it does
// not, and that is named.
func TestAudit(t *testing.T) {
	if !goOn(t) {
		return
	}
	b := newBank(t)
	broker := b.daemon(t, pki.RoleBroker)
	broker.awaitLog(t, 0, entry{"msg": "broker listens"})
	recorder := b.daemon(t, pki.RoleRecorder)
	recorder.awaitLog(t, 0, entry{"msg": "connected"})
	sensor := b.daemon(t, pki.RoleSensor)
	monitor := b.steal(t, pki.RoleMonitor, "mon-1")
	client := b.connect(t, monitor)
	alerts := func(n int) {
		for range n {
			topic, raw := monitor.alert(t)
			publish(t, client, topic, raw)
		}
	}

	// At work. Each audit falls somewhere else into what the recorder does.
	var r audit.Report
	for deadline := time.Now().Add(60 * time.Second); r.Signatures < 28 || r.Confirmed < 2; {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", r)
		}
		if r.Signatures < 26 {
			alerts(6)
		}
		if r = b.audited(t); r.Missing > 0 || r.Incomplete > 0 {
			t.Fatalf("%+v", r)
		}
	}
	if r.Segments == 0 || r.Signatures < 28 || r.MACs < r.Envelopes || r.Vouched < 6 {
		t.Errorf("%+v", r)
	}

	// Killed, and away for a while: a gap, of a sender that does not send again
	// what nobody acknowledges.
	recorder.Kill(t)
	alerts(3)
	recorder = b.daemon(t, pki.RoleRecorder)
	recorder.awaitLog(t, 0, entry{"msg": "connected"})
	alerts(1)
	await(t, 30*time.Second, "the audit shows what the recorder missed", func() bool {
		r = b.audited(t)
		return r.Missing >= 3
	})
	if len(r.Gaps) == 0 || r.Gaps[0].Sender != "melb/monitor/mon-1" || r.Gaps[0].First == 0 || r.Gaps[0].Last < r.Gaps[0].First || r.Gaps[0].Before == 0 {
		t.Errorf("%+v", r.Gaps)
	}

	for _, p := range []*process{sensor, recorder, broker} {
		p.Stop(t)
	}
	r = b.audited(t)
	if code, out := b.auditVerify(t); code != 0 || !strings.Contains(out, "nothing is wrong") || !strings.Contains(out, "missing: melb/monitor/mon-1") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if code, out := b.auditVerify(t, "--complete"); code != 6 || !strings.Contains(out, "messages are missing and ") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	root := filepath.Join(b.layout.Authority(), "root.pem")
	if code, out := b.auditVerify(t, "--root", root, "--without-keys"); code != 0 || !strings.Contains(out, "MACs        not checked") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	b.changeEachFile(t, r.Entries)
	b.audited(t)
}

// changeEachFile changes one byte of every file that the audit reads, in turn.
func (b *bank) changeEachFile(t *testing.T, entries int64) {
	t.Helper()
	id := b.ids[pki.RoleRecorder]
	state, bundle := b.layout.State(id), b.layout.Bundle(id)
	newest := filepath.Join(state, "log", "tile", "entries", fmt.Sprintf("000.p/%d", entries))
	paths := []string{b.layout.Watermark(id)}
	for _, name := range []string{"root.pem", "site.json", "policy.yaml", "envelope.keys", "SHA256SUMS"} {
		paths = append(paths, filepath.Join(bundle, name))
	}
	superseded := 0
	for _, dir := range []string{filepath.Join(state, "log"), filepath.Join(state, "segments")} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if strings.Contains(path, ".p/") && path != newest && filepath.Base(path) != filepath.Base(newest) {
				if superseded++; superseded > 6 { // there is one for each write
					return nil
				}
			}
			paths = append(paths, path)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at, want := len(content)/2, path
		if path == newest { // an entry, by its number
			at, want = 0, "entry 17 ("
			for range 17 {
				at += 2 + int(binary.BigEndian.Uint16(content[at:]))
			}
			at += 20
		}
		b.changed(t, path, at, want)
	}
	// The configuration file: another watermark.
	config := b.layout.Config(id)
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	b.changed(t, config, strings.Index(string(text), "watermark: ")+len("watermark: waterm"), config)
}

// changed changes one byte of a file, audits, and changes it back.
func (b *bank) changed(t *testing.T, path string, at int, want string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	after := []byte("x") // the library's locks are empty
	if len(before) > 0 {
		after = append([]byte(nil), before...)
		after[at] ^= 1
	}
	if err := os.WriteFile(path, after, info.Mode()); err != nil {
		t.Fatal(err)
	}
	code, out := b.auditVerify(t)
	if err := os.WriteFile(path, before, info.Mode()); err != nil {
		t.Fatal(err)
	}
	if code != 3 || !strings.Contains(out, want) {
		t.Errorf("byte %d of %s: exit code %d, want %q:\n%s", at, path, code, want, out)
	}
}
