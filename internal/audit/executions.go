package audit

import (
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
)

// executions holds what controllers did against what the log shows that they
// were told.
type executions struct {
	commands map[wire.ID]ordered
	open     []executed // their command has not come
	missing  int64      // when the first message may have been sent that is missing of those who command; 0: none is
	some     bool
	vouched  map[string]int64 // by "sender boot" of those who command: until when it signed for what it sent, ms since the epoch
}

// ordered is what a command told whom to do.
type ordered struct {
	Command    string `json:"command"`
	Controller string `json:"controller"`
}

// executed is a status of a command that was carried out.
type executed struct {
	ID     wire.ID `json:"id"`
	Index  int64   `json:"index"`
	Time   int64   `json:"ts"` // ms since the epoch
	Sender string  `json:"sender"`
	ordered
}

// maxUnordered is how far behind the status its command may come in the log: what is
// appended at the same time is in no particular order, and two brokers may
// deliver in any.
const maxUnordered = 1 << 16

func newExecutions() *executions {
	return &executions{commands: make(map[wire.ID]ordered), vouched: make(map[string]int64)}
}

// longestOwed is how long the digest of who commands may take to come: beyond, a
// status without a command is a finding, whatever may still be on its way.
// answering is how long a command may be carried out after its sender's next start.
const (
	longestOwed = int64(time.Hour / time.Millisecond)
	answering   = int64(time.Minute / time.Millisecond)
)

// hear notes that somebody signed something at the time at: in a digest, for all
// that it sent until then in that boot.
func (e *executions) hear(sender string, boot uint64, at int64, digest bool) {
	if !commands(sender) {
		return
	}
	key := sender + " " + envelope.FormatBoot(boot)
	if _, known := e.vouched[key]; !known || digest {
		e.vouched[key] = max(e.vouched[key], at)
	}
}

// owed reports whether somebody may have commanded until the time at, and did not
// sign for all that it sent by then: the command may be on its way, as backfill,
// or have been lost when its sender was killed.
func (e *executions) owed(at int64) bool {
	keys := slices.Sorted(maps.Keys(e.vouched)) // the boots of a sender in order
	for i, key := range keys {
		ended := int64(math.MaxInt64)
		if sender, _, _ := strings.Cut(key, " "); i+1 < len(keys) && strings.HasPrefix(keys[i+1], sender+" ") {
			next, _ := envelope.ParseBoot(keys[i+1][len(sender)+1:])
			ended = int64(next) + answering // a boot is when it began
		}
		if until := e.vouched[key]; until < at && at-until <= longestOwed && at < ended {
			return true
		}
	}
	return false
}

// order notes a command. It is repeated each second until it is answered.
func (e *executions) order(c *wire.Command) {
	if _, ok := e.commands[c.ID]; !ok {
		e.commands[c.ID] = ordered{c.Command, c.Controller}
	}
}

// status notes what a controller says it did. What it refused, it did not do.
func (a *audit) checkStatus(index, ts int64, sender string, s *wire.Status) {
	if s.State == wire.StateRefused {
		return
	}
	a.report.Executions++
	x := executed{ID: s.ID, Index: index, Time: ts, Sender: sender, ordered: ordered{s.Command, s.Controller}}
	if !a.checkExecution(x) {
		a.executions.open = append(a.executions.open, x)
	}
	if len(a.executions.open) > maxUnordered { // nobody waits that long
		if oldest := a.executions.open[0]; !a.checkExecution(oldest) {
			a.findExecution(oldest)
		}
		a.executions.open = a.executions.open[1:]
	}
}

// checkExecution holds a status against its command. It returns false if the
// log does not hold that by now.
func (a *audit) checkExecution(x executed) bool {
	c, ok := a.executions.commands[x.ID]
	if ok && c != x.ordered {
		a.report.find(inLog, KindExecution, entryName(x.Index), "%s says that it carried out %s for %s, and command %s is %s for %s",
			x.Sender, x.Command, x.Controller, x.ID, c.Command, c.Controller)
	}
	return ok
}

// checkExecutions names, at the end, what was carried out without a command.
func (a *audit) checkExecutions() {
	for _, x := range a.executions.open {
		if a.checkExecution(x) {
			continue
		}
		if a.executions.some && a.executions.missing <= x.Time || a.executions.owed(x.Time) {
			a.report.Unexplained++
			continue
		}
		a.findExecution(x)
	}
}

func (a *audit) findExecution(x executed) {
	a.report.find(inLog, KindExecution, entryName(x.Index), "%s says at %s that it carried out %s, and the log does not hold command %s: nobody may have given it",
		x.Sender, clock(x.Time), x.Command, x.ID)
}

// missed notes messages that are missing of a sender who may have commanded.
func (e *executions) missed(sender string, g Gap) {
	if !commands(sender) {
		return
	}
	if !e.some || g.After < e.missing {
		e.some, e.missing = true, g.After
	}
}

// commands reports whether a sender's role commands.
func commands(sender string) bool {
	id, err := envelope.ParseKeyID([]byte(sender + "/1"))
	role := pki.Role(id.Role)
	return err == nil && (role == pki.RoleMonitor || role == pki.RoleApprover)
}
