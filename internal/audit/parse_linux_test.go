package audit

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"levee/pki"
	"levee/services/recorder/segment"
)

// takeLeaf takes one entry as a stream does.
func (a *audit) takeLeaf(index int64, raw []byte) {
	it := a.checker.leaf(index, raw)
	a.takeEntry(&it)
}

// takeSegment takes one segment as a stream does.
func (a *audit) takeSegment(t testing.TB, path string) {
	t.Helper()
	s := newStream(a.Config)
	src := s.source()
	go func() {
		defer close(src.ready)
		if err := a.readSegment(t.Context(), src, plan{}, path); err != nil {
			t.Error(err)
		}
	}()
	for b := src.next(); b != nil; b = src.next() {
		a.takeRecords(b)
		src.reuse(b)
	}
	s.close()
}

// Whatever the bytes of a leaf, it passes only as what the recorder wrote:
// nobody can make another one without a sender's keys.
func FuzzLeaf(f *testing.F) {
	b := newBank(f)
	good := b.sender(f, pki.RoleMonitor, "mon-1", time.Second).alert(90)
	digest := b.sender(f, pki.RoleSensor, "web-1", time.Second).digest0()
	seeds := [][]byte{good.leaf(f), digest.leaf(f)}
	reading := b.sender(f, pki.RoleSensor, "web-1", time.Second).cpu(7).leaf(f)
	for _, seed := range append(seeds, reading, []byte(`{"v":1,"received":1,"verdict":"accepted","kind":"message","data":"eyJ2IjoxfQ"}`), nil) {
		f.Add(seed)
	}
	c := b.open(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		a := newAudit(c)
		a.takeLeaf(0, raw)
		if a.finishJournals(); a.report.Found > 0 {
			return
		}
		// The time of receipt alone is the recorder's.
		if !bytes.HasSuffix(raw, seeds[0][30:]) && !bytes.HasSuffix(raw, seeds[1][30:]) {
			t.Fatalf("%q passes", raw)
		}
	})
}

// Whatever the bytes of a segment, every record that passes is an envelope
// that its sender sealed, and reading ends.
func FuzzSegment(f *testing.F) {
	b := newBank(f)
	s := b.sender(f, pki.RoleSensor, "web-1", time.Second)
	b.craft(f, recordsOf(append(s.readings(1), s.digest())...))
	whole, err := os.ReadFile(b.segment(f, 0))
	if err != nil {
		f.Fatal(err)
	}
	var sealed [][]byte
	for r := segment.NewReader(bytes.NewReader(whole), ""); ; {
		record, err := r.Next()
		if err != nil {
			break
		}
		sealed = append(sealed, bytes.Clone(record.Envelope))
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(append(bytes.Clone(whole), whole[8:]...))
	f.Add([]byte("leveseg\x01"))
	f.Add([]byte{})
	c, dir := b.open(f), f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(dir, "fuzz")
		write(t, path, string(raw))
		synctest.Test(t, func(t *testing.T) {
			a := newAudit(c)
			a.takeSegment(t, path)
			if a.report.Found == 0 && len(raw) < 8 {
				t.Fatalf("%d bytes are no segment", len(raw))
			}
			if a.report.Envelopes > len(sealed) && a.report.Found == 0 {
				t.Fatalf("%d envelopes out of %d", a.report.Envelopes, len(sealed))
			}
		})
	})
}
