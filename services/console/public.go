package console

import (
	"golang.org/x/time/rate"

	"levee/internal/session"
)

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
