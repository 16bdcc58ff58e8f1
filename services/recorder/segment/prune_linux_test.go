package segment

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// What retention may take, and what it must leave.
func TestPrune(t *testing.T) {
	dir := t.TempDir()
	cfg, _ := testConfig(dir)
	cfg.MaxAge = time.Minute
	broken := errors.New("broken")
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		w := openWriter(t, cfg)
		var places []Position
		for _, envelope := range []string{"0", "1", "2", "3"} {
			w.mustAppend(t, envelope)
			w.mustSync(t)
			places = append(places, w.Position())
			time.Sleep(time.Minute)
		}
		end := Position{Start: 1 << 52}
		prune := func(before time.Duration, safe Position, fails error) (declared []string) {
			t.Helper()
			err := w.Prune(begun.Add(before), safe, func(f File, ended int64) error {
				if ended-f.Start != time.Minute.Milliseconds() {
					t.Errorf("%s ended at %d", f.Path, ended)
				}
				declared = append(declared, filepath.Base(f.Path))
				return fails
			})
			if !errors.Is(err, fails) {
				t.Errorf("%v", err)
			}
			return declared
		}
		left := func(want ...string) {
			t.Helper()
			if got := slices.Concat(contents(t, dir)...); !slices.Equal(got, want) {
				t.Errorf("left: %q", got)
			}
		}
		if prune(time.Minute-time.Millisecond, end, nil); true {
			left("0", "1", "2", "3") // the first ended later
		}
		if prune(time.Hour, places[0], nil); true {
			left("0", "1", "2", "3") // nobody noted what the first holds
		}
		if got := prune(time.Hour, end, broken); len(got) != 1 {
			t.Errorf("declared %q", got)
		}
		left("0", "1", "2", "3") // what is not declared stays
		if got := prune(2*time.Minute, end, nil); !slices.Equal(got, []string{fileName(begun.UnixMilli()), fileName(begun.Add(time.Minute).UnixMilli())}) {
			t.Errorf("declared %q", got)
		}
		left("2", "3")
		if prune(time.Hour, places[3], nil); true {
			left("3") // the newest stays
		}
		w.mustClose(t)
	})
}

func TestPosition(t *testing.T) {
	cfg, _ := testConfig(t.TempDir())
	cfg.MaxSize = 100
	w := openWriter(t, cfg)
	if got := w.Position(); got != (Position{}) {
		t.Errorf("%+v of nothing", got)
	}
	w.mustAppend(t, "a", "b")
	w.mustSync(t)
	first := w.Position()
	if first.Records != 2 || first.Start == 0 {
		t.Errorf("%+v", first)
	}
	w.mustAppend(t, "a file of its own, because of its length, which is above that of a file: a hundred bytes, and then some")
	w.mustSync(t)
	if got := w.Position(); got.Records != 1 || got.Start <= first.Start {
		t.Errorf("%+v", got)
	}
	w.mustClose(t)
	if again := openWriter(t, cfg); again.Position() != w.Position() {
		t.Errorf("%+v after a restart", again.Position())
	}
}
