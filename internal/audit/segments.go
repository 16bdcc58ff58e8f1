package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"levee/internal/translog/proof"
	"levee/services/recorder/segment"
)

// tailWait is how often, and how long apart, an incomplete tail is read again:
// a recorder that is running may be writing it.
const (
	tailReads = 5
	tailWait  = 300 * time.Millisecond
)

// inHand is how much time a recorder that crashed may have had in hand: a batch
// that its segment had and its log did not.
const inHand = 10 * time.Second

// stray is a signed message in a segment that the log does not hold.
type stray struct {
	path     string
	record   int64
	received int64
}

// checkSegments checks every file in the segments' directory.
func (a *audit) checkSegments(ctx context.Context) {
	dir := a.Files.Segments()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return // a recorder that has never run; checkCopies knows whether it has
	}
	if errors.Is(err, fs.ErrPermission) {
		a.denied = err
		return
	}
	if err != nil {
		a.report.find(dir, "%v", err)
		return
	}
	files, err := segment.List(dir)
	if err != nil {
		a.report.find(dir, "%v", err)
		return
	}
	known := make(map[string]bool)
	for _, f := range files {
		known[filepath.Base(f.Path)] = true
		a.report.Segments++
		if err := a.checkSegment(ctx, f.Path); errors.Is(err, fs.ErrPermission) {
			a.denied = err
			return
		} else if err != nil {
			a.unread = true
			a.report.find(f.Path, "%v", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
	for _, e := range entries {
		if !known[e.Name()] {
			a.report.find(filepath.Join(dir, e.Name()), "does not belong there")
		}
	}
}

// checkSegment checks one file. An error means that the rest of it could not
// be read.
func (a *audit) checkSegment(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	a.ledger.file(path)
	r := segment.NewReader(f, path)
	var (
		last   int64 // when the newest record was received
		strays []stray
	)
	defer func() {
		for _, s := range strays {
			if s.received < last-inHand.Milliseconds() {
				a.strays = append(a.strays, s)
			}
		}
	}()
	for number, reads := int64(0), 0; ; {
		record, err := r.Next()
		switch {
		case err == nil:
			reads = 0
			last = max(last, record.Received)
			logged, err := a.checkRecord(path, record)
			if err != nil {
				a.report.find(path, "record %d: %v", number, err)
			} else if !logged && a.ledger.ready {
				a.report.Unlogged++
				strays = append(strays, stray{path, number, record.Received})
			}
			number++
			continue
		case errors.Is(err, io.EOF) && r.Offset() > 0:
			return nil
		case !errors.Is(err, io.EOF) && !errors.Is(err, segment.ErrIncomplete) || reads == tailReads:
			if errors.Is(err, io.EOF) {
				return errors.New("it is empty")
			}
			return err
		}
		reads++
		select {
		case <-time.After(tailWait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// checkRecord checks one record. It reports whether the log holds it, if it is
// signed; what is not signed is not for the log.
func (a *audit) checkRecord(path string, r segment.Record) (isLogged bool, err error) {
	if r.Verdict != 0 {
		return false, fmt.Errorf("verdict %d is none of this version", r.Verdict)
	}
	m, topic, err := a.open(r.Envelope, r.Received)
	if err != nil {
		return false, err
	}
	a.report.Envelopes++
	a.latest = max(a.latest, r.Received)
	sum := sha256.Sum256(m.Raw)
	b := a.ledger.of(topic.Sender(), m.Nonce.Boot)
	if m.Signed() {
		if found, err := b.copied(m.Nonce.Seq, sum); found || err != nil {
			return true, err
		}
		signer, err := a.checkSignature(&m, func() string { return path }, r.Received)
		if err != nil {
			return false, err
		}
		if at, late := a.after(signer, m.Time); late && a.ledger.ready {
			a.findRevoked(path, signer, m.Time, at)
		}
	}
	return !m.Signed(), a.ledger.keep(b, m.Nonce.Seq, kept{sum: sum, time: m.Time, signed: m.Signed()})
}

// checkStrays judges the signed messages that the log does not hold although
// their recorder went on. The log of a recorder at work may have them by now.
func (a *audit) checkStrays(ctx context.Context, log proof.Checkpoint) {
	var newer []stray
	for _, s := range a.strays {
		if s.received < a.newest-inHand.Milliseconds() {
			a.report.find(s.path, "record %d is a signed message of %s that the log does not hold", s.record, clock(s.received))
			continue
		}
		newer = append(newer, s)
	}
	if n := int64(len(newer)); n > 0 && a.awaitLog(ctx, log.Tree.N+n) < log.Tree.N+n {
		a.report.find(a.Files.Log(), "it ends before %d signed messages, received from %s on, that are in %s: an older log was put in its place",
			n, clock(newer[0].received), newer[0].path)
	}
}

// checkCopies names the entries whose envelope is in no segment, although a
// recorder writes that first.
func (a *audit) checkCopies() {
	lost := a.ledger.withoutCopy(a.KeptSince.UnixMilli())
	if a.unread || len(lost) == 0 {
		return // what cannot be read was named
	}
	for first := 0; first < len(lost); {
		last := first
		for last+1 < len(lost) && lost[last+1].index == lost[last].index+1 {
			last++
		}
		a.report.find(a.Files.Segments(), "entries %d to %d, received from %s to %s, are in no segment: %s", lost[first].index, lost[last].index,
			clock(lost[first].received), clock(lost[last].received), a.suspect(lost[first].received))
		first = last + 1
	}
}

// suspect says which file should hold what was received then.
func (a *audit) suspect(received int64) string {
	files, err := segment.List(a.Files.Segments())
	path := ""
	for _, f := range files {
		if err == nil && f.Start <= received {
			path = f.Path
		}
	}
	if path == "" {
		return "the file was deleted"
	}
	return path + " was cut or written anew, or a file after it was deleted"
}
