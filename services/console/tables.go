package console

import (
	"time"

	"golang.org/x/time/rate"

	"levee/internal/feed"
	"levee/internal/session"
	"levee/internal/wire"
)

// table holds rows by key, at most so many: a new one takes the place of the
// oldest.
type table[R any] struct {
	limit int
	rows  map[string]*R
	order []string // keys, oldest first
	dirty map[string]bool
}

func newTable[R any](limit int) table[R] {
	return table[R]{limit: limit, rows: make(map[string]*R), dirty: make(map[string]bool)}
}

// row returns the row of a key, which counts as changed.
func (t *table[R]) row(key string) (row *R, known bool) {
	t.dirty[key] = true
	if row = t.rows[key]; row != nil {
		return row, true
	}
	if len(t.order) >= t.limit {
		oldest := t.order[0]
		delete(t.rows, oldest)
		delete(t.dirty, oldest)
		t.order = t.order[1:]
	}
	row = new(R)
	t.rows[key] = row
	t.order = append(t.order, key)
	return row, false
}

func (t *table[R]) all() []R {
	all := make([]R, 0, len(t.order))
	for _, key := range t.order {
		all = append(all, *t.rows[key])
	}
	return all
}

func (t *table[R]) changed() []R {
	if len(t.dirty) == 0 {
		return nil
	}
	var changed []R
	for _, key := range t.order {
		if t.dirty[key] {
			changed = append(changed, *t.rows[key])
		}
	}
	clear(t.dirty)
	return changed
}

// incident is what a monitor's alerts say of one incident.
type incident struct {
	Key          string  `json:"key"`
	ID           string  `json:"id"`
	Monitor      string  `json:"monitor"`
	Verification string  `json:"verification"`
	Alert        string  `json:"alert"`
	Server       string  `json:"server"`
	Metric       string  `json:"metric"`
	Value        float64 `json:"value"`
	Threshold    float64 `json:"threshold"`
	Window       float64 `json:"window"`
	Raised       int64   `json:"raised"`          // when the alert came, or 0 if only its end did
	Ended        int64   `json:"ended,omitempty"` // when its end came
}

func (b *board) alert(d session.Delivery, l feed.Line) bool {
	var m wire.Alert
	if wire.Decode(d.Payload, &m) != nil || m.State != wire.StateRaised && m.State != wire.StateEnded {
		return false
	}
	key := d.Topic.Name + "/" + m.Incident.String()
	row, _ := b.incidents.row(key)
	row.Key, row.ID, row.Monitor, row.Verification = key, m.Incident.String(), d.Topic.Name, l.Verification
	row.Alert, row.Server, row.Metric = clip(m.Alert, maxText), word(m.Server), word(m.Metric)
	row.Threshold, row.Window = m.Threshold, m.Window
	if m.State == wire.StateEnded {
		row.Ended = l.Received
		return true
	}
	row.Value, row.Raised = m.Value, l.Received
	return true
}

// order is a command and what became of it.
type order struct {
	Key          string           `json:"key"`
	ID           string           `json:"id"`
	Controller   string           `json:"controller"`
	Command      string           `json:"command"`
	Server       string           `json:"server"`
	Parameters   *wire.Parameters `json:"parameters,omitempty"`
	Sender       string           `json:"sender,omitempty"`       // of the command; absent if it was not seen
	Verification string           `json:"verification,omitempty"` // of the command
	Received     int64            `json:"received,omitempty"`
	Issued       int64            `json:"issued,omitempty"`
	Ends         int64            `json:"ends,omitempty"`
	Incident     string           `json:"incident,omitempty"`
	Status       *outcome         `json:"status,omitempty"`
}

// outcome is the newest status of a command.
type outcome struct {
	Verification string `json:"verification"`
	Received     int64  `json:"received"`
	Status       string `json:"status"`
	State        string `json:"state"`
	Until        int64  `json:"until,omitempty"`
	Reason       string `json:"reason,omitempty"`
}

// A row is of a command's id and of the controller that it names, so that no
// controller can answer for another.
func (b *board) command(d session.Delivery, l feed.Line) bool {
	var m wire.Command
	if wire.DecodeExact(d.Payload, &m) != nil {
		return false
	}
	key := word(m.Controller) + "/" + m.ID.String()
	if row := b.commands.rows[key]; row != nil && row.Sender != "" {
		return true // it is repeated until its status comes
	}
	row, _ := b.commands.row(key)
	row.Key, row.ID, row.Controller = key, m.ID.String(), word(m.Controller)
	row.Command, row.Server, row.Parameters = word(m.Command), word(m.Server), &m.Parameters
	row.Sender, row.Verification, row.Received = l.Sender, l.Verification, l.Received
	row.Issued, row.Ends = m.Issued, time.UnixMilli(m.Issued).Add(time.Duration(min(m.TTL, 1<<30))*time.Second).UnixMilli()
	if !m.Incident.IsZero() {
		row.Incident = m.Incident.String()
	}
	return true
}

func (b *board) status(d session.Delivery, l feed.Line) bool {
	var m wire.Status
	if wire.Decode(d.Payload, &m) != nil || m.Controller != d.Topic.Name {
		return false
	}
	key := d.Topic.Name + "/" + m.ID.String()
	row, known := b.commands.row(key)
	if !known {
		row.Key, row.ID, row.Controller = key, m.ID.String(), d.Topic.Name
		row.Command, row.Server, row.Parameters = word(m.Command), word(m.Server), &m.Parameters
	}
	row.Status = &outcome{Verification: l.Verification, Received: l.Received, Status: word(m.Status), State: word(m.State),
		Until: m.Until, Reason: clip(m.Reason, maxText)}
	return true
}

// Public messages are anybody's: a few a second are shown, and the rest is
// counted, so that they can never crowd out a reading or an alert.
const (
	publicRate  = 4
	publicBurst = 20
)

type message struct {
	N        uint64 `json:"n"` // in the order of arrival
	Received int64  `json:"received"`
	Topic    string `json:"topic"`
	Text     string `json:"text"`
	Bytes    int    `json:"bytes,omitempty"` // of the whole message, if Text is not all of it
}

type public struct {
	shown   []message
	fresh   []message
	next    uint64
	unshown uint64
	pace    *rate.Limiter
}

func newPublic() public { return public{pace: rate.NewLimiter(publicRate, publicBurst)} }

func (p *public) note(d session.Delivery) {
	if !p.pace.AllowN(d.Received, 1) {
		p.unshown++
		return
	}
	p.next++
	m := message{N: p.next, Received: d.Received.UnixMilli(), Topic: d.Name, Text: clip(string(d.Payload), maxText)}
	if len(d.Payload) > maxText {
		m.Bytes = len(d.Payload)
	}
	if len(p.shown) >= maxPublic {
		p.shown = p.shown[1:]
	}
	p.shown = append(p.shown, m)
	p.fresh = append(p.fresh, m)
}

func (p *public) changed() ([]message, uint64) {
	fresh := p.fresh
	p.fresh = nil
	return fresh, p.unshown
}
