package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// pack returns a packed file of these envelopes, in blocks of n.
func pack(t testing.TB, n int, envelopes ...string) []byte {
	t.Helper()
	e, err := newEncoder()
	if err != nil {
		t.Fatal(err)
	}
	content, block := []byte(packedHeader), []byte(nil)
	for i, text := range envelopes {
		if block, err = appendRecord(block, Record{Received: int64(i), Verdict: Verdict(i % 2), Peer: "b1", Envelope: []byte(text)}); err != nil {
			t.Fatal(err)
		}
		if (i+1)%n == 0 || i+1 == len(envelopes) {
			content = appendBlock(content, e, block)
			block = nil
		}
	}
	return content
}

func TestPackedFilesAreReadAlike(t *testing.T) {
	want := []string{"a", strings.Repeat("b", MaxEnvelope), "c"}
	for i := range 2000 { // many blocks
		want = append(want, strings.Repeat("d", 300+i))
	}
	r := NewReader(bytes.NewReader(pack(t, 3, want...)), "x")
	for i, envelope := range want {
		got, err := r.Next()
		if err != nil || !reflect.DeepEqual(got, Record{Received: int64(i), Verdict: Verdict(i % 2), Peer: "b1", Envelope: []byte(envelope)}) {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	for range 2 {
		if _, err := r.Next(); err != io.EOF || r.Records() != int64(len(want)) {
			t.Fatalf("%v after %d", err, r.Records())
		}
	}
}

// Any one byte changed is found, and a file cut anywhere is incomplete.
func TestEveryChangedByteOfAPackedFileIsFound(t *testing.T) {
	content := pack(t, 3, "first", "second", "third")
	for at := range content {
		for bit := range 8 {
			changed := bytes.Clone(content)
			changed[at] ^= 1 << bit
			if got, err := readAll(NewReader(bytes.NewReader(changed), "x")); len(got) != 0 || err == io.EOF {
				t.Fatalf("byte %d, bit %d: %d records, %v", at, bit, len(got), err)
			}
		}
		got, err := readAll(NewReader(bytes.NewReader(content[:at]), "x"))
		if len(got) != 0 || (err == io.EOF) != (at == 0 || at == len(packedHeader)) {
			t.Fatalf("cut at %d: %d records, %v", at, len(got), err)
		}
	}
}

// block returns a packed file with one frame, whose checksum is right.
func block(frame []byte) []byte {
	b := append([]byte(packedHeader), 0, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, frame...)
	body := b[len(packedHeader):]
	binary.BigEndian.PutUint32(body, uint32(len(frame)))
	binary.BigEndian.PutUint32(body[offsetSum:], castagnoli(packed, body[:offsetSum], body[offsetBody:]))
	return b
}

// A forged block costs no more than an honest one.
func TestForgedBlocksAreRefused(t *testing.T) {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	whole, starts := file(t, "first", "second")
	records := whole[starts[0]:]
	for name, frame := range map[string][]byte{
		"no frame":               []byte("no frame"),
		"an empty frame":         e.EncodeAll(nil, nil),
		"half a record":          e.EncodeAll(records[:len(records)-1], nil),
		"a bomb":                 e.EncodeAll(make([]byte, 64<<20), nil),
		"two frames, and a bomb": append(e.EncodeAll(records, nil), e.EncodeAll(make([]byte, 64<<20), nil)...),
		"a file within a file":   e.EncodeAll(pack(t, 1, "x"), nil),
	} {
		r := NewReader(bytes.NewReader(block(frame)), "x")
		_, err := readAll(r)
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if cap(r.plain) > 2*maxBlock {
			t.Errorf("%s: %d bytes", name, cap(r.plain))
		}
	}
	if got, err := readAll(NewReader(bytes.NewReader(block(e.EncodeAll(records, nil))), "x")); err != io.EOF || !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("an honest one: %q, %v", got, err)
	}
	if _, err := readAll(NewReader(bytes.NewReader(block(make([]byte, maxFrame+1))), "x")); !errors.Is(err, ErrDamaged) {
		t.Errorf("one that is too long: %v", err)
	}
}

func BenchmarkPackedReader(b *testing.B) {
	var all []string
	plain := 0
	for i := range 20000 {
		all = append(all, string(bench(i)))
		plain += len(all[i]) + 21
	}
	content := pack(b, 250, all...)
	b.SetBytes(int64(plain))
	for b.Loop() {
		if got, err := drain(NewReader(bytes.NewReader(content), "x")); got != 20000 || err != io.EOF {
			b.Fatal(got, err)
		}
	}
	b.ReportMetric(float64(plain)/float64(len(content)), "ratio")
}

// A block is whole or not there: what of a file is cut anywhere, or zeros, is
// incomplete, and gives the blocks before.
func TestTornBlocks(t *testing.T) {
	content := pack(t, 2, "first", "second", "third")
	second := len(pack(t, 2, "first", "second"))
	for at := second + 1; at < len(content); at++ {
		for _, tail := range [][]byte{nil, make([]byte, 3000)} {
			r := NewReader(bytes.NewReader(append(bytes.Clone(content[:second]), append(bytes.Clone(content[second:at]), tail...)...)), "x")
			got, err := readAll(r)
			if len(got) != 2 || tail == nil && !errors.Is(err, ErrIncomplete) || err == io.EOF || r.Offset() != int64(second) {
				t.Fatalf("cut at %d: %q, %v at %d", at, got, err, r.Offset())
			}
		}
	}
	r := NewReader(bytes.NewReader(append(content[:second:second], make([]byte, 5000)...)), "x")
	if got, err := readAll(r); len(got) != 2 || !errors.Is(err, ErrIncomplete) || r.Offset() != int64(second) {
		t.Errorf("zeros: %q, %v", got, err)
	}
}
