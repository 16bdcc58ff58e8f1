package audit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"levee/envelope"
	"levee/internal/translog/leaf"
	"levee/internal/wire"
	"levee/pki"
	"levee/services/recorder/segment"
)

func TestIntact(t *testing.T) {
	t.Parallel()
	b := newRecord(t)
	r := b.sound(t)
	// Two starts of six rounds of two readings of two sensors, twice.
	readings := 2 * 2 * 6 * 2 * 2
	if r.Entries != 32 || r.Signatures != 32 || r.Envelopes != readings+32 || r.MACs != readings+2*32 || r.Segments < 6 ||
		r.Confirmed != 16 || r.Vouched != readings+32-4 || r.Pending+r.Unlogged != 0 || r.Unvouched != 0 || len(r.Gaps) != 0 {
		t.Errorf("%+v", r)
	}
}

// An empty log, a recorder that never ran, is in order.
func TestEmpty(t *testing.T) {
	t.Parallel()
	if r := newBank(t).sound(t); r.Entries != 0 || r.Segments != 0 {
		t.Errorf("%+v", r)
	}
}

// The recorder is at work while the audit runs, again and again: what it does
// in between is no finding, and no gap.
func TestWhileRunning(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	running := b.record(t)
	sensor, monitor := b.sender(t, pki.RoleSensor, "web-1", time.Second), b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
	running.keep(sensor.readings(1)...)
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	writing.Go(func() {
		for ctx.Err() == nil {
			batch := append(sensor.readings(2), sensor.digest())
			for range 5 {
				monitor.now = sensor.now
				batch = append(batch, monitor.alert(90))
			}
			running.keep(append(batch, monitor.digest())...)
		}
	})
	c := b.open(t)
	entries := int64(0)
	for range 12 {
		r := verifyWith(t, c)
		if !r.OK() || r.Missing > 0 || r.Incomplete > 0 {
			t.Fatalf("%+v", r)
		}
		entries = r.Entries
	}
	stop()
	writing.Wait()
	running.stop()
	if r := b.sound(t); r.Entries <= entries || entries == 0 {
		t.Errorf("from %d to %d entries while it was audited", entries, r.Entries)
	}
}

// What is wrong with one message that the recorder kept, whoever made it.
func TestMessages(t *testing.T) {
	t.Parallel()
	newBank(t)
	for _, test := range []struct {
		name string
		// make returns what is kept, and whether it is in the log too.
		make func(t *testing.T, b *bank) (m message, logged bool)
		want []string
	}{
		{"a monitor's key that is not pinned", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
			s.signer = b.mint(t, s.id, time.Hour, b.made)
			return s.alert(90), true
		}, []string{"entry 0", "does not pin"}},
		{"a monitor that the document does not know", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
			s.id.Name, s.kid.Name = "mon-2", "mon-2"
			s.signer = b.mint(t, s.id, time.Hour, b.made)
			return s.alert(90), true
		}, []string{"entry 0", "no message of its sender (mac)"}},
		{"a certificate that had expired", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleController, "lb-1", 2*time.Minute)
			s.signer = b.mint(t, s.id, time.Minute, b.made)
			return s.status(), true
		}, []string{"entry 0", "signature is not good (signature)"}},
		{"a certificate that was not valid yet", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleController, "lb-1", time.Second)
			s.signer = b.mint(t, s.id, time.Hour, b.made.Add(30*time.Minute))
			return s.status(), true
		}, []string{"entry 0", "signature is not good (signature)"}},
		{"signed by another", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleController, "lb-1", time.Second)
			s.signer = b.sender(t, pki.RoleSensor, "web-1", time.Second).signer
			return s.status(), true
		}, []string{"entry 0", "signature is not good (sender)"}},
		{"a sensor's own command", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
			return s.seal(s.topic(wire.KindCommand), &wire.Alert{Incident: wire.NewID()}, s.signer), true
		}, []string{"entry 0", "may not speak on melb/bank_server/control/command/sensor/web-1"}},
		{"another sensor's topic", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
			s.id.Name = "web-2"
			return s.cpu(7), false
		}, []string{".seg", "record 0", "may not speak on"}},
		{"a reading in the log, unsigned", func(t *testing.T, b *bank) (message, bool) {
			return b.sender(t, pki.RoleSensor, "web-1", time.Second).cpu(7), true
		}, []string{"entry 0", "signature is not good (unsigned)"}},
		{"an alert without signature", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
			s.signer = nil
			return s.alert(90), false
		}, []string{".seg", "record 0", "must be signed"}},
		{"sealed with another key", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
			s.key = b.sender(t, pki.RoleSensor, "web-2", time.Second).key
			return s.cpu(7), false
		}, []string{".seg", "record 0", "(mac)"}},
		{"stale when it was received", func(t *testing.T, b *bank) (message, bool) {
			m := b.sender(t, pki.RoleMonitor, "mon-1", time.Second).alert(90)
			m.received = m.received.Add(31 * time.Second)
			return m, true
		}, []string{"entry 0", "not fresh"}},
		{"received before it was sent", func(t *testing.T, b *bank) (message, bool) {
			m := b.sender(t, pki.RoleSensor, "web-1", time.Minute).cpu(7)
			m.received = m.received.Add(-31 * time.Second)
			return m, false
		}, []string{".seg", "not fresh"}},
		{"a start in the future", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
			s.boot += 31_000
			return s.cpu(7), false
		}, []string{".seg", "not fresh"}},
		{"too large for its class", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
			return s.seal(s.topic(wire.KindCPU), &struct {
				Text string `json:"text"`
			}{strings.Repeat("x", 5000)}, nil), false
		}, []string{".seg", "size"}},
		{"a digest that contradicts itself", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
			s.seq = 9
			return s.seal(s.topic(wire.KindDigest), &wire.Digest{Boot: envelope.FormatBoot(s.boot), First: 5, Last: 4, Dropped: []wire.Drop{}}, s.signer), true
		}, []string{"entry 0", "contradicts itself"}},
		{"a digest over what was not sent yet", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
			return s.seal(s.topic(wire.KindDigest), &wire.Digest{Boot: envelope.FormatBoot(s.boot), First: 1, Last: 1, Dropped: []wire.Drop{}}, s.signer), true
		}, []string{"entry 0", "had not sent yet"}},
		{"a digest of another start", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
			s.seq = 9
			return s.seal(s.topic(wire.KindDigest), &wire.Digest{Boot: envelope.FormatBoot(s.boot - 1), First: 1, Last: 4, Dropped: []wire.Drop{}}, s.signer), true
		}, []string{"entry 0", "in another life"}},
		{"a digest that is none", func(t *testing.T, b *bank) (message, bool) {
			s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
			return s.seal(s.topic(wire.KindDigest), &wire.CPU{Server: "web-1"}, s.signer), true
		}, []string{"entry 0", "member"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			m, logged := test.make(t, b)
			if logged {
				b.craft(t, recordsOf(m), m.leaf(t))
			} else {
				b.craft(t, recordsOf(m))
			}
			b.verify(t).want(t, test.want...)
		})
	}
}

// A chain that was good once is not good for ever.
func TestCertificateExpiresOnTheWay(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleController, "lb-1", 10*time.Second)
	s.signer = b.mint(t, s.id, time.Minute, b.made)
	first := s.status()
	s.now = b.made.Add(61 * time.Second)
	late := s.status()
	s.now = b.made.Add(20 * time.Second)
	again := s.status()
	b.craftMessages(t, first, late, again)
	r := b.verify(t)
	r.want(t, "entry 1", "of melb/controller/lb-1: its signature is not good (signature)")
	r.want(t, ".seg", "record 1: its signature is not good")
	if r.Found != 2 || r.Signatures != 2 {
		t.Errorf("%+v", r)
	}
	// Nor is it for another use, whatever was asked first.
	c := b.open(t)
	m := late.delivery(t).Message
	leaf, issuer, err := m.Certificates()
	if err != nil {
		t.Fatal(err)
	}
	chains := newChains(c.Verifier, c.Root)
	for _, test := range []struct {
		usage pki.Usage
		at    time.Time
		good  bool
	}{
		{pki.UsageSign, leaf.NotBefore, true},
		{pki.UsageSign, leaf.NotAfter, true},
		{pki.UsageSign, leaf.NotBefore.Add(-time.Nanosecond), false},
		{pki.UsageSign, leaf.NotAfter.Add(time.Second), false},
		{0, leaf.NotBefore, false},
		{pki.UsageClient, leaf.NotBefore, true},
	} {
		for range 2 {
			id, err := chains.Verify(leaf, issuer, test.usage, test.at)
			if (err == nil) != test.good || test.good && id != s.id {
				t.Errorf("%v at %v: %v, %v", test.usage, test.at, id, err)
			}
		}
		if _, err := chains.Verify(leaf, c.Root, test.usage, test.at); err == nil {
			t.Error("another issuer is taken")
		}
	}
}

// What is in the log and is no message that was accepted.
func TestEntries(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	m := b.sender(t, pki.RoleMonitor, "mon-1", time.Second).alert(90)
	good := string(m.leaf(t))
	spelt := func(l leaf.Leaf) []byte {
		raw, err := l.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for _, test := range []struct {
		name string
		leaf []byte
		want string
	}{
		{"an unknown kind", []byte(strings.Replace(good, `"kind":"message"`, `"kind":"massage"`, 1)), "unknown kind"},
		{"a kind that nothing writes", []byte(strings.Replace(good, `"kind":"message"`, `"kind":"grant"`, 1)), `a grant with the verdict "accepted"`},
		{"an unknown verdict", []byte(strings.Replace(good, `"accepted"`, `"fine"`, 1)), `the verdict "fine"`},
		{"a refused message", []byte(strings.Replace(good, `"accepted"`, `"replayed"`, 1)), `the verdict "replayed"`},
		{"no leaf", []byte("hello"), "not a leaf"},
		{"another spelling", []byte(strings.Replace(good, `{"v":1,`, `{"v":1, `, 1)), "not a leaf"},
		{"no envelope", spelt(leaf.Leaf{Received: 1, Verdict: "accepted", Kind: leaf.KindMessage, Data: []byte("hello")}), "no message of its sender"},
		{"half an envelope", spelt(leaf.Leaf{Received: 1, Verdict: "accepted", Kind: leaf.KindMessage, Data: m.raw[:len(m.raw)/2]}), "no message of its sender"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			monitor := b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
			first, last := monitor.alert(90), monitor.alert(91)
			b.craft(t, recordsOf(first, last), first.leaf(t), test.leaf, last.leaf(t))
			r := b.verify(t)
			r.want(t, "entry 1", test.want)
			if r.Found != 1 || r.Entries != 3 || r.Signatures != 2 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// What anybody who can write the recorder's disk, or holds a key of it, does to
// a whole record.
func TestAttacks(t *testing.T) {
	t.Parallel()
	origin := newRecord(t)
	for _, test := range []struct {
		name   string
		attack func(t *testing.T, b *bank)
		want   []string
	}{
		{"a segment's tail cut between records", func(t *testing.T, b *bank) {
			path := b.segment(t, 3)
			b.rewrite(t, path, func(all []segment.Record) []segment.Record { return all[:len(all)-2] })
		}, []string{"segments: entries", "are in no segment"}},
		{"a segment's tail cut inside a record", func(t *testing.T, b *bank) {
			path := b.segment(t, 3)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, info.Size()-3); err != nil {
				t.Fatal(err)
			}
		}, []string{".seg", "incomplete record"}},
		{"a segment emptied", func(t *testing.T, b *bank) {
			if err := os.Truncate(b.segment(t, 3), 0); err != nil {
				t.Fatal(err)
			}
		}, []string{".seg", "it is empty"}},
		{"a segment cut behind its header", func(t *testing.T, b *bank) {
			if err := os.Truncate(b.segment(t, 3), 8); err != nil {
				t.Fatal(err)
			}
		}, []string{"segments: entries", "are in no segment"}},
		{"all segments deleted", func(t *testing.T, b *bank) {
			if err := os.RemoveAll(b.segments()); err != nil {
				t.Fatal(err)
			}
		}, []string{"segments: entries 0 to 31", "the file was deleted"}},
		{"a signed message taken out of a segment", func(t *testing.T, b *bank) {
			b.rewrite(t, b.segment(t, 0), func(all []segment.Record) []segment.Record {
				for i, r := range all {
					if strings.Contains(string(r.Envelope), `"sig":"`) {
						return append(all[:i:i], all[i+1:]...)
					}
				}
				t.Fatal("there is none")
				return nil
			})
		}, []string{"segments: entries 0 to 0,", "are in no segment"}},
		{"a reading doubled", func(t *testing.T, b *bank) {
			b.rewrite(t, b.segment(t, 0), func(all []segment.Record) []segment.Record { return append(all, all[0]) })
		}, []string{".seg", "is kept twice"}},
		{"a reading doubled before its digest", func(t *testing.T, b *bank) {
			b.rewrite(t, b.segment(t, 0), func(all []segment.Record) []segment.Record { return append(all[:1:1], all...) })
		}, []string{".seg", "is kept twice"}},
		{"a signed message doubled", func(t *testing.T, b *bank) {
			b.rewrite(t, b.segment(t, 0), func(all []segment.Record) []segment.Record { return append(all, all[len(all)-1]) })
		}, []string{".seg", "is kept twice"}},
		{"a record's verdict changed", func(t *testing.T, b *bank) {
			b.rewrite(t, b.segment(t, 0), func(all []segment.Record) []segment.Record {
				all[5].Verdict = 2
				return all
			})
		}, []string{".seg", "record 5: verdict 2"}},
		{"a record's time changed", func(t *testing.T, b *bank) {
			b.rewrite(t, b.segment(t, 0), func(all []segment.Record) []segment.Record {
				all[5].Received += 60_000
				return all
			})
		}, []string{".seg", "record 5:", "not fresh"}},
		{"a file beside the segments", func(t *testing.T, b *bank) {
			write(t, filepath.Join(b.segments(), "20000101T000000.000Z.seg~"), "")
		}, []string{"20000101T000000.000Z.seg~", "does not belong there"}},
		{"a link for a segment", func(t *testing.T, b *bank) {
			if err := os.Symlink(b.segment(t, 0), filepath.Join(b.segments(), "20000101T000000.000Z.seg")); err != nil {
				t.Fatal(err)
			}
		}, []string{"20000101T000000.000Z.seg", "does not belong there"}},
		{"a file in the log", func(t *testing.T, b *bank) {
			write(t, filepath.Join(b.log(), "notes.txt"), "x")
		}, []string{"log/notes.txt", "does not belong"}},
		{"a checkpoint of another log", func(t *testing.T, b *bank) {
			other := newBank(t)
			raw, err := os.ReadFile(filepath.Join(other.log(), "checkpoint"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(b.log(), "checkpoint"), string(raw)) // of the same key, and empty
		}, []string{"log/checkpoint", "an older one was put in its place"}},
		{"an older watermark", func(t *testing.T, b *bank) {
			other := newBank(t)
			raw, err := os.ReadFile(other.watermark())
			if err != nil {
				t.Fatal(err)
			}
			write(t, b.watermark(), string(raw))
		}, []string{"watermark/newest", "an older one was put in its place"}},
		{"log and watermark rolled back together", func(t *testing.T, b *bank) {
			other := newBank(t)
			if err := os.RemoveAll(b.log()); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(b.log(), os.DirFS(other.log())); err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(other.watermark())
			if err != nil {
				t.Fatal(err)
			}
			write(t, b.watermark(), string(raw))
		}, []string{"/log:", "an older log was put in its place"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := origin.copy(t)
			test.attack(t, b)
			b.verifyAtRest(t).want(t, test.want...)
		})
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// segment returns the path of the segment with that number.
func (b *bank) segment(t testing.TB, number int) string {
	t.Helper()
	all, err := segment.List(b.segments())
	if err != nil {
		t.Fatal(err)
	}
	if number < 0 { // from the end
		number += len(all)
	}
	return all[number].Path
}

// rewrite writes a segment anew with other records: no checksum stands in the
// way of who can write the file.
func (b *bank) rewrite(t testing.TB, path string, change func([]segment.Record) []segment.Record) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []segment.Record
	for r := segment.NewReader(f, path); ; {
		record, err := r.Next()
		if err != nil {
			break
		}
		record.Envelope = append([]byte(nil), record.Envelope...)
		all = append(all, record)
	}
	dir := t.TempDir()
	w, err := segment.OpenWriter(segment.Config{Dir: dir, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range change(all) {
		if err := w.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	made, err := segment.List(dir)
	if err != nil || len(made) != 1 {
		t.Fatal(made, err)
	}
	if err := os.Rename(made[0].Path, path); err != nil {
		t.Fatal(err)
	}
}

// An older copy of the log, whole and signed, in the place of the newer one.
func TestLogRolledBack(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
	b.craftMessages(t, s.alert(90), s.alert(91), s.alert(92))
	older := b.copy(t)
	var newer []message
	for range 3 {
		s.now = s.now.Add(time.Minute)
		newer = append(newer, s.alert(93))
	}
	b.craftMessages(t, newer...)
	b.sound(t)

	bundle := filepath.Join("bundles", "melb", "recorder", "rec-1")
	checkpoint := b.copy(t)
	put(t, older, checkpoint, filepath.Join(bundle, "state", "log", "checkpoint"))
	checkpoint.verifyAtRest(t).want(t, "log/checkpoint", "it is of 3 entries, and 6 were signed")

	watermark := b.copy(t)
	put(t, older, watermark, filepath.Join(bundle, "watermark", "newest"))
	watermark.verifyAtRest(t).want(t, "watermark/newest", "it notes 3 entries, and 6 were shown")

	log := filepath.Join(bundle, "state", "log")
	remove(t, filepath.Join(b.Dir, log))
	put(t, older, b, log)
	b.verifyAtRest(t).want(t, "rec-1/state/log:", "had 6 entries when the watermark", "rolled back")
	// Together with its watermark only the segments give it away.
	put(t, older, b, filepath.Join(bundle, "watermark", "newest"))
	b.verifyAtRest(t).want(t, "rec-1/state/log:", "ends before 2 signed messages", "an older log was put in its place")
}

// put copies a file or directory from one site's directory to another's.
func put(t testing.TB, from, to *bank, path string) {
	t.Helper()
	info, err := os.Stat(filepath.Join(from.Dir, path))
	if err != nil {
		t.Fatal(err)
	}
	if info.IsDir() {
		err = os.CopyFS(filepath.Join(to.Dir, path), os.DirFS(filepath.Join(from.Dir, path)))
	} else {
		var raw []byte
		if raw, err = os.ReadFile(filepath.Join(from.Dir, path)); err == nil {
			err = os.WriteFile(filepath.Join(to.Dir, path), raw, 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// An entry taken out of the log, by somebody who mends its bundle and its tile.
func TestEntryRemoved(t *testing.T) {
	t.Parallel()
	b := newRecord(t)
	var bundle string
	for _, path := range files(t, b.log()) {
		if strings.HasSuffix(path, "tile/entries/000.p/32") {
			bundle = path
		}
	}
	raw, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	from := 0
	for entryAt(t, raw, 0, from) < 17 {
		from++
	}
	to := from
	for entryAt(t, raw, 0, to) < 18 {
		to++
	}
	write(t, bundle, string(raw[:from])+string(raw[to:]))
	b.verify(t).want(t, "entry 17")
}

// A reading changed by who holds the sensors' role key: its MAC is right, and
// the digest that its sender signed says that it is not what was sent.
func TestRoleKeyForgesAReading(t *testing.T) {
	t.Parallel()
	for _, withoutKeys := range []bool{false, true} {
		b := newBank(t)
		s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
		readings := s.readings(3)
		forged := s.sealAs(envelope.Nonce{Boot: s.boot, Seq: 3}, s.topic(wire.KindCPU), &wire.CPU{Timestamp: 1, Server: "web-1", Interval: 5, CPUUsage: 99}, nil)
		readings[2] = forged
		b.craftMessages(t, append(readings, s.digest())...)
		c, err := Open(Options{Config: b.configFile(), WithoutKeys: withoutKeys})
		if err != nil {
			t.Fatal(err)
		}
		r := verifyWith(t, c)
		r.want(t, "entry 0", "messages 1 to 6", "does not match", b.segment(t, 0))
		if r.Contradicted != 1 || r.Confirmed != 0 || (r.MACs == 0) != withoutKeys {
			t.Errorf("%+v", r)
		}
	}
}

// Readings that nobody signed for are shown: added under new numbers, in the
// place of what was given up, or under a start that never was.
func TestRoleKeyAddsReadings(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleSensor, "web-1", time.Minute)
	later := s.now
	s.now, s.boot = s.now.Add(-30*time.Second), s.boot-20_000
	never := s.cpu(1) // an older start
	s.now, s.boot, s.seq, s.sums = later, s.boot+20_000, 0, nil
	first := s.readings(1)
	s.drop()
	dropped := s.sealAs(envelope.Nonce{Boot: s.boot, Seq: s.seq}, s.topic(wire.KindCPU), &wire.CPU{Timestamp: 1, Server: "web-1", Interval: 5}, nil)
	digest := s.digest()
	tail := s.cpu(2)
	all := append(first, dropped, digest, never, tail)
	b.craftMessages(t, all...)
	r := b.verify(t)
	if !r.OK() || r.Confirmed != 1 || r.Vouched != 2 || r.Pending != 1 || r.Unvouched != 2 || r.Missing != 0 {
		t.Errorf("%+v", r)
	}
	boot := envelope.FormatBoot(s.boot)
	old := envelope.FormatBoot(s.boot - 20_000)
	if len(r.Gaps) != 2 || r.Gaps[0].Boot != old || r.Gaps[0].First != 1 || r.Gaps[1].Boot != boot || r.Gaps[1].First != 3 ||
		r.Gaps[1].What != GapUnvouched || r.Gaps[0].What != GapUnvouched || r.Gaps[0].Sender != "melb/sensor/web-1" {
		t.Errorf("%+v", r.Gaps)
	}
}

// A recorder that was down, and a reading taken out by hand, are the same to
// see: a gap with its place and time, and nothing confirmed around it.
func TestGaps(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
	_ = append(s.readings(2), s.digest())     // 1 to 5, before it was up
	kept := append(s.readings(2), s.digest()) // 6 to 10, over 5 to 9
	more := append(s.readings(2), s.digest()) // 11 to 15, over 10 to 14
	last := s.readings(2)                     // 16 to 19
	at := s.now
	last = append(last[:1], last[2:]...)
	all := append(append(append(kept, more...), last...), s.digest()) // over 15 to 19
	b.craftMessages(t, all...)
	r := b.verify(t)
	if !r.OK() || r.Missing != 6 || r.Incomplete != 2 || r.Confirmed != 1 || r.Vouched != 5 || r.Unvouched != 7 {
		t.Errorf("%+v", r)
	}
	want := []Gap{
		{What: GapMissing, First: 1, Last: 5},
		{What: GapUnvouched, First: 6, Last: 9},
		{What: GapUnvouched, First: 16, Last: 16},
		{What: GapMissing, First: 17, Last: 17},
		{What: GapUnvouched, First: 18, Last: 19},
	}
	if len(r.Gaps) != len(want) {
		t.Fatalf("%+v", r.Gaps)
	}
	for i, g := range r.Gaps {
		if g.What != want[i].What || g.First != want[i].First || g.Last != want[i].Last || g.Sender != "melb/sensor/web-1" ||
			g.Boot != envelope.FormatBoot(s.boot) || g.Before == 0 || (g.After == 0) != (i == 0) {
			t.Errorf("gap %d: %+v", i, g)
		}
	}
	if g := r.Gaps[3]; g.After != at.Add(-10*time.Second).UnixMilli() || g.Before != at.Add(-5*time.Second).UnixMilli() {
		t.Errorf("%+v", g)
	}
}

// The holder of a sender's signing key can claim any numbers: the report stays
// small, and its sums do not turn round.
func TestClaimsOfHugeNumbers(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	var all []message
	for i := range 3 {
		s := b.sender(t, pki.RoleSensor, "web-1", time.Duration(i+1)*time.Second)
		s.seq = 1<<64 - 2
		all = append(all, s.cpu(7))
	}
	b.craftMessages(t, all...)
	r := b.verify(t)
	if !r.OK() || r.Missing != 1<<64-1 || len(r.Gaps) != 5 {
		t.Errorf("%+v", r)
	}
}

func TestDigestsOverTheSameMessages(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
	first := s.readings(2)
	open := s.sums
	digest := s.digest()
	s.first, s.sums = 1, open
	s.seq++ // the second one's own number
	again := s.sealAs(envelope.Nonce{Boot: s.boot, Seq: 6}, s.topic(wire.KindDigest), &wire.Digest{Boot: envelope.FormatBoot(s.boot), First: 2, Last: 3, Dropped: []wire.Drop{}}, s.signer)
	b.craftMessages(t, append(first, digest, again)...)
	b.verify(t).want(t, "entry 1", "another digest of its sender covers")
}

// Two messages with one number: in the log, in a segment, or one in each.
func TestOneNumberTwice(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
	one := s.alert(90)
	s.seq--
	two := s.alert(91)
	b.craft(t, recordsOf(one), one.leaf(t), two.leaf(t))
	b.verify(t).want(t, "entry 1", "entry 0 is another message with the same number")

	b = newBank(t)
	b.craft(t, recordsOf(two), one.leaf(t))
	b.verify(t).want(t, ".seg", "it is not entry 0 of the log")

	b = newBank(t)
	sensor := b.sender(t, pki.RoleSensor, "web-1", time.Second)
	digest := sensor.digest0()
	sensor.seq--
	reading := sensor.cpu(7)
	b.craft(t, recordsOf(digest, reading), digest.leaf(t))
	b.verify(t).want(t, ".seg", "entry 0 of the log has the same number")

	// The same one twice in the log happens when an answer is lost.
	b = newBank(t)
	b.craft(t, recordsOf(one), one.leaf(t), one.leaf(t))
	if r := b.verify(t); !r.OK() {
		t.Errorf("%+v", r)
	}
}

// digest0 is a digest over messages that nobody kept.
func (s *sender) digest0() message {
	s.seq = 9
	return s.seal(s.topic(wire.KindDigest), &wire.Digest{Boot: envelope.FormatBoot(s.boot), First: 1, Last: 4, Dropped: []wire.Drop{}}, s.signer)
}

// A crash may leave signed messages in a segment that the log has not got; a
// message that it has not got though the recorder went on was withheld.
func TestSignedAndNotInTheLog(t *testing.T) {
	t.Parallel()
	newBank(t)
	for _, test := range []struct {
		name  string
		after time.Duration // until the recorder received the next message
		then  bool          // whether that one is in the log
		want  string
	}{
		{"the last before a crash", 0, false, ""},
		{"a batch before a crash", 5 * time.Second, false, ""},
		{"the log went on", time.Minute, true, "the log does not hold"},
		{"the segment alone went on", time.Minute, false, "an older log was put in its place"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			s := b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
			logged, missing := s.alert(90), s.alert(91)
			all := []message{logged, missing}
			leaves := [][]byte{logged.leaf(t)}
			if test.after > 0 {
				s.now = s.now.Add(test.after)
				next := s.alert(92)
				all = append(all, next)
				if test.then {
					leaves = append(leaves, next.leaf(t))
				}
			}
			b.craft(t, recordsOf(all...), leaves...)
			r := b.verifyAtRest(t)
			if test.want == "" {
				if !r.OK() || r.Unlogged != len(all)-len(leaves) {
					t.Errorf("%+v", r)
				}
				return
			}
			r.want(t, test.want)
		})
	}
}

// A forger's signed message that is in a segment alone is judged too.
func TestForgedSignatureInASegment(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
	s.signer = b.mint(t, s.id, time.Hour, b.made)
	b.craft(t, recordsOf(s.alert(90)))
	b.verify(t).want(t, ".seg", "record 0", "does not pin")
}

// Old segments may be deleted, if the auditor says since when they are kept.
func TestKeptSince(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
	b.craftMessages(t, s.alert(90), s.alert(91))
	s.now = s.now.Add(time.Hour)
	since := s.now
	b.craftMessages(t, s.alert(92))
	if err := os.Remove(b.segment(t, 0)); err != nil {
		t.Fatal(err)
	}
	c := b.open(t)
	verifyWith(t, c).want(t, "segments: entries 0 to 1,", "are in no segment")
	c.KeptSince = since
	if r := verifyWith(t, c); !r.OK() {
		t.Errorf("%+v", r)
	}
	c.KeptSince = since.Add(-time.Hour)
	verifyWith(t, c).want(t, "segments: entries 0 to 1,")
}

// A recorder that is running has time to finish what it writes.
func TestTailBeingWritten(t *testing.T) {
	t.Parallel()
	b := newRecord(t)
	c := b.open(t)
	path := b.segment(t, -1)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{0, 5, len(whole) - 1} {
		if err := os.Truncate(path, int64(cut)); err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			go func() {
				time.Sleep(time.Second)
				write(t, path, string(whole))
			}()
			if r := verifyWith(t, c); !r.OK() || r.Missing > 0 {
				t.Errorf("cut at %d: %+v", cut, r)
			}
		})
	}
}

func TestRoot(t *testing.T) {
	t.Parallel()
	b, other := newRecord(t), newBank(t)
	root := filepath.Join(b.Authority(), "root.pem")
	if _, err := Open(Options{Config: b.configFile(), Root: root}); err != nil {
		t.Error(err)
	}
	var wrong Finding
	_, err := Open(Options{Config: b.configFile(), Root: filepath.Join(other.Authority(), "melb", "people-ca.pem")})
	if !errors.As(err, &wrong) || !strings.HasSuffix(wrong.Where, "root.pem") {
		t.Errorf("another root: %v", err)
	}
	if _, err := Open(Options{Config: b.configFile(), Root: root + "x"}); err == nil || errors.As(err, &wrong) {
		t.Errorf("no such root: %v", err)
	}
}

// What cannot be read is an error; what is missing or wrong is a finding.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	newBank(t)
	for _, test := range []struct {
		name    string
		change  func(t *testing.T, b *bank)
		finding string // where; "" for an error that is none
	}{
		{"no configuration", func(t *testing.T, b *bank) { remove(t, b.configFile()) }, ""},
		{"a configuration that is a directory", func(t *testing.T, b *bank) {
			remove(t, b.configFile())
			if err := os.Mkdir(b.configFile(), 0o700); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"an unknown setting", func(t *testing.T, b *bank) { write(t, b.configFile(), "colour: blue\n") }, "levee-recorder.yaml"},
		{"an empty configuration", func(t *testing.T, b *bank) { write(t, b.configFile(), "") }, "levee-recorder.yaml"},
		{"no state directory", func(t *testing.T, b *bank) { remove(t, b.State(recorderID)) }, "levee-recorder.yaml"},
		{"no watermark directory", func(t *testing.T, b *bank) { remove(t, filepath.Dir(b.watermark())) }, "levee-recorder.yaml"},
		{"no sums", func(t *testing.T, b *bank) { remove(t, filepath.Join(b.Bundle(recorderID), "SHA256SUMS")) }, "SHA256SUMS"},
		{"no root", func(t *testing.T, b *bank) { remove(t, filepath.Join(b.Bundle(recorderID), "root.pem")) }, "root.pem"},
		{"no document", func(t *testing.T, b *bank) { remove(t, filepath.Join(b.Bundle(recorderID), "site.json")) }, "site.json"},
		{"no policy", func(t *testing.T, b *bank) { remove(t, filepath.Join(b.Bundle(recorderID), "policy.yaml")) }, "policy.yaml"},
		{"no keys", func(t *testing.T, b *bank) { remove(t, filepath.Join(b.Bundle(recorderID), "envelope.keys")) }, "envelope.keys"},
		{"keys for everybody", func(t *testing.T, b *bank) {
			if err := os.Chmod(filepath.Join(b.Bundle(recorderID), "envelope.keys"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "envelope.keys"},
		{"a sensor's bundle", func(t *testing.T, b *bank) {
			text, err := os.ReadFile(b.configFile())
			if err != nil {
				t.Fatal(err)
			}
			write(t, b.configFile(), strings.Replace(string(text), "bundle: .\n", "bundle: ../../sensor/web-1\n", 1))
		}, "SHA256SUMS"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			test.change(t, b)
			_, err := Open(Options{Config: b.configFile()})
			var wrong Finding
			isFinding := errors.As(err, &wrong)
			if err == nil || isFinding != (test.finding != "") || isFinding && !strings.HasSuffix(wrong.Where, test.finding) {
				t.Errorf("%v", err)
			}
		})
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyNeedsWhatItRestsOn(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	for name, change := range map[string]func(*Config){
		"root":     func(c *Config) { c.Root = nil },
		"verifier": func(c *Config) { c.Verifier = nil },
		"document": func(c *Config) { c.Document = nil },
		"policy":   func(c *Config) { c.Policy = nil },
	} {
		c := b.open(t)
		change(&c)
		if r, err := Verify(t.Context(), c); err == nil {
			t.Errorf("without %s: %+v", name, r)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := Verify(ctx, b.open(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", r, err)
	}
}
