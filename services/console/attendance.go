package console

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"levee/internal/presence"
	"levee/internal/session"
	"levee/internal/wire"
)

// maxAbsent bounds the machines that are named as connected nowhere.
const maxAbsent = 32

// standing is what brokers say of one machine's sessions.
type standing struct {
	Machine string   `json:"machine,omitempty"` // role/name; a server says its own
	State   string   `json:"state"`             // wire.StatePresent or wire.StateGone
	Brokers []string `json:"brokers,omitempty"` // that have it
	Since   int64    `json:"since"`
	Reason  string   `json:"reason,omitempty"` // why it went, if a broker said
}

// attendance holds which machines are connected, and which nowhere.
type attendance struct {
	picture *presence.Picture
	absent  map[string]standing
	moved   bool // since it was asked last
}

func newAttendance() attendance {
	return attendance{picture: presence.New(), absent: make(map[string]standing)}
}

// of returns what is known of a machine, nil for nothing.
func (a *attendance) of(machine string) *standing {
	s := a.picture.Of(machine)
	if s.State == "" {
		return nil
	}
	return &standing{State: s.State, Brokers: s.Brokers, Since: s.Since, Reason: s.Reason}
}

// attend takes what a broker says of machines' sessions.
func (b *board) attend(d session.Delivery) bool {
	m, err := wire.ParsePresence(d.Payload)
	if err != nil {
		return false
	}
	b.look(b.attendance.picture.Hear(d.Topic.Name, d.Message.Nonce, &m, d.Received))
	return true
}

// sweep no longer believes brokers that have fallen silent, and reports whether
// somebody came or went since it was asked last.
func (b *board) sweep(now time.Time) bool {
	b.look(b.attendance.picture.Sweep(now))
	moved := b.attendance.moved
	b.attendance.moved = false
	return moved
}

// look notes where machines are of which something new is known.
func (b *board) look(machines []string) {
	a := &b.attendance
	for _, machine := range machines {
		s := a.of(machine)
		_, known := a.absent[machine]
		switch {
		case s != nil && s.State == wire.StateGone:
			s.Machine = machine
			a.absent[machine] = *s
			a.moved = true
		case known:
			delete(a.absent, machine)
			a.moved = true
		}
		if name, sensor := strings.CutPrefix(machine, "sensor/"); sensor && b.readings.servers[name] != nil {
			b.readings.touched[name] = true
		}
	}
}

// missing returns the machines that are connected nowhere, those that are not
// sensors first, and then the latest: at most maxAbsent, and how many more.
func (a *attendance) missing() (named []standing, more int) {
	named = make([]standing, 0, len(a.absent))
	for _, s := range a.absent {
		named = append(named, s)
	}
	sensor := func(s standing) int {
		if strings.HasPrefix(s.Machine, "sensor/") {
			return 1
		}
		return 0
	}
	slices.SortFunc(named, func(x, y standing) int {
		return cmp.Or(cmp.Compare(sensor(x), sensor(y)), cmp.Compare(y.Since, x.Since), strings.Compare(x.Machine, y.Machine))
	})
	more = max(0, len(named)-maxAbsent)
	return named[:len(named)-more], more
}
