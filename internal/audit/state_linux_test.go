package audit

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
	"levee/services/recorder/segment"
)

// verifySince audits from a state that went through its file.
func (b *bank) verifySince(t *testing.T, earlier *State) (r *Report, next *State) {
	t.Helper()
	if earlier != nil {
		path := filepath.Join(t.TempDir(), "state")
		if err := WriteState(path, earlier); err != nil {
			t.Fatal(err)
		}
		var err error
		if earlier, err = ReadState(path); err != nil {
			t.Fatal(err)
		}
	}
	c := b.open(t)
	synctest.Test(t, func(t *testing.T) {
		var err error
		if r, next, err = VerifySince(t.Context(), c, earlier); err != nil {
			t.Fatal(err)
		}
	})
	return r, next
}

// An audit that goes on where the last one ended finds what one of everything
// finds, wherever that was.
func TestSince(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	web, monitor := b.sender(t, pki.RoleSensor, "web-1", time.Second), b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
	controller := b.sender(t, pki.RoleController, "lb-1", time.Second)
	step := func(messages ...message) []message {
		web.now = web.now.Add(5 * time.Second)
		monitor.now, controller.now = web.now, web.now
		return messages
	}
	command, alert := wire.NewID(), monitor.alert(90)
	order := monitor.seal(monitor.topic(wire.KindCommand), &wire.Command{Timestamp: 1, ID: command, Command: wire.EnableRateLimiting, Controller: "lb-1", Server: "web-1",
		Parameters: wire.Parameters{RatePerSecond: 10, Burst: 20}, Issued: monitor.now.UnixMilli(), TTL: 60, Cause: "syn_packet_count"}, monitor.signer)
	steps := [][]message{
		step(append(web.readings(2), alert)...),
		step(web.cpu(1), web.digest(), order),
		step(web.cpu(2), controller.answer(command, wire.StateActive)),
		step(web.digest(), monitor.digest(), controller.digest()),
		step(web.readings(3)...),
		step(web.digest()),
	}
	var state *State
	entries := int64(0)
	for i, messages := range steps {
		b.craftMessages(t, messages...)
		var r *Report
		r, state = b.verifySince(t, state)
		all := b.sound(t)
		if !r.OK() || r.Since != entries || r.Entries != all.Entries || r.Pending != all.Pending || r.Missing != all.Missing || state == nil {
			t.Fatalf("after step %d: %+v", i, r)
		}
		if r.Envelopes != len(messages) || r.Segments > 2 {
			t.Errorf("after step %d it read %d envelopes in %d files", i, r.Envelopes, r.Segments)
		}
		entries = r.Entries
	}
	if r := b.sound(t); r.Executions != 1 || r.Unexplained != 0 || r.Pending != 0 {
		t.Errorf("%+v", r)
	}
	if r, _ := b.verifySince(t, state); !r.OK() || r.Envelopes != 0 || r.Signatures != 0 {
		t.Errorf("an audit of nothing: %+v", r)
	}
}

// What was done since to what an earlier audit has verified, or to what came
// after, is named.
func TestSinceNames(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
	first := s.readings(2)
	b.craftMessages(t, append(first, s.digest())...)
	s.now = s.now.Add(time.Minute)
	open := s.readings(1)
	b.craftMessages(t, open...)
	_, state := b.verifySince(t, nil)
	older := b.segment(t, 0)
	s.now = s.now.Add(time.Minute)
	for _, test := range []struct {
		name   string
		change func(t *testing.T, b *bank)
		want   []string
	}{
		{"a segment gone", func(t *testing.T, b *bank) { remove(t, b.segment(t, 0)) }, []string{filepath.Base(older), "is gone"}},
		{"a segment shortened", func(t *testing.T, b *bank) {
			if err := os.Truncate(b.segment(t, 0), 500); err != nil {
				t.Fatal(err)
			}
		}, []string{".seg", "has 500 bytes, and had"}},
		{"the newest segment shortened", func(t *testing.T, b *bank) {
			b.rewrite(t, b.segment(t, -1), func(all []segment.Record) []segment.Record { return all[:1] })
		}, []string{".seg", "an earlier audit read it"}},
		{"a segment put before", func(t *testing.T, b *bank) {
			raw, err := os.ReadFile(b.segment(t, 0))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(b.segments(), "20000101T000000.000Z.seg"), string(raw[:8]))
		}, []string{"20000101T000000.000Z.seg", "was put before"}},
		{"a reading that was open then, kept again", func(t *testing.T, b *bank) { b.craftMessages(t, open[0]) }, []string{".seg", "is kept twice"}},
		{"a reading that was confirmed then, kept again", func(t *testing.T, b *bank) {
			m := first[0]
			m.received = m.received.Add(time.Second)
			b.craftMessages(t, m)
		}, []string{".seg", "is kept twice"}},
		{"a digest over other readings than those that were open", func(t *testing.T, b *bank) {
			d := wire.Digest{Timestamp: 1, Boot: envelope.FormatBoot(s.boot), First: 6, Last: 7, Dropped: []wire.Drop{}, Hash: strings.Repeat("A", 43)}
			b.craftMessages(t, s.sealAs(envelope.Nonce{Boot: s.boot, Seq: 8}, s.topic(wire.KindDigest), &d, s.signer))
		}, []string{"entry 1", "messages 6 to 7", "does not match"}},
		{"a byte of the new entry", func(t *testing.T, b *bank) {
			b.craftMessages(t, s.sealAs(envelope.Nonce{Boot: s.boot, Seq: 8}, s.topic(wire.KindDigest),
				&wire.Digest{Timestamp: 1, Boot: envelope.FormatBoot(s.boot), First: 9, Last: 7, Dropped: []wire.Drop{}}, s.signer))
			flip(t, filepath.Join(b.log(), "tile", "entries", "000.p", "2"), 4800, 1)
		}, []string{"entry 1", "its hash is not the one"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := b.copy(t)
			test.change(t, c)
			r, next := c.verifySince(t, state)
			r.want(t, test.want...)
			if next != nil {
				t.Error("the state goes on all the same")
			}
		})
	}
	if r, _ := b.verifySince(t, state); !r.OK() {
		t.Errorf("%+v", r)
	}
}

// A state is of one log and one root, and is taken whole or not at all.
func TestStateRefused(t *testing.T) {
	t.Parallel()
	b := newRecord(t)
	_, state := b.verifySince(t, nil)
	raw, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(map[string]any){
		"another version":       func(s map[string]any) { s["v"] = 2 },
		"a member that is none": func(s map[string]any) { s["colour"] = "blue" },
		"a hash that is none":   func(s map[string]any) { s["registry"].(map[string]any)["lines"] = []string{"x"} },
		"a message in no file": func(s map[string]any) {
			s["boots"] = []any{map[string]any{"signed": []any{map[string]any{"file": 99}}}}
		},
		"a reading in no file": func(s map[string]any) {
			s["boots"] = []any{map[string]any{"waiting": []any{map[string]any{"file": -1}}}}
		},
		"a message that nothing": func(s map[string]any) {
			s["boots"] = []any{map[string]any{"signed": []any{map[string]any{"file": -1, "index": -1}}}}
		},
	} {
		var s map[string]any
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatal(err)
		}
		change(s)
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseState(text); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	c := b.open(t)
	for name, change := range map[string]func(*State){
		"another root":         func(s *State) { s.Root = strings.Repeat("0", 64) },
		"an unsigned head":     func(s *State) { s.Checkpoint = strings.Replace(s.Checkpoint, "\n32\n", "\n31\n", 1) },
		"a command of no id":   func(s *State) { s.Commands = map[string]string{"x": "scale lb-1"} },
		"a serial of no bytes": func(s *State) { s.Registry.Serials = map[string]int64{"x": 1} },
		"a signer of no name":  func(s *State) { s.Registry.Signers = append(s.Registry.Signers, signerState{URI: "x"}) },
		"a line that is none":  func(s *State) { s.Registry.Journals = []journalState{{Ahead: []lineState{{Raw: []byte("x")}}}} },
	} {
		again, err := parseState(raw)
		if err != nil {
			t.Fatal(err)
		}
		change(again)
		if r, _, err := VerifySince(t.Context(), c, again); err == nil {
			t.Errorf("%s is taken: %+v", name, r)
		}
	}
}

// Whatever the bytes of a state, it is read as one that can be written again, or
// not at all.
func FuzzState(f *testing.F) {
	b := newBank(f)
	s := b.sender(f, pki.RoleSensor, "web-1", time.Second)
	b.craftMessages(f, append(append(s.readings(2), s.digest()), s.readings(1)...)...)
	c := b.open(f)
	_, state, err := VerifySince(f.Context(), c, nil)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := json.Marshal(state)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"v":1}`))
	f.Add([]byte(`{"v":1,"boots":[{"sender":"x","boot":1,"done":[{"first":9,"last":1}],"pledges":[{"digest":{}}]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := parseState(raw)
		if err != nil {
			return
		}
		a := newAudit(c)
		if a.resume(s) != nil {
			return
		}
		a.checkGaps()
	})
}
