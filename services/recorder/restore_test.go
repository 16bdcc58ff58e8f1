package recorder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"levee/internal/records"
	"levee/internal/translog/leaf"
	"levee/internal/translog/proof"
	"levee/services/recorder/entries"
	"levee/services/recorder/ledger"
	"levee/services/recorder/segment"
)

// place is a recorder's directory: real segments and a log of bundles alone.
type place struct {
	t       *testing.T
	dir     string
	entries [][]byte
	lines   *lines
}

func newPlace(t *testing.T) *place {
	p := &place{t: t, dir: t.TempDir(), lines: new(lines)}
	must(t, os.Mkdir(p.path("segments"), 0o700))
	return p
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }

// AppendAll appends to the log.
func (p *place) AppendAll(_ context.Context, entries [][]byte) (indices []uint64, err error) {
	for _, e := range entries {
		indices = append(indices, uint64(len(p.entries)))
		p.entries = append(p.entries, bytes.Clone(e))
	}
	for n := 0; n*256 < len(p.entries); n++ {
		part := p.entries[n*256 : min(len(p.entries), n*256+256)]
		var b []byte
		for _, e := range part {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(e))), e...)
		}
		path := filepath.Join(p.path("log"), filepath.FromSlash(proof.TilePath(tlog.Tile{H: 8, L: -1, N: int64(n), W: len(part)})))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return nil, err
		}
	}
	return indices, nil
}

// logged returns what the log has, as verdict and envelope.
func (p *place) logged() (all []string) {
	for _, e := range p.entries {
		l, err := leaf.Parse(e)
		must(p.t, err)
		all = append(all, l.Verdict+" "+string(l.Data))
	}
	return all
}

func (p *place) writer(maxSize int64) *segment.Writer {
	p.t.Helper()
	w, err := segment.OpenWriter(segment.Config{Dir: p.path("segments"), Log: slog.New(p.lines), MaxSize: maxSize})
	must(p.t, err)
	return w
}

// write appends records that a recorder had synced.
func (p *place) write(records ...segment.Record) {
	p.t.Helper()
	w := p.writer(0)
	for _, r := range records {
		must(p.t, w.Append(r))
	}
	must(p.t, w.Close())
}

func record(verdict segment.Verdict, text string) segment.Record {
	return segment.Record{Received: received.UnixMilli(), Verdict: verdict, Envelope: []byte(text)}
}

func (p *place) restore() *Held {
	p.t.Helper()
	held, err := Restore(p.t.Context(), Restoring{Note: p.path("held"), Segments: p.path("segments"), Records: p.path("log"),
		Size: int64(len(p.entries)), Transparency: p, Logger: slog.New(p.lines)})
	must(p.t, err)
	return held
}

// keep runs a recorder over what is there, and has it keep messages.
func (p *place) keep(change func(*Config), messages ...string) *Recorder {
	p.t.Helper()
	w := p.writer(0)
	d := &disk{opened: original}
	c := Config{Site: "melb", Transparency: p, Segments: w, Session: d, Held: p.restore(), Note: p.path("held"), Log: slog.New(p.lines)}
	if change != nil {
		change(&c)
	}
	r, err := New(c)
	must(p.t, err)
	for _, m := range messages {
		r.Deliver(sent(m))
	}
	ctx, cancel := context.WithCancel(p.t.Context())
	cancel()
	must(p.t, r.Run(ctx))
	must(p.t, w.Close())
	return r
}

// kept returns what the segments have, as verdict and envelope.
func (p *place) kept() (all []string) {
	p.t.Helper()
	files, err := segment.List(p.path("segments"))
	must(p.t, err)
	for _, f := range files {
		b, err := os.ReadFile(f.Path)
		must(p.t, err)
		for r := segment.NewReader(bytes.NewReader(b), f.Path); ; {
			rec, err := r.Next()
			if err != nil {
				break
			}
			all = append(all, rec.Verdict.String()+" "+string(rec.Envelope))
		}
	}
	return all
}

// upTo returns what of web-1 may be acknowledged.
func upTo(h *Held) uint64 {
	h.ledger.GiveUp([]byte("melb/sensor/web-1"), 1, 1<<40, 1<<40) // touches it
	h.ledger.Commit()
	for _, a := range h.ledger.Due(time.Now(), 1) {
		return a.Seq
	}
	return 0
}

func held(h *Held, seq uint64) bool {
	return h.ledger.Holds(ledger.Message{Sender: []byte("melb/sensor/web-1"), Boot: 1, Seq: seq})
}

// What was kept is held after a start, however the last one ended, and is kept
// once.
func TestRestartKeepsEachOnce(t *testing.T) {
	p := newPlace(t)
	first := []string{ram(1), ram(2), alert(3), ram(5)}
	p.keep(nil, first...)
	p.write(record(segment.Accepted, ram(6)), record(segment.Late, ram(4))) // and the recorder died before it noted that
	want := append(slices.Clone(first), ram(6), ram(4), ram(7))
	p.keep(nil, append(want, first...)...)
	if got := p.kept(); len(got) != len(want) {
		t.Errorf("kept %d records instead of %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	if got := p.logged(); !slices.Equal(got, []string{"accepted " + alert(3)}) {
		t.Errorf("the log has %q", got)
	}
	if seq := upTo(p.restore()); seq != 7 {
		t.Errorf("up to %d", seq)
	}
}

// A start reads what came after the note. A note that does not hold is passed
// over, and everything is read.
func TestNoteOfWhatIsHeld(t *testing.T) {
	damage := func(change func([]byte) []byte) func(*place) {
		return func(p *place) {
			b, err := os.ReadFile(p.path("held"))
			must(p.t, err)
			must(p.t, os.WriteFile(p.path("held"), change(b), 0o600))
		}
	}
	rewrite := func(change func(*memo)) func(*place) {
		return damage(func(b []byte) []byte {
			n, _, err := parseNote(b)
			if err != nil {
				panic(err)
			}
			change(&n)
			if b, err = n.encode(); err != nil {
				panic(err)
			}
			return b
		})
	}
	for name, test := range map[string]struct {
		change func(*place)
		whole  bool // everything must be read
		quiet  bool // and nobody needs to know
	}{
		"as it was":      {change: func(*place) {}, quiet: true},
		"none":           {change: func(p *place) { must(p.t, os.Remove(p.path("held"))) }, whole: true, quiet: true},
		"empty":          {change: damage(func([]byte) []byte { return nil }), whole: true},
		"a changed byte": {change: damage(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), whole: true},
		"a number that changed": {change: damage(func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"prefix":3`), []byte(`"prefix":9`), 1)
		}), whole: true},
		"cut":                      {change: damage(func(b []byte) []byte { return b[:len(b)-1] }), whole: true},
		"another version":          {change: rewrite(func(n *memo) { n.Version = 2 }), whole: true},
		"of more records":          {change: rewrite(func(n *memo) { n.Records += 100 }), whole: true},
		"of a file that is gone":   {change: rewrite(func(n *memo) { n.Segment++ }), whole: true},
		"of another record":        {change: rewrite(func(n *memo) { n.Records-- }), whole: true},
		"of a longer log":          {change: rewrite(func(n *memo) { n.Size++ }), whole: true},
		"of senders that are none": {change: rewrite(func(n *memo) { n.Senders[0].Sender = "x" }), whole: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.write(record(segment.Accepted, ram(1)))
			p.keep(nil, ram(2), alert(3))
			p.write(record(segment.Accepted, ram(4)))
			test.change(p)
			p.lines.texts = nil
			// What is read again is found damaged, where it is looked at.
			files, err := segment.List(p.path("segments"))
			must(t, err)
			h := p.restore()
			if seq := upTo(h); seq != 4 || !held(h, 4) || held(h, 5) {
				t.Errorf("up to %d", seq)
			}
			if complained := slices.ContainsFunc(p.lines.texts, func(s string) bool { return strings.Contains(s, "all") && strings.Contains(s, "read instead") }); complained == test.quiet {
				t.Errorf("said %q", p.lines.texts)
			}
			b, err := os.ReadFile(files[0].Path)
			must(t, err)
			b[30] ^= 1
			must(t, os.WriteFile(files[0].Path, b, 0o600))
			if h := p.restore(); held(h, 1) == test.whole {
				t.Errorf("the first file was read: %v", !held(h, 1))
			}
		})
	}
}

// What was synced and not logged when the recorder died is logged before it is
// acknowledged, as it was received, and once.
func TestLogsWhatWasNotLogged(t *testing.T) {
	p := newPlace(t)
	p.keep(nil, alert(1), ram(2))
	lost := []segment.Record{record(segment.Accepted, alert(3)), record(segment.Late, alert(4)), record(segment.Accepted, ram(5))}
	mac, _ := segment.VerdictOf("mac")
	p.write(append(lost, record(mac, alert(6)), record(mac, "no envelope"))...)
	want := []string{"accepted " + alert(1), "accepted " + alert(3), "late " + alert(4)}
	for range 2 {
		h := p.restore()
		if got := p.logged(); !slices.Equal(got, want) {
			t.Errorf("the log has %q", got)
		}
		if seq := upTo(h); seq != 5 || held(h, 6) {
			t.Errorf("up to %d", seq)
		}
	}
	if l, err := leaf.Parse(p.entries[1]); err != nil || l.Received != received.UnixMilli() {
		t.Errorf("%+v, %v", l, err)
	}
	// A log that cannot be appended to, or read, acknowledges nothing.
	p.write(record(segment.Accepted, alert(7)))
	_, err := Restore(t.Context(), Restoring{Note: p.path("held"), Segments: p.path("segments"), Records: p.path("log"),
		Size: int64(len(p.entries)), Transparency: &disk{logErr: errDisk}, Logger: quiet()})
	if err == nil {
		t.Error("what cannot be logged is held")
	}
	must(t, os.RemoveAll(p.path("log")))
	_, err = Restore(t.Context(), Restoring{Note: p.path("no note"), Segments: p.path("segments"), Records: p.path("log"),
		Size: int64(len(p.entries)), Transparency: p, Logger: quiet()})
	if err == nil {
		t.Error("a log that cannot be read is passed over")
	}
}

// More than a bundle, and more than is logged at once.
func TestLogsManyThatWereNotLogged(t *testing.T) {
	p := newPlace(t)
	var all []segment.Record
	for seq := range uint64(2*maxLogged + 3) {
		all = append(all, record(segment.Accepted, alert(seq+1)))
	}
	p.write(all...)
	p.restore()
	if len(p.entries) != len(all) {
		t.Errorf("%d entries", len(p.entries))
	}
	p.restore()
	if len(p.entries) != len(all) {
		t.Errorf("%d entries after another start", len(p.entries))
	}
}

// A dispute, and what a digest declares, outlive a start; damage is named, and
// what lies behind it is not acknowledged.
func TestRestoresDisputesAndGaps(t *testing.T) {
	collision, _ := segment.VerdictOf("nonce_collision")
	p := newPlace(t)
	p.write(record(segment.Accepted, ram(1)), record(segment.Accepted, ram(2)), record(collision, text(2, ramTopic, `{"n":2}`, false)),
		record(collision, text(9, ramTopic, `{"n":2}`, false)), record(segment.Accepted, ram(3)))
	if seq := upTo(p.restore()); seq != 1 {
		t.Errorf("up to %d beyond a dispute", seq)
	}
	p = newPlace(t)
	p.write(record(segment.Accepted, ram(1)), record(segment.Accepted, digest(5, 1, 4, `["00000000001",2,4]`)))
	if seq := upTo(p.restore()); seq != 5 {
		t.Errorf("up to %d with what was given up", seq)
	}
	p = newPlace(t)
	for seq := range uint64(3) {
		p.write(record(segment.Accepted, ram(seq+1)))
	}
	files, err := segment.List(p.path("segments"))
	must(t, err)
	b, err := os.ReadFile(files[1].Path)
	must(t, err)
	b[len(b)-5] ^= 1
	must(t, os.WriteFile(files[1].Path, b, 0o600))
	h := p.restore()
	if seq := upTo(h); seq != 1 || held(h, 2) || !held(h, 3) {
		t.Errorf("up to %d beyond damage", seq)
	}
	if !slices.ContainsFunc(p.lines.texts, func(s string) bool { return strings.HasPrefix(s, "a segment could not be read to its end") }) {
		t.Errorf("said %q", p.lines.texts)
	}
}

// What retention deletes is declared, and held all the same.
func TestRetention(t *testing.T) {
	p := newPlace(t)
	p.write(record(segment.Accepted, ram(1)))
	p.write(record(segment.Accepted, ram(2)))
	files, err := segment.List(p.path("segments"))
	must(t, err)
	old := func(path string, start time.Time) string {
		name := filepath.Join(p.path("segments"), start.UTC().Format("20060102T150405.000Z.seg"))
		must(t, os.Rename(path, name))
		return filepath.Base(name)
	}
	began := time.Now().Add(-3 * time.Hour).Truncate(time.Millisecond)
	first := old(files[0].Path, began)
	old(files[1].Path, began.Add(time.Hour))
	withRetention := func(retention time.Duration) func(*Config) {
		return func(c *Config) { c.Retention, c.Deletions = retention, p.path("deleted") }
	}
	p.keep(withRetention(3*time.Hour), ram(3)) // nothing ended so long ago
	if got := p.kept(); len(got) != 3 {
		t.Fatalf("kept %q", got)
	}
	w := p.writer(0)
	c := Config{Site: "melb", Transparency: p, Segments: w, Session: new(disk), Held: p.restore(), Note: p.path("held"), Log: slog.New(p.lines)}
	withRetention(90 * time.Minute)(&c)
	r, err := New(c)
	must(t, err)
	r.look(time.Now())
	must(t, w.Close())
	if got := p.kept(); len(got) != 2 {
		t.Errorf("kept %q", got)
	}
	all, err := records.ReadDeletions(p.path("deleted"))
	if err != nil || len(all) != 1 || all[0].File != first || all[0].Ended != began.Add(time.Hour).UnixMilli() {
		t.Errorf("declared %+v, %v", all, err)
	}
	if h := p.restore(); upTo(h) != 3 || !held(h, 1) {
		t.Error("what was deleted is not held any more")
	}
	// Nothing is deleted that is not written down as held.
	r.config.Note, r.dirty, r.noted = filepath.Join(p.dir, "nowhere", "held"), true, time.Time{}
	r.config.Segments = failing{t}
	r.look(time.Now())
}

// failing must not be asked to prune.
type failing struct{ t *testing.T }

func (failing) Append(segment.Record) error { return nil }
func (failing) Sync() error                 { return nil }
func (failing) Position() segment.Position  { return segment.Position{} }
func (f failing) Prune(time.Time, segment.Position, func(segment.File, int64) error) error {
	f.t.Error("pruned")
	return nil
}

func FuzzParseNote(f *testing.F) {
	l := ledger.New()
	l.Take(ledger.Message{Sender: []byte("melb/sensor/web-1"), Boot: 1, Seq: 2, Sum: sha256.Sum256(nil)})
	n := memo{Version: 1, Last: strings.Repeat("A", 43), Senders: l.State()}
	b, err := n.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[65:])
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := sha256.Sum256(b)
		if _, _, err := parseNote(b); err == nil {
			t.Fatal("without a sum")
		}
		n, held, err := parseNote(append([]byte(hexOf(sum)+"\n"), b...))
		if err != nil {
			return
		}
		n.Senders = held.ledger.State()
		again, err := n.encode()
		if err == nil {
			_, _, err = parseNote(again)
		}
		if err != nil {
			t.Fatalf("what was read is not written: %v", err)
		}
	})
}

func hexOf(sum [sha256.Size]byte) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for _, c := range sum {
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

// readLog calls each with the entries of the log in dir.
func readLog(dir string, size int64, each func(leaf.Leaf)) error {
	return entries.Read(context.Background(), dir, 0, size, func(_ int64, raw []byte) error {
		l, err := leaf.Parse(raw)
		each(l)
		return err
	})
}
