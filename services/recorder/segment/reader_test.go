package segment

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
)

// The example of docs/records.md.
const golden = "6c65766573656702" +
	"00000013" + "c4825aad" + "00000192b9feaace" + "00" + "02" + "6231" + "7b2276223a317d"

// The example of version 1, which named no peer.
const golden1 = "6c65766573656701" +
	"00000010" + "9e8a16b6" + "00000192b9feaace" + "00" + "7b2276223a317d"

func TestGolden(t *testing.T) {
	want := Record{Received: 1729697327822, Peer: "b1", Envelope: []byte(`{"v":1}`)}
	b, err := appendRecord([]byte(header), want)
	if err != nil || hex.EncodeToString(b) != golden {
		t.Fatalf("%x, %v", b, err)
	}
	for text, peer := range map[string]string{golden: "b1", golden1: ""} {
		b, _ := hex.DecodeString(text)
		r := NewReader(bytes.NewReader(b), "x")
		want.Peer = peer
		if got, err := r.Next(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := r.Next(); err != io.EOF || r.Records() != 1 {
			t.Errorf("%v after %d", err, r.Records())
		}
	}
}

// A file of one version is none of another.
func TestVersionsAreToldApart(t *testing.T) {
	content, _ := file(t, "first", "second")
	old, _ := hex.DecodeString(golden1)
	for _, b := range [][]byte{content, old} {
		for v := range 256 {
			changed := bytes.Clone(b)
			changed[len(name)] = byte(v)
			if got, err := readAll(NewReader(bytes.NewReader(changed), "x")); byte(v) != b[len(name)] && (len(got) > 0 || !errors.Is(err, ErrDamaged)) {
				t.Errorf("version %d as %d: %q, %v", b[len(name)], v, got, err)
			}
		}
	}
}

// What a number means never changes: files outlive programs.
func TestVerdicts(t *testing.T) {
	for v := range 256 {
		label := Verdict(v).String()
		got, ok := VerdictOf(label)
		if ok != (label != "") || ok && got != Verdict(v) {
			t.Errorf("%d is %q, which is %d", v, label, got)
		}
		if kept := Verdict(v).Kept(); kept != (v < 2) {
			t.Errorf("%d is kept: %v", v, kept)
		}
	}
	for v, want := range map[Verdict]string{0: "accepted", 1: "late", 2: "", 15: "", 16: "size", 32: "nonce_collision", 37: "content", 38: ""} {
		if v.String() != want {
			t.Errorf("%d is %q", v, v)
		}
	}
}

// file returns the bytes of a segment with records of these envelopes, and
// where each begins.
func file(t testing.TB, envelopes ...string) (content []byte, starts []int) {
	t.Helper()
	content = []byte(header)
	for i, envelope := range envelopes {
		starts = append(starts, len(content))
		var err error
		content, err = appendRecord(content, Record{Received: int64(i), Verdict: Verdict(i), Envelope: []byte(envelope)})
		if err != nil {
			t.Fatal(err)
		}
	}
	return content, starts
}

// readAll returns the envelopes up to the first error.
func readAll(r *Reader) (envelopes []string, err error) {
	for {
		record, err := r.Next()
		if err != nil {
			return envelopes, err
		}
		envelopes = append(envelopes, string(record.Envelope))
	}
}

func TestReadBack(t *testing.T) {
	want := []string{"a", strings.Repeat("b", MaxEnvelope), "c"}
	for i := range 400 { // more than is read ahead at once
		want = append(want, strings.Repeat("d", 1000+i))
	}
	content, _ := file(t, want...)
	got, err := readAll(NewReader(bytes.NewReader(content), "x"))
	if err != io.EOF || !reflect.DeepEqual(got, want) {
		t.Fatalf("%d records, %v", len(got), err)
	}
	r := NewReader(bytes.NewReader(content), "x")
	for i := range want {
		record, err := r.Next()
		if err != nil || record.Received != int64(i) || record.Verdict != Verdict(i) {
			t.Fatalf("record %d: %d %d %v", i, record.Received, record.Verdict, err)
		}
	}
}

// summed writes the length of a peer's name into the record at start, and the sum anew.
func summed(b []byte, start, peer int) []byte {
	b[start+offsetPeer] = byte(peer)
	end := start + offsetBody + int(binary.BigEndian.Uint32(b[start:]))
	binary.BigEndian.PutUint32(b[start+offsetSum:], castagnoli(version, b[start:start+offsetSum], b[start+offsetBody:end]))
	return b
}

func TestAPeerOverTheBoundIsRefused(t *testing.T) {
	content, starts := file(t, strings.Repeat("x", 100))
	if got, err := readAll(NewReader(bytes.NewReader(summed(content, starts[0], MaxPeer+1)), "x")); len(got) > 0 || !errors.Is(err, ErrDamaged) {
		t.Errorf("read: %q, %v", got, err)
	}
	if b, err := appendRecord(nil, Record{Peer: strings.Repeat("p", MaxPeer+1), Envelope: []byte("x")}); err == nil || len(b) > 0 {
		t.Error(err)
	}
}

func TestEnvelopesOutsideTheBoundsAreRefused(t *testing.T) {
	for _, n := range []int{0, MaxEnvelope + 1} {
		if b, err := appendRecord(nil, Record{Envelope: make([]byte, n)}); err == nil || len(b) > 0 {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestReaderSaysWhere(t *testing.T) {
	content, starts := file(t, "first", "second", "third")
	for _, tc := range []struct {
		name   string
		change func([]byte) []byte
		want   error
		record int64
		offset int
	}{
		{"nothing", func([]byte) []byte { return nil }, io.EOF, 0, 0},
		{"half a header", func(b []byte) []byte { return b[:4] }, ErrIncomplete, 0, 0},
		{"a header of zeros", func(b []byte) []byte { return make([]byte, 100) }, ErrIncomplete, 0, 0},
		{"another version", func(b []byte) []byte { b[7] = 4; return b }, ErrDamaged, 0, 0},
		{"another file", func([]byte) []byte { return []byte("GIF89a..") }, ErrDamaged, 0, 0},
		{"another short file", func([]byte) []byte { return []byte("GIF") }, ErrDamaged, 0, 0},
		{"zeros at the end", func(b []byte) []byte { return append(b, make([]byte, 5000)...) }, ErrIncomplete, 3, len(content)},
		{"one zero at the end", func(b []byte) []byte { return append(b, 0) }, ErrIncomplete, 3, len(content)},
		{"zeros, then more", func(b []byte) []byte { return append(b, append(make([]byte, 500_000), 1)...) }, ErrDamaged, 3, len(content)},
		{"length too small", func(b []byte) []byte { b[starts[1]+3] = 10; return b }, ErrDamaged, 1, starts[1]},
		{"length too large", func(b []byte) []byte { b[starts[1]+1] = 2; return b }, ErrDamaged, 1, starts[1]},
		{"length zero", func(b []byte) []byte { b[starts[1]+3] = 0; return b }, ErrDamaged, 1, starts[1]},
		{"time", func(b []byte) []byte { b[starts[1]+8] ^= 1; return b }, ErrDamaged, 1, starts[1]},
		{"verdict", func(b []byte) []byte { b[starts[1]+16] ^= 1; return b }, ErrDamaged, 1, starts[1]},
		{"envelope", func(b []byte) []byte { b[starts[2]+18] ^= 1; return b }, ErrDamaged, 2, starts[2]},
		{"peer", func(b []byte) []byte { b[starts[1]+17] ^= 1; return b }, ErrDamaged, 1, starts[1]},
		{"a peer's name over its bound, summed", func(b []byte) []byte { return summed(b, starts[1], MaxPeer+1) }, ErrDamaged, 1, starts[1]},
		{"no envelope behind the peer's name, summed", func(b []byte) []byte { return summed(b, starts[1], 6) }, ErrDamaged, 1, starts[1]},
		{"checksum", func(b []byte) []byte { b[starts[0]+4] ^= 1; return b }, ErrDamaged, 0, starts[0]},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := readAll(NewReader(bytes.NewReader(tc.change(bytes.Clone(content))), "the/path"))
			if tc.want == io.EOF {
				if err != io.EOF {
					t.Fatalf("got %v", err)
				}
				return
			}
			var at *Error
			if !errors.Is(err, tc.want) || !errors.As(err, &at) || at.Record != tc.record || at.Offset != int64(tc.offset) ||
				!strings.Contains(err.Error(), fmt.Sprintf("the/path, record %d at byte %d", tc.record, tc.offset)) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// Cut anywhere, a file gives its whole records and says that it is incomplete.
func TestEveryCutIsIncomplete(t *testing.T) {
	content, starts := file(t, "first", "second", "third")
	ends := append(starts[1:], len(content))
	for n := range content {
		got, err := readAll(NewReader(bytes.NewReader(content[:n]), "x"))
		whole := 0
		for whole < 3 && ends[whole] <= n {
			whole++
		}
		boundary := n == 0 || n == len(header) || n == ends[0] || n == ends[1]
		if len(got) != whole || boundary != (err == io.EOF) || !boundary && !errors.Is(err, ErrIncomplete) {
			t.Fatalf("cut at %d: %d records, %v", n, len(got), err)
		}
	}
}

// Any one byte changed is found. A length may grow past the end of the file:
// then what is there is an incomplete record.
func TestEveryChangedByteIsFound(t *testing.T) {
	content, starts := file(t, "first", "second", "third")
	for at := range content {
		for bit := range 8 {
			changed := bytes.Clone(content)
			changed[at] ^= 1 << bit
			got, err := readAll(NewReader(bytes.NewReader(changed), "x"))
			record := 0
			for record < 2 && at >= starts[record+1] {
				record++
			}
			if at < len(header) {
				record = 0
			}
			inLength := at >= starts[record] && at < starts[record]+4
			if len(got) != record || !errors.Is(err, ErrDamaged) && !(inLength && errors.Is(err, ErrIncomplete)) {
				t.Fatalf("byte %d, bit %d: %d records, %v", at, bit, len(got), err)
			}
		}
	}
}

// growing is a file that its writer is still at.
type growing struct {
	content []byte
	length  int
}

func (g *growing) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(g.content[:g.length]).ReadAt(b, off)
}

func TestReaderFollowsAGrowingFile(t *testing.T) {
	want := []string{"first", strings.Repeat("second", 5000), "third"}
	content, _ := file(t, want...)
	g := &growing{content: content}
	r := NewReader(g, "x")
	var got []string
	for g.length = range content {
		envelopes, err := readAll(r)
		got = append(got, envelopes...)
		if err != io.EOF && !errors.Is(err, ErrIncomplete) {
			t.Fatalf("at %d bytes: %v", g.length, err)
		}
	}
	g.length = len(content)
	envelopes, err := readAll(r)
	if got = append(got, envelopes...); err != io.EOF || !reflect.DeepEqual(got, want) {
		t.Fatalf("%d records, %v", len(got), err)
	}
	// The tail was torn and has been cut off: the reader does not cling to it.
	g.content, _ = file(t, append(want, "fourth")...)
	g.length = len(g.content) - 1
	if _, err := r.Next(); !errors.Is(err, ErrIncomplete) {
		t.Fatalf("got %v", err)
	}
	g.length = len(content)
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func TestReaderPassesReadErrorsOn(t *testing.T) {
	broken := errors.New("broken")
	var at *Error
	if _, err := NewReader(failing{broken}, "x").Next(); !errors.Is(err, broken) || !errors.As(err, &at) {
		t.Fatalf("got %v", err)
	}
}

func TestFileNames(t *testing.T) {
	const name = "20241023T152847.822Z.seg"
	if got := fileName(1729697327822); got != name {
		t.Fatalf("got %s", got)
	}
	if start, err := parseName(name); err != nil || start != 1729697327822 {
		t.Fatalf("got %d, %v", start, err)
	}
	for _, name := range []string{
		"", ".seg", "20241023T152847.822Z", "20241023T152847.82Z.seg", "20241023T152847.8222Z.seg", "20241323T152847.822Z.seg",
		"20241023T152847,822Z.seg", "20241023T152860.822Z.seg", "20241023T152847.822Z.seg2", " 20241023T152847.822Z.seg", "20240230T152847.822Z.seg",
	} {
		if start, err := parseName(name); err == nil {
			t.Errorf("%q was read as %d", name, start)
		}
	}
}

func FuzzReader(f *testing.F) {
	content, starts := file(f, "first", "second", "third")
	f.Add(content)
	f.Add(content[:len(content)-1])
	f.Add(append(bytes.Clone(content), make([]byte, 20)...))
	f.Add(content[:starts[1]+3])
	f.Add(pack(f, 2, "first", "second", "third"))
	f.Fuzz(func(t *testing.T, content []byte) {
		r := NewReader(bytes.NewReader(content), "x")
		if len(content) >= len(header) && (content[len(name)] == 1 || content[len(name)] == packed) {
			return // is read, and has more than one spelling or is not written any more
		}
		again := []byte(header)
		for {
			record, err := r.Next()
			if err != nil {
				if !reflect.DeepEqual(record, Record{}) {
					t.Fatalf("an error, %v, and a record", err)
				}
				break
			}
			if again, err = appendRecord(again, record); err != nil {
				t.Fatal(err)
			}
		}
		if r.Offset() > 0 && (r.Offset() != int64(len(again)) || !bytes.HasPrefix(content, again)) {
			t.Fatalf("what was read up to %d is written as %d other bytes", r.Offset(), len(again))
		}
	})
}

func FuzzParseName(f *testing.F) {
	f.Add("20241023T152847.822Z.seg")
	f.Fuzz(func(t *testing.T, name string) {
		if start, err := parseName(name); err == nil && fileName(start) != name {
			t.Fatalf("%q was read as %d", name, start)
		}
	})
}

func BenchmarkReader(b *testing.B) {
	content := []byte(header)
	for range 1000 {
		content, _ = appendRecord(content, Record{Envelope: make([]byte, 300)})
	}
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		if got, err := drain(NewReader(bytes.NewReader(content), "x")); got != 1000 || err != io.EOF {
			b.Fatal(got, err)
		}
	}
}

func drain(r *Reader) (n int, err error) {
	for ; err == nil; n++ {
		_, err = r.Next()
	}
	return n - 1, err
}
