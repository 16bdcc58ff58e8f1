package console

import (
	"time"

	"levee/internal/feed"
	"levee/internal/session"
	"levee/internal/wire"
	"levee/pki"
)

// order is a command and what became of it, or a status that answers no
// command that was seen.
type order struct {
	Key          string           `json:"key"`
	ID           string           `json:"id"`
	Controller   string           `json:"controller"`
	Command      string           `json:"command"`
	Server       string           `json:"server"`
	Parameters   *wire.Parameters `json:"parameters,omitempty"`   // what the controller says, once it has
	Sender       string           `json:"sender,omitempty"`       // of the command; absent if it was not seen
	Shared       bool             `json:"shared,omitempty"`       // others sent a command of the same id: the controller does not say whose it answers
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

	boot string
	seq  uint64
}

func (o *order) over(now int64) bool {
	switch {
	case o.Status == nil:
		return o.Ends <= now
	case o.Status.State == wire.StateActive:
		return o.Status.Until <= now
	default:
		return true
	}
}

// from is who asked; for a status without its command, who answers.
func (o *order) from() string {
	if o.Sender == "" {
		return o.Controller
	}
	return o.Sender
}

// outcomes are the states that a status can report, and what each is. A word
// of another's making would stand where people look for what is in force.
var outcomes = map[string]string{
	wire.StateActive: wire.StatusSuccess, wire.StateLapsed: wire.StatusSuccess, wire.StateStopped: wire.StatusSuccess,
	wire.StateRefused: wire.StatusFailure, wire.StateFailed: wire.StatusFailure,
}

// of returns the rows of a command's id at a controller, the oldest first.
func (b *board) of(controller, id string) (rows []*order) {
	for _, key := range b.commands.order {
		if o := b.commands.rows[key]; o.ID == id && o.Controller == controller {
			rows = append(rows, o)
		}
	}
	return rows
}

// A command's row is of its controller, its sender and its id: who sends
// another's id changes nothing of that other's row, and no controller answers
// for another.
func (b *board) command(d session.Delivery, l feed.Line) bool {
	var m wire.Command
	if wire.DecodeExact(d.Payload, &m) != nil || !pki.ValidName(m.Controller) {
		return false
	}
	id, command, server := m.ID.String(), word(m.Command), word(m.Server)
	key := m.Controller + "/" + id + "/" + l.Sender
	var answered *order // its status came first
	shared := false
	for _, o := range b.of(m.Controller, id) {
		switch {
		case o.Sender == l.Sender:
			return true // it is repeated until its status comes
		case o.Sender != "":
			o.Shared, shared = true, true
			b.commands.touch(o.Key)
		case o.Command == command && o.Server == server:
			answered = o
		}
	}
	if answered != nil {
		key = answered.Key
	}
	row := b.commands.row(key, l.Received)
	row.Key, row.ID, row.Controller, row.Command, row.Server = key, id, m.Controller, command, server
	if row.Status == nil {
		row.Parameters = &m.Parameters
	}
	row.Sender, row.Shared, row.Verification, row.Received = l.Sender, shared, l.Verification, l.Received
	row.Issued, row.Ends = m.Issued, time.UnixMilli(m.Issued).Add(time.Duration(min(max(m.TTL, 0), 1<<30))*time.Second).UnixMilli()
	if !m.Incident.IsZero() {
		row.Incident = m.Incident.String()
	}
	return true
}

// status takes what a controller says. It does not say whose command it
// answers, so the oldest row of that id which asked for the same of the same
// server takes it. What no such row asked for has a row of its own.
func (b *board) status(d session.Delivery, l feed.Line) bool {
	var m wire.Status
	if wire.Decode(d.Payload, &m) != nil || m.Controller != d.Topic.Name || m.Status != outcomes[m.State] || m.Status == "" {
		return false
	}
	id, command, server := m.ID.String(), word(m.Command), word(m.Server)
	key := m.Controller + "/" + id + "//" + command + "/" + server
	for _, o := range b.of(m.Controller, id) {
		if o.Command == command && o.Server == server {
			key = o.Key
			break
		}
	}
	if o := b.commands.rows[key]; o != nil && !o.Status.yields(m.State, l) {
		return true
	}
	row := b.commands.row(key, l.Received)
	row.Key, row.ID, row.Controller, row.Command, row.Server, row.Parameters = key, id, m.Controller, command, server, &m.Parameters
	row.Status = &outcome{Verification: l.Verification, Received: l.Received, Status: m.Status, State: m.State,
		Until: m.Until, Reason: clip(m.Reason, maxText), boot: l.Boot, seq: l.Seq}
	return true
}

// yields reports whether a status of that state takes the place of o. Messages
// may come in another order than they were sent in. A refusal of what was in
// force is the answer to somebody else's command of the same id.
func (o *outcome) yields(state string, l feed.Line) bool {
	switch {
	case o == nil:
		return true
	case l.Boot < o.boot || l.Boot == o.boot && l.Seq <= o.seq:
		return false
	default:
		return state != wire.StateRefused || o.Status != wire.StatusSuccess
	}
}
