package spool

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"levee/envelope"
	"levee/internal/wire"
)

func TestOpenRefuses(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no directory": func(c *Config) { c.Dir = "" },
		"no sender":    func(c *Config) { c.Sender = "" },
		"no boot":      func(c *Config) { c.Boot = 0 },
		"no logger":    func(c *Config) { c.Log = nil },
		"no room":      func(c *Config) { c.Max = MinMax - 1 },
	} {
		c := Config{Dir: t.TempDir(), Sender: sender, Boot: testBoot, Max: MinMax, Log: quiet()}
		change(&c)
		if _, err := Open(c); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

// What was written is there for the next start, byte for byte and in order, with
// no word of goodbye; and nothing but the file was made.
func TestOutlivesTheProcess(t *testing.T) {
	dir := fresh(t)
	s := open(t, dir, testBoot)
	if len(files(t, dir)) != 0 {
		t.Error("an empty one makes files")
	}
	s.add(t, 1, 300, 10)
	s.stored()
	next := open(t, dir, testBoot+1)
	if st := next.Stats(); st.Messages != 300 || st.Failed {
		t.Errorf("%+v", st)
	}
	next.add(t, 1, 5, 10)
	last := open(t, dir, testBoot+2) // whose 5 were not written
	wants(t, "the second start", slices.DeleteFunc(next.rest(t), func(n envelope.Nonce) bool { return n.Boot == testBoot+1 }), testBoot, 1, 300)
	wants(t, "the third", last.rest(t), testBoot, 1, 300)
	last.stored()
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Whatever a file was cut to, what is whole of it is read; whatever was changed
// in it, nothing behind that is, and it is said.
func TestDamagedFiles(t *testing.T) {
	dir := fresh(t)
	s := open(t, dir, testBoot)
	s.add(t, 1, 4, 0)
	s.stored()
	path := s.newest().path(dir)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		log := new(logBuffer)
		cut := open(t, dir, testBoot+1, logsTo(log))
		wants(t, "cut", cut.rest(t), testBoot, 1, uint64(strings.Count(string(whole[:n]), "\n")))
		if log.count("are lost") != 0 {
			t.Errorf("%d bytes: a torn end is an error", n)
		}
	}
	line := len(whole) / 4
	for _, n := range []int{1, 1000, 100 << 10} {
		if err := os.WriteFile(path, append(slices.Clone(whole[:line]), make([]byte, n)...), 0o600); err != nil {
			t.Fatal(err)
		}
		log := new(logBuffer)
		wants(t, "zeros", open(t, dir, testBoot+1, logsTo(log)).rest(t), testBoot, 1, 1)
		if log.count("are lost") != 0 {
			t.Errorf("%d zeros at the end are an error", n)
		}
	}
	for name, test := range map[string]struct {
		file string
		left uint64
	}{
		"an empty line":            {string(whole[:line]) + "\n" + string(whole[line:]), 1},
		"a line of another kind":   {string(whole[:line]) + "{}\n" + string(whole[line:]), 1},
		"zeros":                    {string(whole[:line]) + strings.Repeat("\x00", line) + "\n", 1},
		"zeros in the middle":      {string(whole[:line]) + strings.Repeat("\x00", 100<<10) + string(whole[line:]), 1},
		"a flipped bit":            {strings.Replace(string(whole), `"topic"`, `"tophc"`, 1), 0},
		"one missing":              {string(whole[:line]) + string(whole[2*line:]), 1},
		"one twice":                {string(whole[:2*line]) + string(whole[line:]), 2},
		"another boot's":           {string(sealed(t, testBoot+1, 1, testBoot, 0)) + "\n", 0},
		"another sender's":         {string(seal(t, "melb/sensor/web-2/1", ramTopic, testBoot, 1, testBoot, []byte(`{}`))) + "\n", 0},
		"a line that is very long": {string(whole[:line]) + strings.Repeat("x", 1<<20) + "\n" + string(whole[line:]), 1},
	} {
		if err := os.WriteFile(path, []byte(test.file), 0o600); err != nil {
			t.Fatal(err)
		}
		log := new(logBuffer)
		damaged := open(t, dir, testBoot+1, logsTo(log))
		wants(t, name, damaged.rest(t), testBoot, 1, test.left)
		if log.count("are lost") != 1 {
			t.Errorf("%s: it is said %d times", name, log.count("are lost"))
		}
	}
}

// What is in the directory and is no file of an earlier start is left alone.
func TestStrangers(t *testing.T) {
	dir := t.TempDir()
	elsewhere := filepath.Join(t.TempDir(), "x")
	good := string(sealed(t, testBoot, 1, testBoot, 0)) + "\n"
	if err := os.WriteFile(elsewhere, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	name := func(boot, first uint64) string {
		return filepath.Join(dir, filepath.Base((&chunk{boot: boot, first: first}).path(dir)))
	}
	for path, b := range map[string]string{name(testBoot+9, 1): good, filepath.Join(dir, "README"): good, name(testBoot, 1) + "~": good} {
		if err := os.WriteFile(path, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(elsewhere, name(testBoot, 1)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(name(testBoot, 2), 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, testBoot+9)
	if got := s.rest(t); len(got) != 0 {
		t.Errorf("took %v", got)
	}
	s.stored()
	if left := files(t, dir); len(left) != 5 {
		t.Errorf("left: %v", left)
	}
}

// What is acknowledged goes, and nothing else: not another boot's, not what lies
// behind, and nothing for an acknowledgement that is older than another.
func TestRelease(t *testing.T) {
	dir := fresh(t)
	s := open(t, dir, testBoot)
	s.add(t, 1, 10, 0)
	s.stored()
	s = open(t, dir, testBoot+1)
	s.add(t, 1, 10, 0)
	for _, step := range []struct {
		boot, seq uint64
		released  int
	}{{testBoot + 1, 4, 4}, {testBoot + 1, 2, 0}, {testBoot + 1, 4, 0}, {testBoot + 2, 9, 0}, {testBoot - 1, 9, 0}, {testBoot, 0, 0}, {testBoot, 3, 3}} {
		if n := s.Release(step.boot, step.seq); n != step.released {
			t.Errorf("%+v: %d", step, n)
		}
	}
	if from, ok := s.Holds(); !ok || from != 5 {
		t.Errorf("holds from %d, %v", from, ok)
	}
	if st := s.Stats(); st.Messages != 13 {
		t.Errorf("%+v", st)
	}
	all := s.rest(t)
	wants(t, "the older boot", all[:7], testBoot, 4, 10)
	wants(t, "this boot", all[7:], testBoot+1, 5, 10)
	if _, ok := s.Holds(); ok || s.Stats().Messages != 0 {
		t.Errorf("still holds: %+v", s.Stats())
	}
	s.add(t, 11, 12, 0)
	if from, ok := s.Holds(); !ok || from != 11 {
		t.Errorf("holds from %d, %v", from, ok)
	}
	wants(t, "afterwards", s.rest(t), testBoot+1, 11, 12)
	s.stored()
	if left := files(t, dir); len(left) != 1 || s.bytes > 400 { // the newest, in which there is nothing left to do
		t.Errorf("left: %v, %d bytes", left, s.bytes)
	}
}

// A batch is bounded in bytes and in number, has at least one message, and of
// this boot none that is too new.
func TestBatches(t *testing.T) {
	s := open(t, fresh(t), testBoot)
	s.add(t, 1, 20, 0)
	one := len(sealed(t, testBoot, 1, testBoot+1, 0))
	for name, test := range map[string]struct {
		room, most int
		before     int64
		want       int
	}{
		"by number":     {noLimit, 7, 1 << 60, 7},
		"by bytes":      {3*one + 2, 100, 1 << 60, 3},
		"at least one":  {0, 100, 1 << 60, 1},
		"by time":       {noLimit, 100, testBoot + 5, 5},
		"all too young": {noLimit, 100, testBoot, 0},
		"everything":    {noLimit, 100, 1 << 60, 20},
	} {
		for _, where := range []string{"memory", "disk"} {
			b, err := s.Oldest(test.room, test.most, test.before, plain)
			if err != nil || len(b.Envelopes) != test.want {
				t.Errorf("%s, %s: %d messages, %v", name, where, len(b.Envelopes), err)
			}
			s.stored()
		}
	}
	// What an earlier start sent is nothing that this one still sends as it was.
	next := open(t, s.config.Dir, testBoot+1)
	if b, err := next.Oldest(noLimit, 100, 0, plain); err != nil || len(b.Envelopes) != 20 {
		t.Errorf("of an earlier boot: %d messages, %v", len(b.Envelopes), err)
	}
}

// fill adds ranges until something must be given up, and returns the seq after.
func (s *Spool) fill(t testing.TB, seq uint64) (Loss, uint64) {
	t.Helper()
	for range 1000 {
		if loss, ok := s.Excess(); ok {
			return loss, seq
		}
		s.add(t, seq, seq+9, 8000)
		seq += 10
	}
	t.Fatal("there is no bound")
	return Loss{}, 0
}

// Over its bound it gives up whole ranges, the oldest first, and nothing before it
// was said.
func TestGivesUpTheOldest(t *testing.T) {
	dir := fresh(t)
	s := open(t, dir, testBoot)
	seq, next := uint64(1), uint64(1)
	for range 6 {
		var loss Loss
		loss, seq = s.fill(t, seq)
		s.stored()
		want := []wire.Drop{drop(testBoot, next, next+uint64(loss.Messages)-1)}
		if !slices.Equal(loss.Drops, want) || loss.Messages == 0 || (loss.Messages)%10 != 0 {
			t.Fatalf("%+v, not %v", loss, want)
		}
		if again, ok := s.Excess(); !ok || !slices.Equal(again.Drops, want) {
			t.Fatalf("asked twice: %+v", again)
		}
		before := len(files(t, dir))
		s.GiveUp(loss)
		s.GiveUp(loss)
		s.stored()
		if after := len(files(t, dir)); after != before-1 {
			t.Fatalf("%d files, then %d", before, after)
		}
		next += uint64(loss.Messages)
		if from, ok := s.Holds(); !ok || from != next {
			t.Fatalf("holds from %d, not %d", from, next)
		}
	}
	if s.bytes > MinMax || s.memory > maxMemory {
		t.Errorf("%d bytes, %d in memory", s.bytes, s.memory)
	}
	wants(t, "the rest", s.rest(t), testBoot, next, seq-1)
}

// With what it gives up goes what only that vouched for or declared, in this start
// and in the next.
func TestGivesUpWhatADigestSaid(t *testing.T) {
	dir := fresh(t)
	s := open(t, dir, testBoot)
	s.add(t, 1, 40, 8000)
	s.Release(testBoot, 40)
	raw, d := digestOver(t, testBoot, 41, 31, 40, drop(testBoot-5, 7, 9), drop(testBoot, 2, 3), drop(testBoot, 31, 32))
	s.Add(Message{Seq: 41, Time: testBoot, Raw: raw, Begins: true, Digest: d})
	s.add(t, 42, 80, 8000)
	s.stored()
	wide := func(c *Config) { c.Max = noLimit }
	for name, s := range map[string]*Spool{"this start": s, "the next": open(t, dir, testBoot+1, wide)} {
		s.Release(testBoot, 40)
		s.chunks[0].bad = true
		loss, ok := s.Excess()
		want := []wire.Drop{drop(testBoot, 31, loss.chunk.last()), drop(testBoot-5, 7, 9), drop(testBoot, 2, 3)}
		if !ok || !slices.Equal(loss.Drops, want) {
			t.Errorf("%s: %+v, not %v", name, loss.Drops, want)
		}
	}
}

// The newest range is never given up for want of room: it is not whole.
func TestKeepsTheOpenRange(t *testing.T) {
	s := open(t, fresh(t), testBoot)
	for seq := uint64(1); seq <= 300; seq++ {
		s.Add(Message{Seq: seq, Time: testBoot, Raw: sealed(t, testBoot, seq, testBoot, 16<<10), Begins: seq == 1})
	}
	if loss, ok := s.Excess(); ok {
		t.Errorf("gives up %v", loss.Drops)
	}
	s.Add(Message{Seq: 301, Time: testBoot, Raw: sealed(t, testBoot, 301, testBoot, 0), Begins: true})
	if loss, ok := s.Excess(); !ok || loss.Messages != 300 {
		t.Errorf("%v, %+v", ok, loss)
	}
}

// A file that changed behind our back is found when it is read, said, and given
// up: what it held is declared, and what lies behind it still goes out.
func TestDamageWhileItRuns(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"gone":    os.Remove,
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"changed": func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("x\n", 1<<20)), 0o600) },
	} {
		s := open(t, fresh(t), testBoot)
		s.add(t, 1, 40, 8000)
		s.stored()
		s.add(t, 41, 50, 8000)
		path := s.chunks[0].path(s.config.Dir)
		if err := damage(path); err != nil {
			t.Fatal(err)
		}
		if b, err := s.Oldest(noLimit, 5, 1<<60, plain); !errors.Is(err, ErrDamaged) || b.Envelopes != nil {
			t.Errorf("%s: %d messages, %v", name, len(b.Envelopes), err)
		}
		loss, ok := s.Excess()
		if !ok || !slices.Equal(loss.Drops, []wire.Drop{drop(testBoot, 1, 40)}) {
			t.Errorf("%s: %+v", name, loss)
		}
		s.GiveUp(loss)
		if _, ok := s.Excess(); ok {
			t.Errorf("%s: it is given up twice", name)
		}
		wants(t, name, s.rest(t), testBoot, 41, 50)
	}
	// The one that is written to as well.
	s := open(t, fresh(t), testBoot)
	s.add(t, 1, 3, 0)
	s.stored()
	if err := os.Truncate(s.chunks[0].path(s.config.Dir), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Oldest(noLimit, 5, 1<<60, plain); err == nil {
		t.Fatal("it was read")
	}
	loss, _ := s.Excess()
	s.Add(Message{Seq: 4, Time: testBoot, Raw: sealed(t, testBoot, 4, testBoot, 0)})
	s.GiveUp(loss)
	wants(t, "what came after it", s.rest(t), testBoot, 4, 4)
}

// However many starts came to nothing, their files are bounded in number.
func TestManyStarts(t *testing.T) {
	dir := t.TempDir()
	const most = 20
	for i := range uint64(most + 3) {
		c := &chunk{boot: testBoot + i, first: 1}
		if err := os.WriteFile(c.path(dir), append(sealed(t, testBoot+i, 1, testBoot, 0), '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir, testBoot+1e6)
	if s.files != maxChunks {
		t.Errorf("%d files", s.files)
	}
	s.files = most
	given := 0
	for {
		loss, ok := s.Excess()
		if !ok {
			break
		}
		if want := []wire.Drop{drop(testBoot+uint64(given), 1, 1)}; !slices.Equal(loss.Drops, want) {
			t.Fatalf("%v, not %v", loss.Drops, want)
		}
		s.GiveUp(loss)
		given++
	}
	if given != 3 || s.Stats().Messages != most {
		t.Errorf("%d given up, %+v", given, s.Stats())
	}
}
