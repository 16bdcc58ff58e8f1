package e2e

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/internal/audit"
	"levee/internal/session"
	"levee/pki"
	"levee/services/recorder/segment"
)

// kept returns how often each envelope stands in the recorder's segments.
func (b *bank) kept(t *testing.T) map[[sha256.Size]byte]int {
	t.Helper()
	files, err := segment.List(filepath.Join(b.layout.State(b.ids[pki.RoleRecorder]), "segments"))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[[sha256.Size]byte]int)
	for _, f := range files {
		file, err := os.Open(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for r := segment.NewReader(file, f.Path); ; {
			record, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			all[sha256.Sum256(record.Envelope)]++
		}
	}
	return all
}

// outbox returns the lines of the files in which a part keeps what the recorder
// has not acknowledged.
func (b *bank) outbox(t *testing.T, role pki.Role) (lines []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.layout.State(b.ids[role]), session.DirOutbox, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if line, whole := strings.CutSuffix(line, "\n"); whole {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// The recorder is killed, and while it is away the sensor is killed too, and the
// broker: everything that the sensor ever said is recorded in the end, once, and
// nothing is kept that was.
//
// It takes half a minute: what was sent is not sent again before it is 15 s old.
func TestOutbox(t *testing.T) {
	if !goOn(t) {
		return
	}
	b := newBank(t)
	broker := b.daemon(t, pki.RoleBroker)
	broker.awaitLog(t, 0, entry{"msg": "broker listens"})
	recorder := b.daemon(t, pki.RoleRecorder)
	recorder.awaitLog(t, 0, entry{"msg": "connected"})
	sensor := b.daemon(t, pki.RoleSensor)
	sensor.awaitLog(t, 0, entry{"msg": "the recorder acknowledges"})

	recorder.Kill(t)
	time.Sleep(3 * time.Second)
	broker.Kill(t)
	time.Sleep(time.Second)
	sensor.Kill(t)
	before := b.outbox(t, pki.RoleSensor)
	if len(before) < 9 {
		t.Fatalf("the sensor kept %d messages", len(before))
	}
	broker = b.daemon(t, pki.RoleBroker)
	sensor = b.daemon(t, pki.RoleSensor)
	sensor.awaitLog(t, 0, entry{"msg": "connected"})
	time.Sleep(3 * time.Second)
	recorder = b.daemon(t, pki.RoleRecorder)

	var r audit.Report
	missed := false
	await(t, patience, "the recorder has everything", func() bool {
		time.Sleep(500 * time.Millisecond)
		r = b.audited(t)
		missed = missed || r.Missing > 0
		return missed && r.Missing == 0 && r.Incomplete == 0
	})
	sensor.Stop(t)
	recorder.Stop(t)
	broker.Stop(t)
	kept := b.kept(t)
	for _, line := range before {
		if n := kept[sha256.Sum256([]byte(line))]; n != 1 {
			t.Errorf("recorded %d times: %s", n, line)
		}
	}
	for _, n := range kept {
		if n != 1 {
			t.Errorf("an envelope is recorded %d times", n)
		}
	}
	if r = b.audited(t); r.Missing != 0 || r.Contradicted != 0 {
		t.Errorf("%+v", r)
	}
}
