//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package replay

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// FuzzOpen opens damaged files. Open may refuse; it must not panic, and what
// was accepted before the damage must not be accepted again.
//
// With raw set, data is the whole file. Otherwise data is a list of edits of a
// valid file, 6 bytes each: offset, length, and a byte to xor or, if that is
// 0, zeros to write. size, if not 0, cuts the file or makes it longer.
func FuzzOpen(f *testing.F) {
	const senders = 4
	dir := f.TempDir()
	path := filepath.Join(dir, "windows")
	s, err := Open(path, senders, testStart, testSkew, BootID("boot-1"))
	if err != nil {
		f.Fatal(err)
	}
	var accepted []Message
	accept := func(m Message) {
		if v := s.Check(m); v != Fresh {
			f.Fatal(v)
		}
		accepted = append(accepted, m)
	}
	for i := range uint64(100) {
		m := message(1+i/60, i%60*31+1, inTime+int64(i))
		accept(m)
		m.Sender = []byte("melb/sensor/web-2")
		accept(m)
	}
	gone := message(1, 1, inTime+5)
	gone.Sender = []byte("melb/sensor/gone")
	accept(gone)
	last := message(1, 1, inTime+50)
	last.Sender = []byte("melb/sensor/web-4")
	accept(last)
	if n := s.Forget(inTime + 6); n != 1 {
		f.Fatalf("reclaimed %d", n)
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	valid, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}

	edit := func(offset, length uint16, xor byte) []byte {
		b := binary.BigEndian.AppendUint16(nil, offset)
		return append(binary.BigEndian.AppendUint16(b, length), xor, 0)
	}
	f.Add(false, uint16(0), []byte{})
	f.Add(false, uint16(0), edit(0, headerSize, 0))
	f.Add(false, uint16(0), edit(40, 32, 1))
	f.Add(false, uint16(0), edit(stateOffset, 8, 1))
	f.Add(false, uint16(0), edit(stateOffset, 1, 1))
	f.Add(false, uint16(0), edit(stateOffset, 4096, 0))
	f.Add(false, uint16(0), edit(recordOffset, recordSize, 0))
	f.Add(false, uint16(0), edit(recordOffset+4, 1, 0xff))
	f.Add(false, uint16(0), append(edit(recordOffset, 184, 0xff), edit(recordOffset+recordSize, 1000, 0)...))
	f.Add(false, uint16(0), edit(0, math.MaxUint16, 0))
	f.Add(false, uint16(8192), []byte{})
	f.Add(false, uint16(20_000), []byte{})
	f.Add(true, uint16(0), []byte{})
	f.Add(true, uint16(0), []byte(magic))
	f.Add(true, uint16(len(valid)), make([]byte, 512))
	f.Add(true, uint16(0), valid[:headerSize-1])

	f.Fuzz(func(t *testing.T, raw bool, size uint16, data []byte) {
		file := slices.Clone(valid)
		if raw {
			file = slices.Clone(data)
		} else {
			for ; len(data) >= 6; data = data[6:] {
				from := min(int(binary.BigEndian.Uint16(data)), len(file))
				to := min(from+int(binary.BigEndian.Uint16(data[2:])), len(file))
				for i := from; i < to; i++ {
					file[i] ^= data[4]
					if data[4] == 0 {
						file[i] = 0
					}
				}
			}
		}
		if n := int(size); n > len(file) {
			file = append(file, make([]byte, n-len(file))...)
		} else if n > 0 {
			file = file[:n]
		}
		path := filepath.Join(t.TempDir(), "windows")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path, senders, inTime+1000, testSkew, BootID("boot-1"))
		if err != nil {
			if !errors.Is(err, ErrUnusable) {
				t.Fatal(err)
			}
			return
		}
		for _, m := range accepted {
			if v := s.Check(m); v == Fresh {
				t.Fatalf("%s boot %d seq %d is fresh again", m.Sender, m.Boot, m.Seq)
			}
			s.Lookup(m.Sender)
		}
		// Whatever the file was, from here on the set keeps the rule.
		m := message(1<<43, 1, inTime+40_000)
		if v := s.Check(m); v != Fresh && v != Full {
			t.Fatalf("an honest newer message: %v", v)
		}
		if v := s.Check(m); v == Fresh {
			t.Fatal("fresh twice")
		}
		s.Forget(math.MaxInt64)
		if v := s.Check(m); v == Fresh {
			t.Fatal("fresh again after reclaiming")
		}
		if st := s.Stats(); st.Capacity != senders {
			t.Fatalf("%+v", st)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
