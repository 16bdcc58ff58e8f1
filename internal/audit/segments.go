package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"levee/envelope"
	"levee/internal/records"
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

// readSegments reads every file in the segments' directory into src, and ends
// it. It begins when the checkpoint was read: a recorder puts every message into
// a segment before it logs it, so that what is logged by now is in a segment by
// then.
func (a *audit) readSegments(ctx context.Context, src *source) {
	defer close(src.ready)
	select {
	case <-a.began:
	case <-ctx.Done():
		return
	}
	dir := a.Files.Segments()
	files, strangers, err := segmentFiles(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a recorder that has never run has none
		a.stranger(dir, err)
		return
	}
	for _, name := range strangers {
		a.stranger(filepath.Join(dir, name), errors.New("does not belong there"))
	}
	plans, wrong := a.plan(files)
	a.strangers = append(a.strangers, wrong...)
	for i, f := range files {
		if ctx.Err() != nil {
			return
		}
		if !plans[i].skip && a.readSegment(ctx, src, plans[i], f.Path) != nil {
			return
		}
	}
}

// plan returns what is to be read of each file, and what is wrong with them.
func (a *audit) plan(files []segment.File) (plans []plan, wrong []Finding) {
	if a.since != nil {
		return a.since.plan(files, func(s segmentState) bool { return s.Last >= a.ledger.keptSince })
	}
	for i := range files {
		plans = append(plans, plan{number: int32(i)})
	}
	return plans, nil
}

// segmentFiles returns the segments, and what else is in their directory.
func segmentFiles(dir string) (files []segment.File, strangers []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	if files, err = segment.List(dir); err != nil {
		return nil, nil, err
	}
	known := make(map[string]bool)
	for _, f := range files {
		known[filepath.Base(f.Path)] = true
	}
	for _, e := range entries {
		if !known[e.Name()] {
			strangers = append(strangers, e.Name())
		}
	}
	return files, strangers, nil
}

// stranger notes what is wrong with the directory of segments. It is only for
// the goroutine that reads them.
func (a *audit) stranger(path string, err error) {
	if errors.Is(err, fs.ErrPermission) {
		a.unreadable = err
		return
	}
	if len(a.strangers) < maxListed {
		a.strangers = append(a.strangers, Finding{Where: path, What: err.Error(), Kind: KindSegment})
	}
}

// readSegment reads one file as planned. An error means that no more can be read
// of any.
func (a *audit) readSegment(ctx context.Context, src *source, p plan, path string) error {
	f, err := os.Open(path)
	if err != nil {
		a.stranger(path, err)
		return err
	}
	defer f.Close()
	r := segment.NewReader(f, path)
	record, reads := int64(0), 0
	b, err := src.batch(ctx, p.from)
	if err != nil {
		return err
	}
	b.file, b.path = p.number, path
	for {
		next, err := r.Next()
		switch {
		case err == nil:
			reads = 0
			if record++; record <= p.from {
				continue // an earlier audit has read it
			}
			if b.full() {
				b.size = r.Offset()
				src.send(b)
				if b, err = src.batch(ctx, record-1); err != nil {
					return err
				}
				b.file, b.path = p.number, path
			}
			b.add(next.Envelope, next.Received, next.Verdict)
			continue
		case errors.Is(err, io.EOF) && r.Offset() > 0:
			err = io.EOF
		case (errors.Is(err, io.EOF) || errors.Is(err, segment.ErrIncomplete)) && reads < tailReads:
			reads++
			select {
			case <-time.After(tailWait):
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		case errors.Is(err, io.EOF):
			err = errors.New("it is empty")
		}
		if record < p.from && err == io.EOF {
			err = fmt.Errorf("it holds %d records, and held %d when an earlier audit read it", record, p.from)
		}
		b.size, b.closes = r.Offset(), err
		src.send(b)
		return nil
	}
}

// takeRecords holds the records of a batch against the log.
func (a *audit) takeRecords(b *batch) {
	if int(b.file) >= len(a.ledger.files) {
		a.ledger.files = append(a.ledger.files, segmentFile{path: b.path})
	}
	if b.closes != nil {
		a.report.Segments++
	}
	file := &a.ledger.files[b.file]
	for i := range b.items {
		it := &b.items[i]
		file.last = max(file.last, it.received)
		if err := a.takeRecord(b.file, it); err != nil {
			a.report.find(inSegments, kindOf(err), b.path, "record %d: %v", it.n, err)
		}
	}
	file.records, file.size = b.first+int64(len(b.items)), b.size
	switch {
	case b.closes == nil || b.closes == io.EOF:
	case errors.Is(b.closes, fs.ErrPermission):
		a.denied = b.closes
	default:
		a.unread = true
		a.report.find(inSegments, KindSegment, b.path, "%v", b.closes)
	}
}

// takeRecord holds one record against the log.
func (a *audit) takeRecord(file int32, it *item) error {
	if it.err != nil {
		return it.err
	}
	if it.refused {
		a.report.Refused++
		return nil
	}
	a.report.Envelopes++
	if it.late {
		a.delayed(it)
	}
	if a.Keys != nil {
		a.report.MACs++
	}
	a.latest = max(a.latest, it.received)
	if a.report.From == 0 {
		a.report.From = it.received
	}
	if it.channel.machine {
		a.hear(it.channel.sender, it.received)
	}
	if a.blind {
		return nil // nothing would ever settle it
	}
	b := a.ledger.of(it.channel.sender, it.nonce.Boot)
	if !it.signed {
		return a.ledger.keep(b, it.nonce.Seq, reading{sum: it.sum, time: it.time, file: file})
	}
	s := signed{sum: it.sum, received: it.received, time: it.time, file: file, record: it.n}
	if e := b.signed[it.nonce.Seq]; e == nil || e.sum != it.sum {
		s.raw = bytes.Clone(it.raw) // its signature is checked if the log turns out not to hold it
	}
	return a.ledger.copied(b, it.nonce.Seq, s)
}

// checkStrays judges the signed messages that the log does not hold. A recorder
// that crashed may not have logged what came last; the log of a recorder at work
// may have them by now.
func (a *audit) checkStrays(ctx context.Context, log proof.Checkpoint, records []half) {
	a.report.Unlogged = len(records)
	var newer []half
	for _, s := range records {
		path := a.ledger.files[s.file].path
		if err := a.checkStray(s); err != nil {
			a.report.find(inSegments, kindOf(err), path, "record %d: %v", s.record, err)
		}
		switch {
		case s.received >= a.ledger.files[s.file].last-inHand.Milliseconds():
		case s.received < a.newest-inHand.Milliseconds():
			a.report.find(between, KindCopy, path, "record %d is a signed message of %s that the log does not hold", s.record, clock(s.received))
		default:
			newer = append(newer, s)
		}
	}
	if n := int64(len(newer)); n > 0 && a.awaitLog(ctx, log.Tree.N+n) < log.Tree.N+n {
		a.report.find(between, KindRollback, a.Files.Log(), "it ends before %d signed messages, received from %s on, that are in %s: an older log was put in its place",
			n, clock(newer[0].received), a.ledger.files[newer[0].file].path)
	}
}

// checkStray checks the signature of a message that is in a segment alone.
func (a *audit) checkStray(s half) error {
	m, err := envelope.Parse(s.raw, envelope.MaxBackfill)
	if err != nil {
		return err
	}
	id, certificate, err := a.checker.signature(&m)
	if err != nil {
		return err
	}
	a.report.Signatures++
	path := a.ledger.files[s.file].path
	by := a.registry.signed(id, certificate, func() string { return path }, s.received)
	if at, late := a.after(by, s.time); late {
		a.findRevoked(path, by, s.time, at)
	}
	return nil
}

// checkCopies names the entries whose envelope is in no segment, although a
// recorder writes that first.
func (a *audit) checkCopies(lost []half) {
	if a.unread {
		return // what cannot be read was named
	}
	for first := 0; first < len(lost); {
		last := first
		for last+1 < len(lost) && lost[last+1].index == lost[last].index+1 {
			last++
		}
		a.report.find(between, KindCopy, a.Files.Segments(), "entries %d to %d, received from %s to %s, are in no segment: %s", lost[first].index, lost[last].index,
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
	if declared, err := records.ReadDeletions(a.Files.Deletions()); err == nil && len(declared) > 0 && received < declared[len(declared)-1].Ended {
		return fmt.Sprintf("the recorder declares that it deleted %d files, of what was received before %s; --kept-since accepts that",
			len(declared), clock(declared[len(declared)-1].Ended))
	}
	if path == "" {
		return "the file was deleted"
	}
	return path + " was cut or written anew, or a file after it was deleted"
}
