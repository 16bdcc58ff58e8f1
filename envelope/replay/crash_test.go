//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package replay

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"unsafe"
)

const crashCapacity = 8

// named is an honest message of another sender.
func named(name string, boot, seq uint64, time int64) Message {
	m := message(boot, seq, time)
	m.Sender = []byte(name)
	return m
}

// layout gives access to the parts of a file's image.
func layout(img []byte) (*state, []record) {
	return (*state)(unsafe.Pointer(&img[stateOffset])),
		unsafe.Slice((*record)(unsafe.Pointer(&img[recordOffset])), crashCapacity)
}

// image reads the file while it is mapped: what a killed process would leave.
func image(t *testing.T, path string) []byte {
	t.Helper()
	img, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// history is accepted traffic of three senders, to start crash tests from.
func history(t *testing.T, s *Set) (accepted []Message) {
	t.Helper()
	for i := range uint64(200) {
		for _, m := range []Message{
			named("a", 1, i+1, inTime+int64(i)),
			named("b", 1+i/150, i%150^3+1, inTime+int64(i)),
			named("c", 7, 1<<40+i*29, inTime+int64(i)),
		} {
			wantVerdict(t, s, m, Fresh)
			accepted = append(accepted, m)
		}
	}
	return accepted
}

// TestChangeCutShort builds what a kill in the middle of a change leaves: the
// undo is complete, and of the words that the change writes any subset is
// written. Open must return to the state before the change: the message that
// was never answered comes as if for the first time.
func TestChangeCutShort(t *testing.T) {
	for name, m := range map[string]Message{
		"in order":               named("a", 1, 201, inTime+900),
		"into the window":        named("c", 7, 1<<40+199*29-500, inTime+900),
		"into the newest":        named("c", 7, 1<<40+199*29-5, inTime+900),
		"a jump":                 named("a", 1, 201+700, inTime+900),
		"a jump over the window": named("a", 1, 201+7000, inTime+900),
		"a newer boot":           named("b", 9, 4, inTime+900),
		"a new sender":           named("d", 1, 1, inTime+900),
		"reclaiming":             {},
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			s := mustOpen(t, path, crashCapacity, testStart, "boot-1")
			accepted := history(t, s)
			before := image(t, path)
			if m.Sender != nil {
				wantVerdict(t, s, m, Fresh)
			} else {
				for i := range 5 { // make Forget want to reclaim
					m := named(fmt.Sprint(i), 1, 1, inTime+9000)
					wantVerdict(t, s, m, Fresh)
					accepted = append(accepted, m)
				}
				before = image(t, path)
				if got := s.Forget(inTime + 9000); got != 1 {
					t.Fatalf("reclaimed %d", got)
				}
			}
			after := image(t, path)
			mustClose(t, s)

			r := rand.New(rand.NewPCG(1, 2))
			for round := range 40 {
				torn := slices.Clone(before)
				st, records := layout(torn)
				done, changed := layout(after)
				st.undo = done.undo
				st.undo.word = st.undo.seal()
				mix(r, round, unsafe.Slice((*uint64)(unsafe.Pointer(&st.tally)), unsafe.Sizeof(tally{})/8),
					unsafe.Slice((*uint64)(unsafe.Pointer(&done.tally)), unsafe.Sizeof(tally{})/8))
				i := st.undo.index
				mix(r, round, unsafe.Slice((*uint64)(unsafe.Pointer(&records[i])), recordSize/8),
					unsafe.Slice((*uint64)(unsafe.Pointer(&changed[i])), recordSize/8))

				path := newPath(t)
				if err := os.WriteFile(path, torn, 0o600); err != nil {
					t.Fatal(err)
				}
				s := mustOpen(t, path, crashCapacity, inTime+1_000_000, "boot-1")
				if st := s.Stats(); st.Damaged != 0 || st.Floor != testFloor {
					t.Fatalf("round %d: %+v: a kill must cost nothing", round, st)
				}
				for _, old := range accepted {
					if got := s.Check(old); got == Fresh || got.Alarm() {
						t.Fatalf("round %d: %s boot %d seq %d, accepted before: %v", round, old.Sender, old.Boot, old.Seq, got)
					}
				}
				if m.Sender != nil {
					wantVerdict(t, s, m, Fresh)
					if got := s.Check(m); got != Redelivery && got != Repeat {
						t.Fatalf("round %d: once more: %v", round, got)
					}
				}
				mustClose(t, s)
			}
		})
	}
}

// TestKilledAfterBegin is one such change made by the set itself.
func TestKilledAfterBegin(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, crashCapacity, testStart, "boot-1")
	accepted := history(t, s)
	m := named("a", 9, 77, inTime+900)
	i := s.index["a"]
	s.begin(i, m.Seq).accept(&m) // and no commit
	killed := image(t, path)
	mustClose(t, s)

	path = newPath(t)
	if err := os.WriteFile(path, killed, 0o600); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, path, crashCapacity, inTime+1000, "boot-1")
	for _, old := range accepted {
		if got := s.Check(old); got == Fresh || got.Alarm() {
			t.Fatalf("%s boot %d seq %d, accepted before: %v", old.Sender, old.Boot, old.Seq, got)
		}
	}
	wantVerdict(t, s, m, Fresh)
	if st := s.Stats(); st.Damaged != 0 || st.Floor != testFloor {
		t.Errorf("%+v: a kill must cost nothing", st)
	}
	mustClose(t, s)
}

// TestRepairComesAfterTheFloor: a process that is killed, or fails, before the
// floor is in the file must leave the damage there for the next one to see.
func TestRepairComesAfterTheFloor(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, crashCapacity, testStart, "boot-1")
	history(t, s)
	mustClose(t, s)
	img := image(t, path)
	st, records := layout(img)
	records[0].top++
	st.tally.used++
	st.undo.word = 1
	want := slices.Clone(img)

	if err := os.WriteFile(path, img, 0o600); err != nil {
		t.Fatal(err)
	}
	readOnly, err := os.Open(path) // on which the header cannot be written
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	h, err := readHeader(readOnly)
	if err != nil {
		t.Fatal(err)
	}
	s = newSet(crashCapacity, st, records)
	if err := s.load(readOnly, h, false, inTime, "boot-1"); err == nil {
		t.Fatal("loaded without writing the header")
	}
	if !slices.Equal(img, want) {
		t.Error("repaired before the floor was written")
	}
}

// mix takes words of after over into torn: all, none, or any.
func mix(r *rand.Rand, round int, torn, after []uint64) {
	for i := range torn {
		if round == 0 || round > 1 && r.IntN(2) == 0 {
			torn[i] = after[i]
		}
	}
}

// TestPowerFailure builds what a power failure leaves: of every sector the
// version of any moment. Nothing accepted before may be fresh again, and
// honest senders must be able to go on without an alarm.
func TestPowerFailure(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, crashCapacity, testStart, "boot-1")
	accepted := history(t, s)
	images := [][]byte{image(t, path)}
	step := func(m Message) {
		wantVerdict(t, s, m, Fresh)
		accepted = append(accepted, m)
		images = append(images, image(t, path))
	}
	for i := range uint64(20) {
		step(named("a", 1, 300+i, inTime+900))
		step(named("b", 2+i/10, 900+i*70, inTime+900))
		step(named("c", 8, i+1, inTime+900))
		if i%4 == 0 {
			step(named(fmt.Sprint("new-", i), 1, 1, inTime+900))
		}
	}
	s.Forget(inTime + 901)
	images = append(images, image(t, path))
	for i := range uint64(5) {
		if m := named(fmt.Sprint("newer-", i), 1, 1, inTime+901); s.Check(m) == Fresh {
			accepted = append(accepted, m)
		}
		images = append(images, image(t, path))
	}
	mustClose(t, s)

	start := inTime + 1000
	floor := start + 30_000
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 150 {
		torn := make([]byte, len(images[0]))
		// Narrow at times: most pages reach the disk together.
		from := r.IntN(len(images))
		for at := 0; at < len(torn); at += headerSize {
			end := min(at+headerSize, len(torn))
			copy(torn[at:end], images[from+r.IntN(len(images)-from)][at:end])
		}
		path := newPath(t)
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, path, crashCapacity, start, "boot-2")
		for _, m := range accepted {
			wantVerdict(t, s, m, BeforeStart)
		}
		senders := map[string]Message{}
		for _, m := range accepted {
			if last, ok := senders[string(m.Sender)]; !ok || m.Boot > last.Boot || m.Boot == last.Boot && m.Seq > last.Seq {
				senders[string(m.Sender)] = m
			}
		}
		for _, m := range senders {
			m.Seq++
			m.Time, m.Tag = floor, tagOf(m.Boot, m.Seq)
			if got := s.Check(m); got != Fresh && got != Full {
				t.Fatalf("round %d: %s goes on with boot %d seq %d: %v", round, m.Sender, m.Boot, m.Seq, got)
			}
		}
		mustClose(t, s)

		// A restart after that must find a whole file.
		s = mustOpen(t, path, crashCapacity, start+100, "boot-2")
		if st := s.Stats(); st.Damaged != 0 || st.Floor != floor {
			t.Fatalf("round %d: after a restart: %+v", round, st)
		}
		mustClose(t, s)
	}
}

// TestDamageIsNoticed flips a bit in each byte that matters, without a reboot.
// Where it is noticed, the floor is raised for all senders.
func TestDamageIsNoticed(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, crashCapacity, testStart, "boot-1")
	accepted := history(t, s)
	mustClose(t, s)
	whole := image(t, path)

	var offsets []int
	for i := range int(unsafe.Sizeof(state{})) {
		offsets = append(offsets, stateOffset+i)
	}
	for i := range int(unsafe.Sizeof(window{})) + 2 { // and the name
		offsets = append(offsets, recordOffset+i)
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 100 {
		offsets = append(offsets, recordOffset+r.IntN(3*recordSize))
	}
	damaged := 0
	for _, at := range offsets {
		img := slices.Clone(whole)
		img[at] ^= 1 << r.IntN(8)
		if err := os.WriteFile(path, img, 0o600); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, path, crashCapacity, inTime+1000, "boot-1")
		for _, m := range accepted {
			if got := s.Check(m); got == Fresh {
				t.Fatalf("bit at %d flipped: %s boot %d seq %d: %v", at, m.Sender, m.Boot, m.Seq, got)
			}
		}
		if s.Stats().Damaged > 0 {
			damaged++
			wantVerdict(t, s, named("honest", 1, 1, inTime+30_999), BeforeStart)
			mustClose(t, s)
			// The floor stays though the file has been repaired.
			s = mustOpen(t, path, crashCapacity, inTime+2000, "boot-1")
			if st := s.Stats(); st.Damaged != 0 || st.Floor != inTime+31_000 {
				t.Fatalf("after a restart: %+v", st)
			}
		}
		wantVerdict(t, s, named("honest", 1, 1, inTime+31_000), Fresh)
		mustClose(t, s)
	}
	// Each byte of the window, of the name, of the tally and of the word.
	if want := int(unsafe.Sizeof(window{})) + 2 + 20 + 8; damaged < want {
		t.Errorf("damage was noticed %d times, want at least %d", damaged, want)
	}
}

// TestTwoRecordsOfOneSender: a power failure may leave both the record that a
// sender had before it was reclaimed and the one that it was given afterwards.
// The one that knows more counts, wherever it stands.
func TestTwoRecordsOfOneSender(t *testing.T) {
	for name, newer := range map[string]Message{
		"by boot":   named("a", 5, 1, inTime+900),
		"by number": named("a", 1, 900, inTime+900),
	} {
		for _, place := range []int{0, 1} {
			t.Run(fmt.Sprint(name, place), func(t *testing.T) {
				path := newPath(t)
				s := mustOpen(t, path, crashCapacity, testStart, "boot-1")
				wantVerdict(t, s, named("a", 1, 100, inTime+800), Fresh)
				_, older := layout(image(t, path))
				wantVerdict(t, s, newer, Fresh)
				mustClose(t, s)
				img := image(t, path)
				_, records := layout(img)
				records[1-place], records[place] = older[0], records[0]
				if err := os.WriteFile(path, img, 0o600); err != nil {
					t.Fatal(err)
				}
				start := inTime + 1000
				s = mustOpen(t, path, crashCapacity, start, "boot-2")
				if st := s.Stats(); st.Senders != 1 || st.Capacity != crashCapacity || st.Damaged == 0 {
					t.Errorf("%+v", st)
				}
				newer.Time = start + 30_000
				wantVerdict(t, s, newer, Redelivery)
				mustClose(t, s)
				s = mustOpen(t, path, crashCapacity, start, "boot-2")
				wantVerdict(t, s, newer, Redelivery)
				if st := s.Stats(); st.Senders != 1 || st.Damaged != 0 {
					t.Errorf("after a restart: %+v", st)
				}
				mustClose(t, s)
			})
		}
	}
}

// TestNumbersOutOfRange: checksums can be right by accident or by intent. The
// numbers under them must not lead outside the file.
func TestNumbersOutOfRange(t *testing.T) {
	for name, spoil := range map[string]func(st *state, records []record){
		"length of a name": func(_ *state, records []record) {
			records[0].length = MaxSender + 1
			records[0].sum = records[0].window.checksum()
		},
		"record of the undo": func(st *state, _ []record) {
			st.undo.index = crashCapacity
			st.undo.word = st.undo.seal()
		},
		"tag of the undo": func(st *state, _ []record) {
			st.undo.slot = Tags
			st.undo.word = st.undo.seal()
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			s := mustOpen(t, path, crashCapacity, testStart, "boot-1")
			accepted := history(t, s)
			mustClose(t, s)
			img := image(t, path)
			spoil(layout(img))
			if err := os.WriteFile(path, img, 0o600); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, path, crashCapacity, inTime+1000, "boot-1")
			for _, m := range accepted {
				wantVerdict(t, s, m, BeforeStart)
			}
			mustClose(t, s)
		})
	}
}

// TestVanishedRecordIsNoticed: zeros are a free record, so only the tally
// tells that one is missing.
func TestVanishedRecordIsNoticed(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, crashCapacity, testStart, "boot-1")
	accepted := history(t, s)
	mustClose(t, s)
	img := image(t, path)
	_, records := layout(img)
	records[1] = record{}
	if err := os.WriteFile(path, img, 0o600); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, path, crashCapacity, inTime+1000, "boot-1")
	for _, m := range accepted {
		wantVerdict(t, s, m, BeforeStart)
	}
	mustClose(t, s)
}

// TestStaleUndoIsNotBelieved: the content of the last undo stays behind its
// zeroed word. Were the word set by accident, it would take back an answer.
func TestStaleUndoIsNotBelieved(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, crashCapacity, testStart, "boot-1")
	history(t, s)
	last := named("a", 1, 1000, inTime+900)
	wantVerdict(t, s, last, Fresh)
	mustClose(t, s)
	img := image(t, path)
	st, _ := layout(img)
	for _, word := range []uint64{1, 2, 1 << 32, 0xffffffff, maxSeq} {
		st.undo.word = word
		if err := os.WriteFile(path, img, 0o600); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, path, crashCapacity, inTime+1000, "boot-1")
		wantVerdict(t, s, last, BeforeStart)
		mustClose(t, s)
	}
}
