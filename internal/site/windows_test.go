package site_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"levee/envelope/replay"
	"levee/internal/site"
	"levee/pki"
)

// A receiver takes all the senders that a site may have, and the second counter
// of each. Windows that an earlier version made for fewer go on knowing theirs.
func TestWindowsOfALargeSite(t *testing.T) {
	const fleet, before = 100_000, 4096
	s := settings(t, layout(t, false), identity("melb", pki.RoleSensor, "web-1"))
	if err := os.Mkdir(string(s.State), 0o700); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	check := func(w *replay.Set, sender string, want replay.Verdict) {
		t.Helper()
		m := replay.Message{Sender: []byte(sender), Boot: 1, Seq: 1, Time: now.UnixMilli()}
		if got := w.Check(m); got != want {
			t.Fatalf("%s: %v instead of %v", sender, got, want)
		}
	}
	w, err := replay.Open(filepath.Join(string(s.State), "windows"), before, 1, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for i := range before {
		check(w, fmt.Sprint("melb/sensor/", i), replay.Fresh)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := site.Open(s, now)
	if err != nil {
		t.Fatal(err)
	}
	if w, err = b.OpenWindows(now); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for i := range fleet {
		want := replay.Fresh
		if i < before {
			want = replay.Redelivery
		}
		check(w, fmt.Sprint("melb/sensor/", i), want)
	}
	if st := w.Stats(); st.Senders != fleet || st.Capacity < 2*fleet || (st.Capacity+1)/2 < fleet {
		t.Errorf("%+v", st)
	}
}
