package audit

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
	"levee/services/recorder/segment"
)

// again returns the proof as it is read from a file.
func (p *Proof) again(t testing.TB) *Proof {
	t.Helper()
	raw, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	q, err := ParseProof(raw)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// Every entry of a record is proved to somebody who has the root alone.
func TestProveEntry(t *testing.T) {
	t.Parallel()
	b := newRecord(t)
	root := filepath.Join(b.Authority(), "root.pem")
	for index := range int64(32) {
		p, err := ProveEntry(t.Context(), b.open(t), index)
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.again(t).Check("proof", root)
		if err != nil || r.Index != index || r.Entries != 32 || r.Sender == "" || r.Payload == "" || r.Vouched {
			t.Errorf("entry %d: %+v, %v", index, r, err)
		}
	}
	for _, index := range []int64{-1, 32} {
		if _, err := ProveEntry(t.Context(), b.open(t), index); err == nil {
			t.Errorf("entry %d is proved", index)
		}
	}
	if _, err := ProveEntry(t.Context(), b.export(t).config(t), 17); err != nil {
		t.Errorf("from an export: %v", err)
	}
}

// So is a line of a journal.
func TestProveLine(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	lines := b.deployed(t)
	b.craft(t, nil, b.entries(t, time.Second, lines...)...)
	root := filepath.Join(b.Authority(), "root.pem")
	for index := range int64(len(lines)) {
		p, err := ProveEntry(t.Context(), b.open(t), index)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := p.again(t).Check("proof", root); err != nil || r.Kind != "issuance" {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// A reading is proved through the digest that its sender signed.
func TestProveReading(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s := b.sender(t, pki.RoleSensor, "web-1", time.Second)
	all := s.readings(2)
	s.drop()
	all = append(append(all, s.readings(1)...), s.digest())
	pending := s.cpu(1)
	b.craftMessages(t, append(all, pending)...)
	root := filepath.Join(b.Authority(), "root.pem")
	c := b.open(t)
	nonce := func(seq int) string { return fmt.Sprintf("%s-%d", envelope.FormatBoot(s.boot), seq) }
	for _, seq := range []int{1, 4, 6, 7} {
		p, err := ProveReading(t.Context(), c, "melb/sensor/web-1", nonce(seq))
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.again(t).Check("proof", root)
		if err != nil || !r.Vouched || r.Nonce != nonce(seq) || r.Sender != "melb/sensor/web-1" || len(p.Reading.Sums) != 6 {
			t.Errorf("%d: %+v, %v", seq, r, err)
		}
	}
	for name, of := range map[string][2]string{
		"one that was dropped":   {"melb/sensor/web-1", nonce(5)},
		"one without a digest":   {"melb/sensor/web-1", nonce(9)},
		"another sender":         {"melb/sensor/web-2", nonce(1)},
		"no nonce":               {"melb/sensor/web-1", "1"},
		"the number of a digest": {"melb/sensor/web-1", nonce(8)},
	} {
		if _, err := ProveReading(t.Context(), c, of[0], of[1]); err == nil {
			t.Errorf("%s is proved", name)
		}
	}
	b.rewriteWithout(t, all[1])
	if _, err := ProveReading(t.Context(), c, "melb/sensor/web-1", nonce(1)); err == nil || !strings.Contains(err.Error(), "in no segment") {
		t.Errorf("without another reading of the range: %v", err)
	}
}

// Whatever is changed in a proof, it proves nothing.
func TestProofRefused(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	s, monitor := b.sender(t, pki.RoleSensor, "web-1", time.Second), b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
	readings := append(s.readings(2), s.digest())
	b.craftMessages(t, append(readings, monitor.alert(90), monitor.alert(91))...)
	root := filepath.Join(b.Authority(), "root.pem")
	c := b.open(t)
	nonce := fmt.Sprintf("%s-2", envelope.FormatBoot(s.boot))
	made := func(t *testing.T) (entry, reading *Proof) {
		t.Helper()
		entry, err := ProveEntry(t.Context(), c, 1)
		if err != nil {
			t.Fatal(err)
		}
		if reading, err = ProveReading(t.Context(), c, "melb/sensor/web-1", nonce); err != nil {
			t.Fatal(err)
		}
		return entry, reading
	}
	forged := s.sealAs(envelope.Nonce{Boot: s.boot, Seq: 2}, s.topic(wire.KindCPU), &wire.CPU{Timestamp: 1, Server: "web-1", Interval: 5, CPUUsage: 99}, nil)
	for _, test := range []struct {
		name   string
		change func(entry, reading *Proof) *Proof
		kind   string
	}{
		{"another entry", func(e, r *Proof) *Proof { e.Leaf = r.Leaf; return e }, KindTree},
		{"another index", func(e, _ *Proof) *Proof { e.Index = 2; return e }, KindTree},
		{"an index beyond", func(e, _ *Proof) *Proof { e.Index = 3; return e }, KindTree},
		{"an index below", func(e, _ *Proof) *Proof { e.Index = -1; return e }, KindTree},
		{"another path", func(e, _ *Proof) *Proof { e.Path[0][0] ^= 1; return e }, KindTree},
		{"no path", func(e, _ *Proof) *Proof { e.Path = nil; return e }, KindTree},
		{"another size", func(e, _ *Proof) *Proof { e.Checkpoint = strings.Replace(e.Checkpoint, "\n3\n", "\n2\n", 1); return e }, KindCheckpoint},
		{"another key", func(e, _ *Proof) *Proof {
			text, _, _ := strings.Cut(e.Checkpoint, "\n\n")
			e.Checkpoint = string(signedBy(t, text+"\n"))
			return e
		}, KindCheckpoint},
		{"a changed document", func(e, _ *Proof) *Proof {
			e.Document = bytes.Replace(e.Document, []byte(`"site":"melb"`), []byte(`"site":"syd"`), 1)
			return e
		}, KindTrust},
		{"a changed policy", func(e, _ *Proof) *Proof { e.Policy = append(e.Policy, '\n'); return e }, KindTrust},
		{"a reading on an entry that is no digest", func(e, r *Proof) *Proof { e.Reading = r.Reading; return e }, KindEntry},
		{"a forged reading", func(_, r *Proof) *Proof { r.Reading.Envelope = forged.raw; return r }, KindDigest},
		{"a forged reading with its sum", func(_, r *Proof) *Proof {
			r.Reading.Envelope, r.Reading.Sums[1] = forged.raw, hash(sha256.Sum256(forged.raw))
			return r
		}, KindDigest},
		{"a reading in another's place", func(_, r *Proof) *Proof { r.Reading.Envelope = readings[4].raw; return r }, KindDigest},
		{"a sum more", func(_, r *Proof) *Proof { r.Reading.Sums = append(r.Reading.Sums, hash{}); return r }, KindDigest},
		{"a sum less", func(_, r *Proof) *Proof { r.Reading.Sums = r.Reading.Sums[1:]; return r }, KindDigest},
		{"a monitor's message", func(_, r *Proof) *Proof { r.Reading.Envelope = monitor.alert(1).raw; return r }, KindDigest},
		{"no message", func(_, r *Proof) *Proof { r.Reading.Envelope = []byte("{}"); return r }, KindEntry},
	} {
		t.Run(test.name, func(t *testing.T) {
			entry, reading := made(t)
			_, err := test.change(entry, reading).again(t).Check("proof", root)
			var wrong Finding
			if !errors.As(err, &wrong) || wrong.Kind != test.kind {
				t.Errorf("%v", err)
			}
		})
	}
	entry, reading := made(t)
	for _, p := range []*Proof{entry, reading} {
		if _, err := p.Check("proof", root); err != nil {
			t.Error(err)
		}
		if _, err := p.Check("proof", filepath.Join(b.Authority(), "melb", "people-ca.pem")); err == nil {
			t.Error("another root will do")
		}
	}
	for _, raw := range []string{"", "{}", `{"v":2}`, `{"v":1,"colour":1}`, `{"v":1}{}`, `{"v":1,"path":["x"]}`} {
		if p, err := ParseProof([]byte(raw)); err == nil {
			t.Errorf("%q is read as %+v", raw, p)
		}
	}
}

// rewriteWithout takes a message out of the first segment.
func (b *bank) rewriteWithout(t testing.TB, m message) {
	t.Helper()
	b.rewrite(t, b.segment(t, 0), func(all []segment.Record) []segment.Record {
		return slices.DeleteFunc(all, func(r segment.Record) bool { return bytes.Equal(r.Envelope, m.raw) })
	})
}

// FuzzProof: whatever the bytes of a proof, it is refused or proves an entry of
// the log.
func FuzzProof(f *testing.F) {
	b := newBank(f)
	s := b.sender(f, pki.RoleSensor, "web-1", time.Second)
	b.craftMessages(f, append(s.readings(2), s.digest())...)
	c := b.open(f)
	root := filepath.Join(b.Authority(), "root.pem")
	entry, err := ProveEntry(f.Context(), c, 0)
	if err != nil {
		f.Fatal(err)
	}
	reading, err := ProveReading(f.Context(), c, "melb/sensor/web-1", fmt.Sprintf("%s-2", envelope.FormatBoot(s.boot)))
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range []*Proof{entry, reading} {
		raw, err := p.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := ParseProof(raw)
		if err != nil {
			return
		}
		if r, err := p.Check("proof", root); err == nil && (r.Index != 0 || r.Entries != 1) {
			t.Fatalf("%+v", r)
		}
	})
}
