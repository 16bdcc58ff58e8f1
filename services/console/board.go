package console

import (
	"strings"
	"time"
	"unicode/utf8"

	"levee/internal/feed"
	"levee/internal/session"
	"levee/internal/wire"
)

// Bounds of what the board holds.
const (
	maxServers   = 128
	maxPoints    = 300 // of each kind of reading of each server
	maxIncidents = 200
	maxCommands  = 200
	maxPublic    = 100
	maxNotices   = 32
	maxWord      = 64  // bytes of a short text
	maxText      = 400 // bytes of a long one
)

// board is what the page shows. It is not safe for concurrent use.
type board struct {
	site, name string
	started    int64 // ms since the epoch, as all times here
	online     bool
	since      int64 // that the broker is there, or gone
	readings
	incidents table[incident]
	commands  table[order]
	public    public
	notices   []notice
	refusals  map[string]uint64
	lost      uint64
}

func newBoard(site, name string, now time.Time) *board {
	return &board{site: site, name: name, started: now.UnixMilli(), since: now.UnixMilli(), readings: newReadings(),
		incidents: newTable[incident](maxIncidents), commands: newTable[order](maxCommands), public: newPublic(), refusals: make(map[string]uint64)}
}

// note takes a message that passed the session's checks. It returns false for
// one that does not hold what its topic carries.
func (b *board) note(d session.Delivery, l feed.Line) bool {
	switch d.Topic.Kind {
	case wire.KindCPU, wire.KindRAM, wire.KindNetwork:
		return b.readings.note(d, l)
	case wire.KindAlert:
		return b.alert(d, l)
	case wire.KindCommand:
		return b.command(d, l)
	case wire.KindScaling, wire.KindRateLimiting:
		return b.status(d, l)
	case wire.KindPublic:
		b.public.note(d)
	}
	return true
}

// notice is a digest that is not what it should be.
type notice struct {
	Received int64  `json:"received"`
	Sender   string `json:"sender"`
	Outcome  string `json:"outcome"`
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
}

// alarming are the outcomes that no honest sender causes over an honest
// broker. A range that was not seen whole is no such thing: whoever begins to
// listen in the middle of one sees that.
var alarming = map[string]bool{"malformed": true, "contradicted": true, "disowned": true}

// confirm takes what a sender's digest settled.
func (b *board) confirm(d session.Delivery, l feed.Line) {
	if alarming[l.Verification] {
		if len(b.notices) >= maxNotices {
			b.notices = b.notices[1:]
		}
		b.notices = append(b.notices, notice{Received: l.Received, Sender: l.Sender, Outcome: l.Verification, First: l.First, Last: l.Last})
	}
	if d.Topic.Role == "sensor" {
		b.readings.confirm(d.Topic.Name, l)
	}
}

// link notes whether the broker is there, and reports a change.
func (b *board) link(online bool, now time.Time) bool {
	if b.online == online {
		return false
	}
	b.online, b.since = online, now.UnixMilli()
	return true
}

// beat is the event that says that the console lives. It has what changes too
// often to be a change.
type beat struct {
	Now         int64             `json:"now"`
	Online      bool              `json:"online"`
	Since       int64             `json:"since"`
	Refusals    map[string]uint64 `json:"refusals"`
	Notices     []notice          `json:"notices"`
	Lost        uint64            `json:"lost"`         // messages that came faster than they could be checked
	MoreServers uint64            `json:"more_servers"` // readings of servers that found no place
	Skipped     uint64            `json:"skipped"`      // readings that came too fast to be shown
	Unshown     uint64            `json:"unshown"`      // public messages that were left out, in all
}

func (b *board) beat(now time.Time) beat {
	return beat{Now: now.UnixMilli(), Online: b.online, Since: b.since, Refusals: b.refusals,
		Notices: b.notices, Lost: b.lost, MoreServers: b.readings.homeless, Skipped: b.readings.skipped, Unshown: b.public.unshown}
}

// whole is the event that a reader begins with.
type whole struct {
	Site    string `json:"site"`
	Console string `json:"console"`
	Started int64  `json:"started"`
	update
	Reset bool `json:"reset"` // forget what you have
}

// update is the event of a change. Members that did not change are absent.
type update struct {
	Now      int64      `json:"now"`
	Servers  []server   `json:"servers,omitempty"`  // without their points, but in a snapshot
	Gone     []string   `json:"gone,omitempty"`     // servers that gave up their place
	Readings []reading  `json:"readings,omitempty"` // new points
	Marks    []mark     `json:"marks,omitempty"`    // what digests say of points
	Alerts   []incident `json:"alerts,omitempty"`
	Commands []order    `json:"commands,omitempty"`
	Public   []message  `json:"public,omitempty"`
	Unshown  uint64     `json:"unshown"` // public messages that were left out, in all
}

func (b *board) snapshot(now time.Time) whole {
	return whole{Site: b.site, Console: b.name, Started: b.started, Reset: true, update: update{Now: now.UnixMilli(), Servers: b.readings.all(),
		Alerts: b.incidents.all(), Commands: b.commands.all(), Public: b.public.shown, Unshown: b.public.unshown}}
}

// changes returns what has changed since it was asked last.
func (b *board) changes(now time.Time) (update, bool) {
	u := update{Now: now.UnixMilli(), Alerts: b.incidents.changed(), Commands: b.commands.changed()}
	u.Servers, u.Gone, u.Readings, u.Marks = b.readings.changed()
	u.Public, u.Unshown = b.public.changed()
	some := len(u.Servers)+len(u.Gone)+len(u.Readings)+len(u.Marks)+len(u.Alerts)+len(u.Commands)+len(u.Public) > 0
	return u, some
}

// clip returns at most limit bytes of s as valid UTF-8.
func clip(s string, limit int) string {
	if len(s) > limit {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// word clips a short text.
func word(s string) string { return clip(s, maxWord) }
