package console

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"levee/internal/feed"
	"levee/internal/session"
)

// Bounds of what browsers are sent.
const (
	maxReaders  = 12
	queueLength = 64      // events that wait for one reader
	ringLength  = 240     // events that a reader may have missed,
	ringBytes   = 4 << 20 // and their bytes
	beatEvery   = 5 * time.Second
	flushEvery  = 250 * time.Millisecond
)

// link is the session, as far as people are told of it.
type link interface {
	Online() bool
	// Losses returns how many received messages found no room to be checked.
	Losses() (received, sent uint64)
}

// hub keeps the board and tells every reader of its changes. It is safe for
// concurrent use.
type hub struct {
	mu       sync.Mutex
	log      *slog.Logger
	feed     *feed.Feed
	board    *board
	id       eventID  // of the newest event
	ring     [][]byte // of the newest events, the newest last
	held     int      // bytes in ring
	snapshot []byte   // of id, if a reader has asked since
	readers  map[*reader]struct{}
	stopped  bool
}

// reader is one stream. Its events are closed when it is let go.
type reader struct{ events chan []byte }

func newHub(site, name string, now time.Time, log *slog.Logger) *hub {
	return &hub{log: log, feed: feed.New(), board: newBoard(site, name, now), id: eventID{epoch: now.UnixMilli()}, readers: make(map[*reader]struct{})}
}

// deliver notes a message that passed the session's checks. It returns false
// for one that does not hold what its topic carries.
func (h *hub) deliver(d session.Delivery) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	good := true
	for _, l := range h.feed.Deliver(d) {
		switch l.Kind {
		case feed.KindConfirmation:
			h.board.confirm(d, l)
		case feed.KindContradiction:
			h.board.contradict(d, l)
		default:
			good = h.board.note(d, l)
		}
	}
	return good
}

// refuse counts a message that failed a check.
func (h *hub) refuse(r session.Refusal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l, ok := h.feed.Refuse(r); ok {
		h.board.refusals[l.Reason]++
	}
}

// join adds a reader, and queues what it must know first: what it missed, if
// after says where it stood and that is not long ago, else everything.
func (h *hub) join(after eventID, now time.Time) (r *reader, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped || len(h.readers) >= maxReaders {
		return nil, false
	}
	h.flush(now)
	r = &reader{events: make(chan []byte, queueLength)}
	if missed := h.id.seq - after.seq; after.epoch == h.id.epoch && after.seq <= h.id.seq && missed <= uint64(len(h.ring)) && missed < queueLength {
		for _, event := range h.ring[len(h.ring)-int(missed):] {
			r.events <- event
		}
	} else {
		if h.snapshot == nil {
			if h.snapshot, ok = h.say("snapshot", h.id, h.board.snapshot(now)); !ok {
				return nil, false
			}
		}
		r.events <- h.snapshot
	}
	beat, ok := h.say("beat", eventID{}, h.board.beat(now))
	if !ok {
		return nil, false
	}
	r.offer(beat)
	h.readers[r] = struct{}{}
	return r, true
}

// leave removes a reader.
func (h *hub) leave(r *reader) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(r)
}

func (h *hub) drop(r *reader) {
	if _, reads := h.readers[r]; reads {
		delete(h.readers, r)
		close(r.events)
	}
}

// offer queues an event unless the reader is behind.
func (r *reader) offer(event []byte) bool {
	select {
	case r.events <- event:
		return true
	default:
		return false
	}
}

// tell queues an event for every reader, and lets those go that are behind.
func (h *hub) tell(event []byte) {
	for r := range h.readers {
		if !r.offer(event) {
			h.drop(r)
		}
	}
}

// flush makes what has changed one event.
func (h *hub) flush(now time.Time) {
	changes, ok := h.board.changes(now)
	if !ok {
		return
	}
	h.id.seq++
	h.snapshot = nil
	event, ok := h.say("update", h.id, changes)
	if !ok { // nobody can be told what it held, so nobody goes on after it
		h.ring, h.held = nil, 0
		h.dropAll()
		return
	}
	h.ring = append(h.ring, event)
	h.held += len(event)
	for len(h.ring) > ringLength || h.held > ringBytes && len(h.ring) > 0 {
		h.held -= len(h.ring[0])
		h.ring[0] = nil // the array behind the slice outlives it
		h.ring = h.ring[1:]
	}
	h.tell(event)
}

// run tells readers of changes and of the time until ctx ends, then lets them
// all go.
func (h *hub) run(ctx context.Context, l link) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	var beat time.Time
	for {
		select {
		case <-ctx.Done():
			h.stop()
			return
		case now := <-tick.C:
			h.mu.Lock()
			h.flush(now)
			h.board.lost, _ = l.Losses()
			moved := h.board.sweep(now)
			if h.board.link(l.Online(), now) || moved || now.Sub(beat) >= beatEvery {
				beat = now
				h.snapshot = nil
				if event, ok := h.say("beat", eventID{}, h.board.beat(now)); ok {
					h.tell(event)
				} else {
					h.dropAll()
				}
			}
			h.mu.Unlock()
		}
	}
}

func (h *hub) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
	h.dropAll()
}

func (h *hub) dropAll() {
	for r := range h.readers {
		h.drop(r)
	}
}

// say encodes an event. What is shown was checked when it came, so that this
// does not fail; if it does, it is logged and counted, and streams end: a page
// that knows nothing new must not look live.
func (h *hub) say(name string, id eventID, data any) (event []byte, ok bool) {
	event, err := encode(name, id, data)
	if err != nil {
		h.board.unsaid++
		h.log.Error("an event could not be sent", slog.String("event", name), slog.Any("error", err))
		return nil, false
	}
	return event, true
}

// encode returns an event of the stream (WHATWG HTML, section 9.2). Its data is
// one line: JSON has line breaks in strings only, where they are escaped, and
// "<", ">" and "&" are escaped too. An event without a place of its own has no
// id, so that a reader comes back to the one before it.
func encode(name string, id eventID, data any) ([]byte, error) {
	b, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("encoding a %s: %w", name, err)
	}
	event := make([]byte, 0, len(b)+64)
	if id != (eventID{}) {
		event = fmt.Appendf(event, "id: %s\n", id)
	}
	event = fmt.Appendf(event, "event: %s\ndata: ", name)
	return append(append(event, b...), "\n\n"...), nil
}
