// Package notable knows which of the things that a recorder sees are security
// events, and tells a SIEM of them (docs/siem.md).
//
// It guarantees that what it tells of signed messages is in the log, that a
// command which is repeated each second is told once, and that a flood of one
// kind is told as some events and their number. It waits for nobody, and its
// memory is bounded.
//
// It does not remember what an earlier start has told.
package notable

import (
	"fmt"
	"sync"
	"time"

	"levee/envelope"
	"levee/internal/session"
	"levee/internal/siem"
	"levee/internal/wire"
)

// Receiver takes events and does not wait; *siem.Sender is one.
type Receiver interface {
	Tell(siem.Event)
}

// What is told of one kind within a minute; the rest is counted. A refusal counts
// with those of its reason, an error with those of its text.
const (
	mostAlike = 5
	mostOfOne = 200
	window    = time.Minute
)

// Events are told while they happen. It is safe for concurrent use.
type Events struct {
	site string
	to   Receiver

	mu    sync.Mutex
	begun time.Time        // of the window
	told  map[alike]uint64 // in it
	seen  recent
	gaps  map[string]*gap // by sender
}

// alike is what is counted together.
type alike struct {
	id   siem.ID
	what string
}

// New returns the events of a site.
func New(site string, to Receiver) *Events {
	return &Events{site: site, to: to, told: make(map[alike]uint64), seen: newRecent(), gaps: make(map[string]*gap)}
}

// tell tells an event, unless there were too many like it. e.mu is held.
func (e *Events) tell(event siem.Event, now time.Time) {
	e.turn(now)
	k, most := alike{id: event.ID}, uint64(mostOfOne)
	switch event.ID {
	case siem.MessageRefused:
		k.what, most = event.Reason, mostAlike
	case siem.RecorderError:
		k.what, most = event.Message, mostAlike
	}
	e.told[k]++
	if e.told[k] <= most {
		e.to.Tell(event)
	}
}

// turn ends the window when it is over, and says how many were not told.
func (e *Events) turn(now time.Time) {
	if since := now.Sub(e.begun); since >= 0 && since < window {
		return
	}
	for k, n := range e.told {
		most := uint64(mostOfOne)
		rest := siem.Event{ID: k.id, Time: now}
		switch k.id {
		case siem.MessageRefused:
			rest.Reason, rest.Severity, most = k.what, refusals[k.what], mostAlike
		case siem.RecorderError:
			rest.Reason, most = k.what, mostAlike
		}
		if n > most {
			rest.Count = n - most
			rest.Message = fmt.Sprintf("%d more within a minute were not told one by one", rest.Count)
			e.to.Tell(rest)
		}
	}
	e.begun = now
	clear(e.told)
}

// Started tells that the recorder starts.
func (e *Events) Started(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tell(siem.Event{ID: siem.RecorderStarted, Time: now, Message: "the recorder of " + e.site + " started"}, now)
}

// refusals are the severities of refusals by reason. A redelivery is harmless.
var refusals = map[string]siem.Severity{
	envelope.BadSize.String():        siem.Low,
	envelope.BadKeyID.String():       siem.Medium,
	envelope.UnknownKey.String():     siem.Medium,
	envelope.BadMAC.String():         siem.High,
	envelope.BadGrammar.String():     siem.Medium,
	envelope.BadPayload.String():     siem.Medium,
	envelope.BadTopic.String():       siem.Medium,
	envelope.BadSender.String():      siem.High,
	envelope.Unsigned.String():       siem.High,
	envelope.BadSignature.String():   siem.High,
	envelope.Revoked.String():        siem.High,
	envelope.BadPin.String():         siem.High,
	envelope.Stale.String():          siem.Low,
	envelope.Future.String():         siem.Low,
	envelope.Replayed.String():       siem.Medium,
	envelope.NonceCollision.String(): siem.Critical,
	envelope.Cloned.String():         siem.Critical,
	envelope.WindowsFull.String():    siem.High,
	envelope.WindowsFailed.String():  siem.High,
	envelope.BeforeStart.String():    siem.Low,
	envelope.BadContent.String():     siem.Medium,
}

// Refused tells of a message that failed a check. Whose it is, is what it claims.
func (e *Events) Refused(r session.Refusal) {
	reason := r.Reason.String()
	severity, ok := refusals[reason]
	if !ok {
		return
	}
	event := siem.Event{ID: siem.MessageRefused, Severity: severity, Time: r.Received, Message: "message refused: " + reason, Reason: reason, Topic: r.Name, Broker: r.Via, Count: 1}
	if t, err := wire.ParseTopic(r.Name); err == nil && t.Protected() {
		event.Sender = t.Sender()
	}
	if u := r.Untimely; u != nil {
		event.Message += fmt.Sprintf(" by %s: %s", u.Offset.Round(time.Millisecond), u.Detail)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tell(event, r.Received)
}

// recent remembers the newest of what was told, so that repetitions are not.
type recent struct {
	known map[string]struct{}
	order []string // a ring
	next  int
}

const maxRecent = 8192

func newRecent() recent {
	return recent{known: make(map[string]struct{}), order: make([]string, maxRecent)}
}

// add reports whether key is new.
func (r *recent) add(key string) bool {
	if _, ok := r.known[key]; ok {
		return false
	}
	delete(r.known, r.order[r.next])
	r.order[r.next] = key
	r.next = (r.next + 1) % len(r.order)
	r.known[key] = struct{}{}
	return true
}
