package console

import (
	"slices"
	"strings"
	"time"
	"unicode"
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
	incidents table[incident, *incident]
	commands  table[order, *order]
	monitors  map[string]*monitor
	attendance
	public   public
	notices  []notice
	partial  map[string]int // digests in a row that were incomplete, by sender
	refusals map[string]uint64
	lost     uint64
	unsaid   uint64 // events that could not be put into words
}

func newBoard(site, name string, now time.Time) *board {
	return &board{site: site, name: name, started: now.UnixMilli(), since: now.UnixMilli(), readings: newReadings(),
		incidents: newTable[incident](maxIncidents), commands: newTable[order](maxCommands), monitors: make(map[string]*monitor),
		attendance: newAttendance(), public: newPublic(), partial: make(map[string]int), refusals: make(map[string]uint64)}
}

// note takes a message that passed the session's checks. It returns false for
// one that does not hold what its topic carries.
func (b *board) note(d session.Delivery, l feed.Line) bool {
	switch {
	case d.Topic.Role == "monitor" && l.Verification == feed.Verified:
		b.hear(d.Topic.Name, l)
	case d.Topic.Role == "sensor" && d.Topic.Kind != wire.KindBackfill:
		b.readings.contradict(d.Topic.Name, l.Boot, l.Seq) // what has this number already
	}
	switch d.Topic.Kind {
	case wire.KindCPU, wire.KindRAM, wire.KindNetwork:
		return b.readings.note(d, l)
	case wire.KindAlert:
		return b.alert(d, l)
	case wire.KindCommand:
		return b.command(d, l)
	case wire.KindScaling, wire.KindRateLimiting:
		return b.status(d, l)
	case wire.KindPresence:
		return b.attend(d)
	case wire.KindPublic:
		b.public.note(d)
	}
	return true
}

// notice is what was wrong with a sender's digests: one for each sender and
// outcome, the newest of it.
type notice struct {
	Received int64  `json:"received"`
	Sender   string `json:"sender"`
	Outcome  string `json:"outcome"`
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	Count    uint64 `json:"count"`
}

// alarming are the outcomes that no honest sender causes over an honest
// broker. A range that was not seen whole is no such thing: whoever begins to
// listen in the middle of one sees that. Two in a row are.
var alarming = map[string]bool{"malformed": true, "contradicted": true, "disowned": true}

// readWhole are the roles of which the console reads all that they publish: of
// others it sees a part, and their digests are incomplete here by nature.
var readWhole = map[string]bool{"sensor": true, "monitor": true, "controller": true}

const incomplete = "incomplete"

// confirm takes what a sender's digest settled.
func (b *board) confirm(d session.Delivery, l feed.Line) {
	again := b.inRow(l, readWhole[d.Topic.Role]) > 1
	if alarming[l.Verification] || again {
		b.notice(l)
	}
	if d.Topic.Role == "sensor" {
		b.readings.confirm(d.Topic.Name, l)
	}
}

// contradict takes that a message came under a number that another one had.
func (b *board) contradict(d session.Delivery, l feed.Line) {
	b.notice(l)
	if d.Topic.Role == "sensor" {
		b.readings.contradict(d.Topic.Name, l.Boot, l.First) // what came last as well
	}
}

// inRow counts a sender's digests that were incomplete one after the other.
func (b *board) inRow(l feed.Line, whole bool) int {
	if !whole || l.Verification != incomplete {
		delete(b.partial, l.Sender)
		return 0
	}
	if _, known := b.partial[l.Sender]; !known && len(b.partial) >= maxServers {
		return 0
	}
	b.partial[l.Sender]++
	return b.partial[l.Sender]
}

func (b *board) notice(l feed.Line) {
	n := notice{Received: l.Received, Sender: l.Sender, Outcome: l.Verification, First: l.First, Last: l.Last, Count: 1}
	same := func(o notice) bool { return o.Sender == n.Sender && o.Outcome == n.Outcome }
	if i := slices.IndexFunc(b.notices, same); i >= 0 {
		n.Count += b.notices[i].Count
		b.notices = slices.Delete(b.notices, i, i+1)
	}
	if len(b.notices) >= maxNotices {
		b.notices = slices.Delete(b.notices, 0, 1)
	}
	b.notices = append(b.notices, n)
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
	Monitors    []monitor         `json:"monitors"`
	Lost        uint64            `json:"lost"`         // messages that came faster than they could be checked
	MoreServers uint64            `json:"more_servers"` // readings of servers that found no place
	Skipped     uint64            `json:"skipped"`      // readings that came too fast to be shown
	Unshown     uint64            `json:"unshown"`      // public messages that were left out, in all
	// Open incidents, and commands whose end had not come, that lost their
	// place.
	CrowdedAlerts   uint64 `json:"crowded_alerts"`
	CrowdedCommands uint64 `json:"crowded_commands"`
	Unsaid          uint64 `json:"unsaid"` // events that could not be sent
	// Machines that are connected to no broker, and how many more there are.
	Absent     []standing `json:"absent"`
	MoreAbsent int        `json:"more_absent"`
}

func (b *board) beat(now time.Time) beat {
	monitors := make([]monitor, 0, len(b.monitors))
	for _, m := range b.monitors {
		monitors = append(monitors, *m)
	}
	slices.SortFunc(monitors, func(a, b monitor) int { return strings.Compare(a.Name, b.Name) })
	absent, more := b.attendance.missing()
	return beat{Now: now.UnixMilli(), Online: b.online, Since: b.since, Refusals: b.refusals, Notices: b.notices, Monitors: monitors,
		Lost: b.lost, MoreServers: b.readings.homeless, Skipped: b.readings.skipped, Unshown: b.public.unshown,
		CrowdedAlerts: b.incidents.crowded, CrowdedCommands: b.commands.crowded, Unsaid: b.unsaid,
		Absent: absent, MoreAbsent: more}
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
	// Keys of rows that lost their place. A key may stand here and above: the
	// row went, and came back.
	GoneAlerts   []string  `json:"gone_alerts,omitempty"`
	GoneCommands []string  `json:"gone_commands,omitempty"`
	Public       []message `json:"public,omitempty"`
	Unshown      uint64    `json:"unshown"` // public messages that were left out, in all
}

func (b *board) snapshot(now time.Time) whole {
	return whole{Site: b.site, Console: b.name, Started: b.started, Reset: true, update: update{Now: now.UnixMilli(), Servers: b.placed(b.readings.all()),
		Alerts: b.incidents.all(), Commands: b.commands.all(), Public: b.public.shown, Unshown: b.public.unshown}}
}

// changes returns what has changed since it was asked last.
func (b *board) changes(now time.Time) (update, bool) {
	u := update{Now: now.UnixMilli()}
	u.Alerts, u.GoneAlerts = b.incidents.changed()
	u.Commands, u.GoneCommands = b.commands.changed()
	u.Servers, u.Gone, u.Readings, u.Marks = b.readings.changed()
	b.placed(u.Servers)
	u.Public, u.Unshown = b.public.changed()
	some := len(u.Servers)+len(u.Gone)+len(u.Readings)+len(u.Marks)+len(u.Alerts)+len(u.Commands)+len(u.Public) > 0
	return u, some
}

// placed says of each server where its sensor is connected.
func (b *board) placed(servers []server) []server {
	for i := range servers {
		servers[i].Sensor = b.attendance.of("sensor/" + servers[i].Name)
	}
	return servers
}

// clip returns at most limit bytes of s as valid UTF-8, with a space for each
// line break and control character, and without what is not seen and moves or
// hides what is.
func clip(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(unicode.Cf, r):
			return -1
		case unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp):
			return ' '
		default:
			return r
		}
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > limit {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit] + "…"
	}
	return s
}

// word clips a short text.
func word(s string) string { return clip(s, maxWord) }
