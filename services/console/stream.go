package console

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// eventID is where a stream stands: which run of the console, and how many
// events into it.
type eventID struct {
	epoch int64 // ms since the Unix epoch, of the console's start
	seq   uint64
}

func (id eventID) String() string {
	return strconv.FormatInt(id.epoch, 16) + "-" + strconv.FormatUint(id.seq, 16)
}

// parseEventID reads what a browser hands back in Last-Event-ID: exactly what
// String prints.
func parseEventID(s string) (id eventID, ok bool) {
	if len(s) > 33 {
		return id, false
	}
	epoch, seq, _ := strings.Cut(s, "-")
	e, errEpoch := strconv.ParseInt(epoch, 16, 64)
	n, errSeq := strconv.ParseUint(seq, 16, 64)
	id = eventID{epoch: e, seq: n}
	if errEpoch != nil || errSeq != nil || e < 0 || id.String() != s {
		return eventID{}, false
	}
	return id, true
}

// retry is how long a browser waits before it connects again, in ms.
const retry = 2000

// stream is GET /events: a snapshot, or what the browser has missed, and then
// what comes. A reader that does not keep up is let go; its browser comes
// back, and begins with a snapshot.
func (p *page) stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	if r.Method == http.MethodHead {
		return
	}
	after, _ := parseEventID(r.Header.Get("Last-Event-ID")) // the zero value is never ours
	reader, ok := p.hub.join(after, time.Now())
	if !ok {
		refuse(w, http.StatusServiceUnavailable, "this console has too many streams; close some of its pages")
		return
	}
	defer p.hub.leave(reader)
	control := http.NewResponseController(w)
	send := func(b []byte) bool {
		if control.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil {
			return false
		}
		if _, err := w.Write(b); err != nil {
			return false
		}
		return control.Flush() == nil
	}
	if !send(fmt.Appendf(nil, "retry: %d\n\n", retry)) {
		return
	}
	for {
		select {
		case event, open := <-reader.events:
			if !open || !send(event) {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}
