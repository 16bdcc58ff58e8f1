package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"levee/envelope"
	"levee/internal/translog/proof"
	"levee/internal/wire"
	"levee/pki"
	"levee/services/recorder/segment"
)

// away is another machine: an export, the root certificate and the site
// document, and nothing else.
type away struct{ dir, root, document string }

// export copies a record to another machine.
func (b *bank) export(t testing.TB) away {
	t.Helper()
	a := b.machine(t)
	if _, err := Export(t.Context(), b.open(t), a.dir); err != nil {
		t.Fatal(err)
	}
	return a
}

func (b *bank) machine(t testing.TB) away {
	t.Helper()
	base := t.TempDir()
	a := away{filepath.Join(base, "export"), filepath.Join(base, "root.pem"), filepath.Join(base, "site.json")}
	for to, from := range map[string]string{a.root: filepath.Join(b.Authority(), "root.pem"), a.document: filepath.Join(b.Bundle(recorderID), "site.json")} {
		raw, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(t, to, string(raw))
	}
	return a
}

func (a away) config(t testing.TB) Config {
	t.Helper()
	c, err := Open(Options{Export: a.dir, Root: a.root, Document: a.document})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// verify audits the export, from the state of an earlier audit if there is one.
func (a away) verify(t *testing.T, earlier *State) (r *Report, next *State) {
	t.Helper()
	c := a.config(t)
	synctest.Test(t, func(t *testing.T) {
		var err error
		if r, next, err = VerifySince(t.Context(), c, earlier); err != nil {
			t.Fatal(err)
		}
	})
	return r, next
}

func (a away) copy(t testing.TB) away {
	t.Helper()
	c := a
	c.dir = filepath.Join(t.TempDir(), "export")
	if err := os.CopyFS(c.dir, os.DirFS(a.dir)); err != nil {
		t.Fatal(err)
	}
	return c
}

func (a away) bundle(t testing.TB) string {
	t.Helper()
	for _, path := range files(t, filepath.Join(a.dir, "log", "tile", "entries")) {
		return path
	}
	t.Fatal("there is no bundle")
	return ""
}

func (a away) segment(t testing.TB, number int) string {
	t.Helper()
	all, err := segment.List(filepath.Join(a.dir, "segments"))
	if err != nil {
		t.Fatal(err)
	}
	return all[number].Path
}

// entries cuts a bundle into its entries, with their lengths.
func entries(t testing.TB, bundle string) (all [][]byte) {
	t.Helper()
	raw, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	for len(raw) > 0 {
		n := 2 + int(binary.BigEndian.Uint16(raw))
		all, raw = append(all, raw[:n]), raw[n:]
	}
	return all
}

// An export passes with public keys alone, and whatever was done to the copy is
// found, and named.
func TestExportIsVerified(t *testing.T) {
	t.Parallel()
	b := newRecord(t)
	whole := b.export(t)
	r, state := whole.verify(t, nil)
	if !r.Whole() || r.Entries != 32 || r.MACs != 0 || r.Confirmed != 16 || state == nil {
		t.Fatalf("%+v", r)
	}
	for _, test := range []struct {
		name   string
		attack func(t *testing.T, a away)
		kind   string
		want   []string
	}{
		{"a byte of the log changed", func(t *testing.T, a away) {
			all := entries(t, a.bundle(t))
			all[17][90] ^= 1
			write(t, a.bundle(t), string(bytes.Join(all, nil)))
		}, KindTree, []string{"entry 17"}},
		{"a byte of a segment changed", func(t *testing.T, a away) { flip(t, a.segment(t, 2), 700, 1) }, KindSegment, []string{".seg", "record"}},
		{"an entry removed", func(t *testing.T, a away) {
			all := entries(t, a.bundle(t))
			write(t, a.bundle(t), string(bytes.Join(append(all[:17:17], all[18:]...), nil)))
		}, KindTree, []string{"entry 17"}},
		{"two entries swapped", func(t *testing.T, a away) {
			all := entries(t, a.bundle(t))
			all[17], all[18] = all[18], all[17]
			write(t, a.bundle(t), string(bytes.Join(all, nil)))
		}, KindTree, []string{"entry 17"}},
		{"the log's tail cut", func(t *testing.T, a away) {
			all := entries(t, a.bundle(t))
			write(t, a.bundle(t), string(bytes.Join(all[:30], nil)))
		}, KindTree, []string{"entry 30"}},
		{"a segment's tail cut", func(t *testing.T, a away) {
			if err := os.Truncate(a.segment(t, 1), 3000); err != nil {
				t.Fatal(err)
			}
		}, KindSegment, []string{".seg", "incomplete record"}},
		{"the last segment gone", func(t *testing.T, a away) { remove(t, a.segment(t, len(b.allSegments(t))-1)) }, KindCopy, []string{"are in no segment"}},
		{"state deleted", func(t *testing.T, a away) { remove(t, filepath.Join(a.dir, "log", ".state")) }, KindTree, []string{".state/treeState"}},
		{"the checkpoint deleted", func(t *testing.T, a away) { remove(t, filepath.Join(a.dir, "log", "checkpoint")) }, KindCheckpoint, []string{"log/checkpoint", "is not there"}},
		{"a checkpoint signed with another key", func(t *testing.T, a away) {
			path := filepath.Join(a.dir, "log", "checkpoint")
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			text, _, _ := strings.Cut(string(raw), "\n\n")
			write(t, path, string(signedBy(t, text+"\n")))
		}, KindCheckpoint, []string{"log/checkpoint", "not signed with this log's key"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := whole.copy(t)
			test.attack(t, a)
			r, next := a.verify(t, nil)
			r.want(t, test.want...)
			if r.kinds()[test.kind] == 0 || r.Severity() != Changed || next != nil {
				t.Errorf("%v: %+v", r.kinds(), r.Findings)
			}
		})
	}
}

func (b *bank) allSegments(t testing.TB) []segment.File {
	t.Helper()
	all, err := segment.List(b.segments())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// signedBy signs a checkpoint with another key of the log's name.
func signedBy(t testing.TB, text string) []byte {
	t.Helper()
	origin, _, _ := strings.Cut(text, "\n")
	secret, _, err := note.GenerateKey(nil, origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// What the owner of the recorder does to the record itself, with every key of
// it. The auditor was there before, or sees what was not kept.
func TestRecorderIsFoundOut(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		// make returns what the auditor gets, and the state of the audit before.
		make func(t *testing.T, b *bank) (a away, earlier *State)
		kind string
		want []string
	}{
		{"the whole record cut back to yesterday's", func(t *testing.T, b *bank) (away, *State) {
			s := b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
			b.craftMessages(t, s.alert(90), s.alert(91))
			yesterday := b.export(t)
			s.now = s.now.Add(time.Hour)
			b.craftMessages(t, s.alert(92))
			_, state := b.export(t).verify(t, nil)
			return yesterday, state
		}, KindRollback, []string{"/log:", "an earlier audit verified 3 entries", "of 2 entries cannot follow"}},
		{"an old backup restored, and continued", func(t *testing.T, b *bank) (away, *State) {
			s := b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
			b.craftMessages(t, s.alert(90))
			backup := b.copy(t)
			seq := s.seq
			b.craftMessages(t, s.alert(91))
			_, state := b.export(t).verify(t, nil)
			s.seq = seq
			backup.craftMessages(t, s.alert(92), s.alert(93))
			return backup.export(t), state
		}, KindFork, []string{"/log:", "an earlier audit verified 2 entries", "had another root"}},
		{"a reading altered by who holds the role key", func(t *testing.T, b *bank) (away, *State) {
			s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
			readings := s.readings(3)
			readings[2] = s.sealAs(envelope.Nonce{Boot: s.boot, Seq: 3}, s.topic(wire.KindCPU), &wire.CPU{Timestamp: 1, Server: "web-1", Interval: 5, CPUUsage: 99}, nil)
			b.craftMessages(t, append(readings, s.digest())...)
			return b.export(t), nil
		}, KindDigest, []string{"entry 0", "melb/sensor/web-1 over messages 1 to 6", "does not match"}},
		{"an execution without a command", func(t *testing.T, b *bank) (away, *State) {
			s := b.sender(t, pki.RoleController, "lb-1", time.Second)
			b.craftMessages(t, s.answer(wire.NewID(), wire.StateActive))
			return b.export(t), nil
		}, KindExecution, []string{"entry 0", "melb/controller/lb-1", "enable_rate_limiting", "does not hold command"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, earlier := test.make(t, newBank(t))
			r, _ := a.verify(t, earlier)
			r.want(t, test.want...)
			if r.kinds()[test.kind] != 1 {
				t.Errorf("%v: %+v", r.kinds(), r.Findings)
			}
		})
	}
}

// A day's messages of one sender that were dropped before they were recorded are
// a gap with its place and time, and a silence while others were heard.
func TestADayDropped(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	web1, web2 := b.sender(t, pki.RoleSensor, "web-1", time.Second), b.sender(t, pki.RoleSensor, "web-2", time.Second)
	var kept []message
	var from, to time.Time
	const step, day = 100 * time.Second, 864
	for n := range day + 40 {
		dropped := n >= 20 && n < day+20
		if n == 20 {
			from = web1.now
		}
		one := append(web1.readings(1), web1.digest())
		if !dropped {
			kept = append(kept, one...)
		}
		kept = append(append(kept, web2.readings(1)...), web2.digest())
		web1.now, web2.now = web1.now.Add(step), web2.now.Add(step)
		if dropped {
			to = web1.now
		}
	}
	b.craftMessages(t, kept...)
	r, _ := b.export(t).verify(t, nil)
	if !r.OK() || r.Whole() || r.Missing != day*3 || r.Silent != 1 {
		t.Fatalf("%+v", r)
	}
	g, s := r.Gaps[0], r.Silences[0]
	if len(r.Gaps) > 2 || g.What != GapMissing || g.Sender != "melb/sensor/web-1" || g.First != 20*3+1 || g.Last != (day+20)*3 || g.After >= from.UnixMilli() || g.Before < to.UnixMilli()-step.Milliseconds() {
		t.Errorf("%+v", r.Gaps)
	}
	if s.Sender != "melb/sensor/web-1" || !s.Over || s.To-s.From < 24*time.Hour.Milliseconds() {
		t.Errorf("%+v", s)
	}
}

// While the recorder is at work an export is a whole record, each time.
func TestExportWhileRunning(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	running := b.record(t)
	sensor := b.sender(t, pki.RoleSensor, "web-1", time.Second)
	some := func() []message { // close together, as real ones are
		sensor.now = sensor.now.Add(time.Millisecond)
		return []message{sensor.cpu(1), sensor.cpu(2), sensor.digest()}
	}
	running.keep(some()...)
	c := b.open(t)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if head, err := readHead(os.DirFS(b.log()), c.originOf(), c.Document.LogKey); err == nil && head.Tree.N > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no checkpoint appears")
		}
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				running.keep(some()...)
			}
		}
	}()
	var last away
	for range 4 {
		last = b.export(t)
		if r, _ := last.verify(t, nil); !r.Whole() || r.Entries == 0 {
			t.Errorf("%+v", r)
		}
		time.Sleep(50 * time.Millisecond)
	}
	close(stop)
	<-done
	for _, path := range files(t, last.dir) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, []byte("PRIVATE KEY")) || strings.HasSuffix(path, ".key") || strings.HasSuffix(path, ".keys") {
			t.Errorf("%s is a secret", path)
		}
	}
}

func TestExportRefuses(t *testing.T) {
	t.Parallel()
	b := newRecord(t)
	done := b.export(t)
	if _, err := Export(t.Context(), b.open(t), done.dir); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("over an export: %v", err)
	}
	// One that was not finished is continued, and is none before.
	sum, err := os.ReadFile(filepath.Join(done.dir, fileSums))
	if err != nil {
		t.Fatal(err)
	}
	remove(t, filepath.Join(done.dir, fileSums))
	remove(t, done.segment(t, 0))
	write(t, filepath.Join(done.dir, fileUnfinished), "")
	write(t, filepath.Join(done.dir, "segments", "20000101T000000.000Z.seg.part"), "half")
	var wrong Finding
	if _, err := Open(Options{Export: done.dir, Root: done.root}); !errors.As(err, &wrong) || !strings.Contains(wrong.What, "not finished") {
		t.Errorf("one that was not finished: %v", err)
	}
	made, err := Export(t.Context(), b.open(t), done.dir)
	if err != nil || made.Reused == 0 {
		t.Errorf("%+v, %v", made, err)
	}
	again, err := os.ReadFile(filepath.Join(done.dir, fileSums))
	if err != nil || !bytes.Equal(sum, again) {
		t.Errorf("other sums: %v\n%s\n%s", err, sum, again)
	}
	if r, _ := done.verify(t, nil); !r.Whole() {
		t.Errorf("%+v", r)
	}
	if _, err := Open(Options{Export: done.dir}); err == nil {
		t.Error("an export is believed without a root")
	}
	other := newBank(t)
	otherRoot := filepath.Join(other.Authority(), "melb", "people-ca.pem")
	if _, err := Open(Options{Export: done.dir, Root: otherRoot}); err == nil {
		t.Error("another certificate counts as the root")
	}
	flip(t, filepath.Join(done.dir, "policy.yaml"), 60, 1)
	if _, err := Open(Options{Export: done.dir, Root: done.root}); !errors.As(err, &wrong) || !strings.HasSuffix(wrong.Where, "policy.yaml") {
		t.Errorf("another policy: %v", err)
	}
}

// A log of more than one bundle, while its newest bundle has become full since.
func TestExportOfALongLog(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
	var all []message
	for range 300 {
		all = append(all, s.alert(90))
	}
	b.craftMessages(t, all...)
	head, err := os.ReadFile(filepath.Join(b.log(), proof.CheckpointFile))
	if err != nil {
		t.Fatal(err)
	}
	for range 260 {
		all = append(all, s.alert(90))
	}
	b.craftMessages(t, all[300:]...)
	// The recorder shows the older checkpoint, as one does that is in between.
	write(t, filepath.Join(b.log(), proof.CheckpointFile), string(head))
	c := b.open(t)
	a := b.machine(t)
	if _, err := Export(t.Context(), c, a.dir); err != nil {
		t.Fatal(err)
	}
	log := os.DirFS(filepath.Join(a.dir, "log"))
	if cp, err := proof.Verify(t.Context(), proof.Config{FS: log, Origin: c.originOf(), VKey: c.Document.LogKey}, nil); err != nil || cp.Tree.N != 300 {
		t.Errorf("%+v, %v", cp, err)
	}
}

func (c Config) originOf() string {
	origin, _, _ := strings.Cut(c.Document.LogKey, "+")
	return origin
}
