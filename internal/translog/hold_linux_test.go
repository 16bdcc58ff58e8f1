package translog

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"levee/internal/translog/proof"
)

// A log that somebody else remembers better stays shut, whatever its own watermark
// says, until the right one is back; and what others did not sign changes nothing.
func TestHoldTo(t *testing.T) {
	s := newSite(t)
	s.create(t)
	s.extend(t, "first", 300)
	log, mark := s.backup(t), read1(t, s.cfg.Watermark)
	s.extend(t, "second", 100)
	newest, whole := read1(t, filepath.Join(s.cfg.Dir, proof.CheckpointFile)), s.backup(t)
	foreign := newSite(t)
	foreign.create(t)
	foreign.extend(t, "foreign", 500)

	for name, tc := range map[string]struct {
		more int // entries that the backup was continued by
		want error
	}{"as it was": {0, ErrRollback}, "continued": {50, ErrRollback}, "continued beyond": {150, ErrFork}} {
		t.Run(name, func(t *testing.T) {
			s.restore(t, log)
			write1(t, s.cfg.Watermark, mark)
			if tc.more > 0 {
				s.extend(t, "another history", tc.more)
			}
			was := read1(t, s.cfg.Watermark)
			if err := HoldTo(s.cfg, read1(t, foreign.cfg.Watermark)); !errors.Is(err, proof.ErrNotSigned) {
				t.Errorf("another log's: %v", err)
			}
			if err := HoldTo(s.cfg, mark); err != nil || string(read1(t, s.cfg.Watermark)) != string(was) {
				t.Errorf("one that it continues: %v", err)
			}
			s.close(t, s.open(t)) // nothing was changed
			if err := HoldTo(s.cfg, newest); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(t.Context(), s.cfg); !errors.Is(err, tc.want) {
				t.Errorf("got %v", err)
			}
			if string(read1(t, s.cfg.Watermark+contradictedSuffix)) != string(was) {
				t.Error("the watermark that was there is not kept")
			}
			s.restore(t, whole)
			s.close(t, s.open(t))
		})
	}
}

func TestHoldToNeedsAClosedLog(t *testing.T) {
	s := newSite(t)
	s.create(t)
	l := s.open(t)
	defer s.close(t, l)
	signed, err := note.Sign(&note.Note{Text: proof.CheckpointText(testOrigin, l.last.Tree)}, s.cfg.Key.signer)
	if err != nil {
		t.Fatal(err)
	}
	if err := HoldTo(s.cfg, signed); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(s.cfg.Watermark + contradictedSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Error("it was written beside the log all the same")
	}
}
