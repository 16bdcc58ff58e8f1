package session

import (
	"log/slog"
	"sync/atomic"
	"time"

	"levee/internal/wire"
)

// maxInbox and maxInboxBytes bound what waits to be checked, of each line: a
// broker that floods its own takes no room from another's.
const (
	maxInbox      = 4096
	maxInboxBytes = 16 << 20
)

// inbox is what came by one line and waits to be checked.
type inbox struct {
	messages chan inbound
	held     atomic.Int64 // bytes in messages
}

type inbound struct {
	name string
	raw  []byte
	at   time.Time
}

func newInbox() *inbox { return &inbox{messages: make(chan inbound, maxInbox)} }

// put takes a message, or reports that there is no room for it.
func (b *inbox) put(name string, raw []byte) bool {
	size := int64(len(name) + len(raw))
	messages, bytes := maxInbox, int64(maxInboxBytes)
	if wire.IsPublic(name) { // anybody's text must not crowd out readings and commands
		messages, bytes = messages/4, bytes/4
	}
	if b.held.Add(size) <= bytes && len(b.messages) < messages {
		select {
		case b.messages <- inbound{name: name, raw: raw, at: time.Now()}:
			return true
		default:
		}
	}
	b.held.Add(-size)
	return false
}

// enqueue takes a message from the client library, which must not wait.
func (l *line) enqueue(name string, raw []byte) {
	if l.inbox.put(name, raw) {
		return
	}
	if n := l.session.overflow.Add(1); n&(n-1) == 0 { // at powers of two
		l.session.config.Log.Error("messages arrive faster than they can be checked", slog.Uint64("dropped", n))
	}
}

// receive checks and hands on, one message at a time, until done and drained.
func (l *line) receive(done <-chan struct{}) {
	for {
		select {
		case in := <-l.inbox.messages:
			l.accept(in)
		case <-done:
			for {
				select {
				case in := <-l.inbox.messages:
					l.accept(in)
				default:
					return
				}
			}
		}
	}
}

func (l *line) accept(in inbound) {
	l.inbox.held.Add(-int64(len(in.name) + len(in.raw)))
	l.session.accept(in, l.index)
}
