package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"levee/services/recorder/segment"
)

// tailWait is how often, and how long apart, an incomplete tail is read again:
// a recorder that is running may be writing it.
const (
	tailReads = 5
	tailWait  = 300 * time.Millisecond
)

// checkSegments checks every file in the segments' directory.
func (a *audit) checkSegments(ctx context.Context) error {
	dir := a.Files.Segments()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a recorder that has never run
	}
	if err != nil {
		return err
	}
	files, err := segment.List(dir)
	if err != nil {
		return err
	}
	known := make(map[string]bool)
	for _, f := range files {
		known[filepath.Base(f.Path)] = true
		a.report.Segments++
		if err := a.checkSegment(ctx, f.Path); err != nil {
			return err
		}
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && !known[e.Name()] && (!info.Mode().IsRegular() || info.Size() > 0) { // the lock is empty
			a.report.find(filepath.Join(dir, e.Name()), "does not belong there")
		}
	}
	return nil
}

func (a *audit) checkSegment(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := segment.NewReader(f, path)
	for number, reads := 0, 0; ; {
		record, err := r.Next()
		switch {
		case err == nil:
			number++
			if err := a.checkRecord(record); err != nil {
				a.report.find(path, fmt.Sprintf("record %d: %v", number, err))
			}
			continue
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, segment.ErrIncomplete) && reads < tailReads:
			reads++
			select {
			case <-time.After(tailWait):
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		a.report.find(path, err.Error())
		return nil
	}
}

func (a *audit) checkRecord(r segment.Record) error {
	if r.Verdict != 0 {
		return fmt.Errorf("verdict %d is none of this version", r.Verdict)
	}
	m, topic, err := a.open(r.Envelope)
	if err != nil {
		return err
	}
	a.report.Envelopes++
	a.tracker.add(topic.Sender(), m.Nonce, m.Raw)
	return nil
}
