package daemon

import (
	"bytes"
	"io"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	maxLines  = 4096        // that wait to be written
	lastLines = time.Second // for what waits at the end
)

// lines takes log lines and never waits for whoever reads them: a log that
// hangs must not stop a part from judging, acting or keeping. What finds no
// room is lost, and told of as soon as somebody reads again.
type lines struct {
	out   io.Writer
	tell  *slog.Logger // writes to out
	queue chan []byte
	lost  atomic.Uint64
	end   chan struct{} // closed by finish
	done  chan struct{} // closed when everything is written
}

func newLines(out io.Writer, tell *slog.Logger) *lines {
	return &lines{out: out, tell: tell, queue: make(chan []byte, maxLines), end: make(chan struct{}), done: make(chan struct{})}
}

// Write queues one line.
func (l *lines) Write(p []byte) (int, error) {
	select {
	case l.queue <- bytes.Clone(p):
	default:
		l.lost.Add(1)
	}
	return len(p), nil
}

// run writes until finish, and then what waits.
func (l *lines) run() {
	defer close(l.done)
	for {
		select {
		case line := <-l.queue:
			l.write(line)
		case <-l.end:
			for {
				select {
				case line := <-l.queue:
					l.write(line)
				default:
					return
				}
			}
		}
	}
}

func (l *lines) write(line []byte) {
	l.out.Write(line) // to a log that may be gone: there is nobody to tell
	if n := l.lost.Swap(0); n > 0 {
		l.tell.Warn("log lines were lost: nobody read them", slog.Uint64("lost", n))
	}
}

// finish waits until everything is written, for a while.
func (l *lines) finish() {
	close(l.end)
	select {
	case <-l.done:
	case <-time.After(lastLines):
	}
}
