package audit

import (
	"context"
	"runtime"
	"sync"

	"levee/services/recorder/segment"
)

// stream reads log and segments side by side. Each is read in order by one
// goroutine; their batches are judged by as many goroutines as there are
// processors, and handed out in the order in which they were read.
type stream struct {
	config  *Config
	work    chan *batch
	workers sync.WaitGroup
}

const (
	// batchItems and batchBytes bound a batch. The longest record fits.
	batchItems = 1024
	batchBytes = 256 << 10
)

// batch is some entries or records, one after another.
type batch struct {
	file   int32  // of records; noFile for entries
	path   string // of records
	first  int64  // number of the first
	store  []byte
	ends   []int // of each in store
	times  []int64
	marks  []segment.Verdict
	size   int64 // in the file
	closes error // why the file ended; nil if it goes on
	done   chan struct{}
	items  []item
}

func (b *batch) full() bool { return len(b.ends) >= batchItems || len(b.store) >= batchBytes }

func (b *batch) add(raw []byte, received int64, verdict segment.Verdict) {
	b.store = append(b.store, raw...)
	b.ends = append(b.ends, len(b.store))
	b.times = append(b.times, received)
	b.marks = append(b.marks, verdict)
}

// judge is what a worker does.
func (b *batch) judge(c *checker) {
	from := 0
	for i, to := range b.ends {
		raw := b.store[from:to:to]
		from = to
		if n := b.first + int64(i); b.file == noFile {
			b.items = append(b.items, c.leaf(n, raw))
		} else {
			b.items = append(b.items, c.record(n, b.times[i], b.marks[i], raw))
		}
	}
	b.done <- struct{}{}
}

// received is when the batch was received, by its first item that says so.
func (b *batch) received() int64 {
	for _, it := range b.items {
		if it.received > 0 {
			return it.received
		}
	}
	return 0
}

// source is one of the two, in order.
type source struct {
	stream *stream
	ready  chan *batch
	free   chan *batch
}

func newStream(c *Config) *stream {
	s := &stream{config: c, work: make(chan *batch)}
	for range runtime.GOMAXPROCS(0) {
		s.workers.Go(func() {
			c := newChecker(s.config)
			for b := range s.work {
				b.judge(c)
			}
		})
	}
	return s
}

// close waits for the workers. Every source has ended.
func (s *stream) close() {
	close(s.work)
	s.workers.Wait()
}

// source returns a source with as many batches as keep the workers busy.
func (s *stream) source() *source {
	n := 2 * runtime.GOMAXPROCS(0)
	src := &source{stream: s, ready: make(chan *batch, n), free: make(chan *batch, n)}
	for range n {
		src.free <- &batch{done: make(chan struct{}, 1)}
	}
	return src
}

// batch returns an empty batch. It waits until one is free.
func (s *source) batch(ctx context.Context, first int64) (*batch, error) {
	select {
	case b := <-s.free:
		*b = batch{file: noFile, first: first, store: b.store[:0], ends: b.ends[:0], times: b.times[:0], marks: b.marks[:0], items: b.items[:0], done: b.done}
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// send hands a batch to the workers and, in order, to next.
func (s *source) send(b *batch) {
	s.ready <- b // there is room for all
	s.stream.work <- b
}

// next returns the next batch, judged; nil at the end.
func (s *source) next() *batch {
	b, ok := <-s.ready
	if !ok {
		return nil
	}
	<-b.done
	return b
}

// reuse takes a batch back. Nothing in it may be used after that.
func (s *source) reuse(b *batch) {
	clear(b.items)
	s.free <- b
}
