package segment

import (
	"fmt"
	"os"
	"time"
)

// Prune deletes the oldest files: those that ended before the time before, up to
// the file of safe, which stays. A file ends when the next one begins. declare is
// called with each, and when it ended, before it goes; an error of declare keeps
// it. The newest file always stays.
func (w *Writer) Prune(before time.Time, safe Position, declare func(f File, ended int64) error) error {
	files, err := List(w.cfg.Dir)
	if err != nil {
		return err
	}
	for i, f := range files {
		if i+1 == len(files) {
			return nil
		}
		ended := files[i+1].Start
		if ended > before.UnixMilli() || ended > safe.Start {
			return nil
		}
		if err := declare(f, ended); err != nil {
			return fmt.Errorf("declaring that %s is deleted: %w", f.Path, err)
		}
		if err := os.Remove(f.Path); err != nil {
			return fmt.Errorf("deleting a segment: %w", err)
		}
		if err := w.dir.Sync(); err != nil {
			return fmt.Errorf("deleting a segment: %w", err)
		}
	}
	return nil
}
