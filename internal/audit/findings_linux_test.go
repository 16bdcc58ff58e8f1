package audit

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/records"
	"levee/internal/translog/leaf"
	"levee/internal/wire"
	"levee/pki"
	"levee/services/recorder/segment"
)

// command seals an automatic command.
func (s *sender) command(id wire.ID) message {
	return s.seal(s.topic(wire.KindCommand), &wire.Command{Timestamp: 1, ID: id, Command: wire.EnableRateLimiting, Controller: "lb-1", Server: "web-1",
		Parameters: wire.Parameters{RatePerSecond: 10, Burst: 20}, Issued: s.now.UnixMilli(), TTL: 60, Cause: "syn_packet_count"}, s.signer)
}

// digestOf returns messages and the digest that vouches for them.
func (s *sender) digestOf(messages ...message) []message { return append(messages, s.digest()) }

// What a controller did is held against what the log says that it was told.
func TestExecutions(t *testing.T) {
	t.Parallel()
	newBank(t)
	id, other := wire.NewID(), wire.NewID()
	for _, test := range []struct {
		name                           string
		make                           func(monitor, controller *sender) []message
		found, executions, unexplained int
		want                           string
	}{
		{"commanded", func(m, c *sender) []message {
			return []message{m.command(id), c.answer(id, wire.StateActive), c.answer(id, wire.StateLapsed)}
		}, 0, 2, 0, ""},
		{"commanded, and repeated", func(m, c *sender) []message {
			return []message{m.command(id), m.command(id), c.answer(id, wire.StateActive)}
		}, 0, 1, 0, ""},
		{"the log has the status first", func(m, c *sender) []message { return []message{c.answer(id, wire.StateActive), m.command(id)} }, 0, 1, 0, ""},
		{"refused", func(_, c *sender) []message { return []message{c.answer(id, wire.StateRefused)} }, 0, 0, 0, ""},
		{"not commanded", func(m, c *sender) []message { return []message{m.command(other), c.answer(id, wire.StateActive)} }, 1, 1, 0, "does not hold command " + id.String()},
		{"stopped without a command", func(_, c *sender) []message { return []message{c.answer(id, wire.StateStopped)} }, 1, 1, 0, "does not hold command"},
		{"another controller's command", func(m, c *sender) []message {
			said := m.command(id)
			c.id.Name, c.kid.Name = "lb-1", "lb-1"
			status := c.seal(c.topic(wire.KindScaling), &wire.Status{Timestamp: 1, ID: id, Command: wire.ScaleUpServers, Status: wire.StatusSuccess, State: wire.StateActive,
				Controller: "lb-1", Server: "web-1"}, c.signer)
			return []message{said, status}
		}, 1, 1, 0, "and command " + id.String() + " is enable_rate_limiting for lb-1"},
		{"the command may be missing", func(m, c *sender) []message {
			m.command(id)
			c.now = c.now.Add(time.Second)
			m.now = c.now
			return []message{c.answer(id, wire.StateActive), m.alert(90)}
		}, 0, 1, 1, ""},
		{"the command may be on its way", func(m, c *sender) []message {
			said := m.digestOf(m.alert(90))
			c.now = c.now.Add(time.Minute)
			return append(said, c.answer(id, wire.StateActive))
		}, 0, 1, 1, ""},
		{"nobody vouched yet", func(m, c *sender) []message {
			said := m.alert(90)
			c.now = c.now.Add(time.Minute)
			return []message{said, c.answer(id, wire.StateActive)}
		}, 0, 1, 1, ""},
		{"no command was on its way", func(m, c *sender) []message {
			said := m.digestOf(m.alert(90))
			c.now = c.now.Add(time.Minute)
			m.now = c.now.Add(time.Second)
			return append(append(said, c.answer(id, wire.StateActive)), m.digestOf(m.alert(91))...)
		}, 1, 1, 0, "does not hold command"},
		{"who commanded was killed, and started again", func(m, c *sender) []message {
			said := m.digestOf(m.alert(90))
			c.now = c.now.Add(time.Minute)
			answer := c.answer(id, wire.StateActive)
			m.now = c.now.Add(-time.Second)
			m.boot, m.seq, m.first, m.sums = uint64(m.now.UnixMilli()), 0, 1, nil
			m.now = c.now.Add(time.Second)
			return append(append(said, answer), m.digestOf(m.alert(91))...)
		}, 0, 1, 1, ""},
		{"long after it had started again", func(m, c *sender) []message {
			said := m.digestOf(m.alert(90))
			m.now = m.now.Add(time.Minute)
			m.boot, m.seq, m.first, m.sums = uint64(m.now.UnixMilli()), 0, 1, nil
			c.now = m.now.Add(2 * time.Minute)
			m.now = c.now.Add(time.Second)
			return append(append(said, c.answer(id, wire.StateActive)), m.digestOf(m.alert(91))...)
		}, 1, 1, 0, "does not hold command"},
		{"on its way for too long", func(m, c *sender) []message {
			said := m.digestOf(m.alert(90))
			c.now = c.now.Add(time.Hour + time.Minute)
			return append(said, c.answer(id, wire.StateActive))
		}, 1, 1, 0, "does not hold command"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			b.craftMessages(t, test.make(b.sender(t, pki.RoleMonitor, "mon-1", time.Second), b.sender(t, pki.RoleController, "lb-1", time.Second))...)
			r := b.verify(t)
			if r.Found != test.found || r.Executions != test.executions || r.Unexplained != test.unexplained || r.Whole() != (test.found+test.unexplained == 0) {
				t.Errorf("%+v", r)
			}
			if test.want != "" {
				r.want(t, "melb/controller/lb-1", test.want)
				if r.Severity() != Unauthorised || r.kinds()[KindExecution] != 1 {
					t.Errorf("%+v", r)
				}
			}
		})
	}
}

// What came by backfill is late, and right otherwise: the record says so, and of
// what is signed the log as well.
func TestLate(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
	readings := append(s.readings(2), s.digest())
	received := s.now.Add(time.Hour).UnixMilli()
	var records []segment.Record
	for _, m := range readings {
		records = append(records, segment.Record{Received: received, Verdict: segment.Late, Envelope: m.raw})
	}
	entry := func(verdict string) []byte {
		raw, err := leaf.Leaf{Received: received, Verdict: verdict, Kind: leaf.KindMessage, Data: readings[4].raw}.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	late := b.copy(t)
	late.craft(t, records, entry("late"))
	r := late.sound(t)
	if r.Late != 5 || len(r.Delays) != 1 || r.Delays[0].Sender != "melb/sensor/web-1" || r.Delays[0].Messages != 5 || r.Delays[0].Longest < time.Hour.Milliseconds() || r.Confirmed != 1 {
		t.Errorf("%+v", r)
	}
	unmarked := b.copy(t)
	records[1].Verdict = segment.Accepted
	unmarked.craft(t, records, entry("accepted"))
	r = unmarked.verify(t)
	r.want(t, "record 1", "not fresh")
	r.want(t, "entry 0", "not fresh")
	if r.kinds()[KindLate] != 2 {
		t.Errorf("%+v", r)
	}
	// Nothing comes before it was sent.
	early := b.copy(t)
	early.craft(t, []segment.Record{{Received: s.now.Add(-time.Minute).UnixMilli(), Verdict: segment.Late, Envelope: readings[0].raw}})
	early.verify(t).want(t, "record 0", "not fresh")
}

// A refused message is evidence, and nothing that its sender said: it fills no
// gap and repeats no number.
func TestRefused(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
	all := append(s.readings(2), s.digest())
	collision, _ := segment.VerdictOf(envelope.NonceCollision.String())
	records := recordsOf(all...)
	again := records[1]
	again.Verdict = collision
	b.craft(t, append(records, again, segment.Record{Received: again.Received, Verdict: collision, Envelope: []byte("anything")}), all[4].leaf(t))
	if r := b.sound(t); r.Refused != 2 || r.Envelopes != 5 {
		t.Errorf("%+v", r)
	}
	b2 := newBank(t)
	s = b2.sender(t, pki.RoleSensor, "web-1", time.Second)
	all = append(s.readings(2), s.digest())
	records = recordsOf(all...)
	records[1].Verdict = collision
	b2.craft(t, records, all[4].leaf(t))
	if r := b2.verify(t); r.Missing != 1 || r.Incomplete != 1 || r.Confirmed != 0 {
		t.Errorf("a reading that is said to be refused counts: %+v", r)
	}
}

// Once a digest is settled its messages are forgotten, and none of their numbers
// can be used again, but for a message that the log holds twice.
func TestNumbersOfSettledDigests(t *testing.T) {
	t.Parallel()
	newBank(t)
	for _, test := range []struct {
		name string
		add  func(s *sender, all []message) (records, leaves []message)
		want []string // nil: nothing is wrong
	}{
		{"nothing", func(*sender, []message) (r, l []message) { return nil, nil }, nil},
		{"the log holds a message twice", func(_ *sender, all []message) (r, l []message) { return nil, all[2:3] }, nil},
		{"a segment holds it twice", func(_ *sender, all []message) (r, l []message) { return slices.Clone(all[2:3]), nil }, []string{".seg", "is kept twice"}},
		{"a reading twice", func(_ *sender, all []message) (r, l []message) { return slices.Clone(all[:1]), nil }, []string{".seg", "is kept twice"}},
		{"another reading of the number", func(s *sender, all []message) (r, l []message) {
			return []message{s.sealAs(envelope.Nonce{Boot: s.boot, Seq: 1}, s.topic(wire.KindCPU), &wire.CPU{Timestamp: 1, Server: "web-1", Interval: 5, CPUUsage: 9}, nil)}, nil
		}, []string{".seg", "is kept twice"}},
		{"another signed message of the number", func(s *sender, all []message) (r, l []message) {
			m := s.sealAs(envelope.Nonce{Boot: s.boot, Seq: 2}, s.topic(wire.KindDigest), &wire.Digest{Timestamp: 1, Boot: envelope.FormatBoot(s.boot), First: 1, Last: 1, Dropped: []wire.Drop{}}, s.signer)
			return nil, []message{m}
		}, []string{"entry ", "was used before"}},
		{"another digest of the range", func(s *sender, all []message) (r, l []message) {
			m := s.sealAs(envelope.Nonce{Boot: s.boot, Seq: s.seq + 1}, s.topic(wire.KindDigest), &wire.Digest{Timestamp: 1, Boot: envelope.FormatBoot(s.boot), First: 2, Last: 2, Dropped: []wire.Drop{}}, s.signer)
			return []message{m}, []message{m}
		}, []string{"entry ", "another digest of its sender covers"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
			all := append(s.readings(1), s.digest()) // 1 to 3, over 1 and 2
			all = append(append(all, s.readings(1)...), s.digest())
			b.craft(t, recordsOf(all...), all[2].leaf(t), all[5].leaf(t))
			records, leaves := test.add(s, all)
			for i := range records { // when the digests were settled long ago
				records[i].received = all[5].received.Add(15 * time.Second)
			}
			var raw [][]byte
			for _, m := range leaves {
				m.received = all[5].received.Add(15 * time.Second)
				raw = append(raw, m.leaf(t))
			}
			b.craft(t, recordsOf(records...), raw...)
			r := b.verify(t)
			if test.want == nil {
				if !r.OK() || r.Confirmed != 2 {
					t.Errorf("%+v", r)
				}
				return
			}
			r.want(t, test.want...)
		})
	}
}

// Digests over messages that retention has deleted are neither gaps nor wrong.
func TestExpired(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
	b.craftMessages(t, append(s.readings(2), s.digest())...)
	s.now = s.now.Add(48 * time.Hour)
	since := s.now
	b.craftMessages(t, append(s.readings(2), s.digest())...)
	remove(t, b.segment(t, 0))
	c := b.open(t)
	if r := verifyWith(t, c); r.OK() || r.Missing == 0 {
		t.Errorf("%+v", r)
	}
	if err := records.Declare(c.Files.Deletions(), records.Deletion{File: "x", Ended: since.UnixMilli(), At: since.UnixMilli()}); err != nil {
		t.Fatal(err)
	}
	// Who can delete a file can declare it as well: the auditor says what is right.
	verifyWith(t, c).want(t, "segments: entries 0 to 0,", "--kept-since accepts that")
	c.KeptSince = since
	if r := verifyWith(t, c); !r.Whole() || r.Expired != 1 || r.Confirmed != 1 || r.Incomplete != 0 {
		t.Errorf("%+v", r)
	}
}

// A sender that is not heard while others are is silent; a recorder that heard
// nobody was down.
func TestSilence(t *testing.T) {
	t.Parallel()
	newBank(t)
	for _, test := range []struct {
		name   string
		one    bool // web-1 speaks in the hour
		both   bool // web-2 does
		after  bool // both speak after it
		silent int
		over   bool
	}{
		{"both speak", true, true, true, 0, false},
		{"one is silent", false, true, true, 1, true},
		{"one is silent to the end", false, true, false, 1, false},
		{"nobody is heard", false, false, true, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			web1, web2 := b.sender(t, pki.RoleSensor, "web-1", time.Second), b.sender(t, pki.RoleSensor, "web-2", time.Second)
			all := []message{web1.cpu(1), web2.cpu(1)}
			for range 60 {
				web1.now, web2.now = web1.now.Add(time.Minute), web2.now.Add(time.Minute)
				if test.one {
					all = append(all, web1.cpu(1))
				}
				if test.both {
					all = append(all, web2.cpu(1))
				}
			}
			if test.after {
				all = append(all, web1.cpu(1), web2.cpu(1))
			}
			b.craftMessages(t, all...)
			r := b.verify(t)
			if r.Silent != test.silent || len(r.Silences) != test.silent || test.silent > 0 && (r.Silences[0].Over != test.over || r.Silences[0].Sender != "melb/sensor/web-1") {
				t.Errorf("%+v", r.Silences)
			}
			c := b.open(t)
			c.Silence = 2 * time.Hour
			if r := verifyWith(t, c); r.Silent != 0 {
				t.Errorf("%+v", r.Silences)
			}
		})
	}
}

// A page holds what a record says as text, whatever it says.
func TestWriteHTML(t *testing.T) {
	t.Parallel()
	evil := `<script>alert("1")</script>`
	r := newReport()
	r.Site, r.Origin, r.WithoutJournal = evil, evil, []string{evil}
	r.find(inLog, evil, evil, "%s", evil)
	r.Gaps = []Gap{{What: evil, Sender: evil, Boot: evil}}
	r.Silences, r.Delays, r.Witnesses = []Silence{{Sender: evil}}, []Delay{{Sender: evil}}, []Witness{{Name: evil}}
	r.finish(true)
	var page bytes.Buffer
	if err := r.WriteHTML(&page, time.UnixMilli(1)); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(page.String(), "<script") || strings.Count(page.String(), "&lt;script&gt;") < 10 {
		t.Errorf("%s", page.String())
	}
	for _, want := range []string{"1 findings", "default-src 'none'", "</html>"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("it lacks %q", want)
		}
	}
	page.Reset()
	if err := newReport().WriteHTML(&page, time.UnixMilli(1)); err != nil || !strings.Contains(page.String(), "Nothing is wrong") {
		t.Errorf("%v", err)
	}
}

// The worst finding decides.
func TestSeverity(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		kinds []string
		want  Severity
	}{
		{nil, Sound}, {[]string{KindLate}, Late}, {[]string{KindLate, KindExecution}, Unauthorised}, {[]string{KindNotIssued}, Unauthorised}, {[]string{KindRevoked}, Unauthorised},
		{[]string{KindExecution, KindTree, KindLate}, Changed}, {[]string{"one that nobody knows"}, Changed}, {[]string{KindDigest}, Changed},
	} {
		r := newReport()
		for i, k := range test.kinds {
			r.find(place(i), k, "here", "this")
		}
		if got := r.Severity(); got != test.want {
			t.Errorf("%v: %d", test.kinds, got)
		}
	}
}

// What is shown is what the log holds, or the segments, by each filter.
func TestShow(t *testing.T) {
	t.Parallel()
	b := newRecord(t)
	c := b.open(t)
	count := func(f Filter) (n int, last Shown) {
		t.Helper()
		if err := Show(t.Context(), c, f, func(s Shown) error { n, last = n+1, s; return nil }); err != nil {
			t.Fatal(err)
		}
		return n, last
	}
	for _, test := range []struct {
		name string
		f    Filter
		want int
	}{
		{"all", Filter{}, 32},
		{"one", Filter{First: 17, End: 18}, 1},
		{"from one on", Filter{First: 30}, 2},
		{"a sender's", Filter{Sender: "melb/controller/lb-1"}, 12},
		{"a kind", Filter{Kind: "alerts"}, 8},
		{"a sender's of a kind", Filter{Sender: "melb/controller/lb-1", Kind: "digests"}, 4},
		{"before everything", Filter{To: b.made}, 0},
		{"after everything", Filter{From: b.made.Add(24 * time.Hour)}, 0},
		{"the segments", Filter{Readings: true}, 128},
		{"a sender's readings", Filter{Readings: true, Sender: "melb/sensor/web-1", Kind: "metrics/cpu"}, 24},
	} {
		if n, last := count(test.f); n != test.want || n > 0 && (last.Sender == "" || last.Payload == "" || last.Verdict != "accepted") {
			t.Errorf("%s: %d, %+v", test.name, n, last)
		}
	}
	flip(t, b.newestBundle(t), 5000, 1)
	if err := Show(t.Context(), c, Filter{}, func(Shown) error { return nil }); !IsWrong(err) {
		t.Errorf("a changed log is shown: %v", err)
	}
}

func (b *bank) newestBundle(t testing.TB) string {
	t.Helper()
	for _, path := range files(t, b.log()) {
		if strings.HasSuffix(path, "tile/entries/000.p/32") {
			return path
		}
	}
	t.Fatal("there is no bundle")
	return ""
}
