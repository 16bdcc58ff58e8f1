package clocks

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// MaxSenders bounds the senders that a Watch keeps.
	MaxSenders = 16_384
	// persistent is how many messages in a row must be refused before they say
	// more of a sender's clock than those that were accepted: one that was held
	// back on its way is no clock.
	persistent = 3
	// settling is how long a verdict on this machine's clock must hold: at a
	// start those who are heard first need not be most.
	settling = 10 * time.Second
	// maxLines bounds the lines about senders' clocks in a period: if this
	// machine's clock is the wrong one, all senders' clocks seem wrong at once.
	maxLines = 16
)

// Offset returns how far ts (milliseconds since the epoch) is behind the time
// of receipt; below zero it is ahead. Values beyond a century or so are cut.
func Offset(ts int64, received time.Time) time.Duration {
	const limit = 1 << 42 // ms, that a Duration holds
	return time.Duration(min(max(received.UnixMilli()-ts, -limit), limit)) * time.Millisecond
}

// Reading is what one message says of its sender's clock. Its sender must have
// been verified.
type Reading struct {
	Sender    []byte // site/role/name
	Boot, Seq uint64 // its nonce
	Offset    time.Duration
	Accepted  bool // else it was refused for its time
}

// Figures are what is known of one sender's clock. Each is the least of one to
// two periods: a message can only arrive late, never early, so that the least
// offset is the nearest to the clocks' difference.
type Figures struct {
	Sender  string
	Offset  time.Duration // of messages that were accepted
	Heard   bool          // Offset has a value
	Refused time.Duration // of messages that were refused for their time
	Missed  bool          // Refused has a value
}

// Watch keeps the offsets of senders' clocks, and tells the log when one passes
// half the skew, when it comes back, and when this machine's own clock is the
// likely one. All methods are safe for concurrent use. A nil Watch hears
// nothing.
type Watch struct {
	skew   time.Duration
	log    *slog.Logger
	voices Voices

	mu       sync.Mutex
	began    time.Time
	senders  map[string]*sender
	unlisted uint64
	verdict  Side      // on this machine's clock, as the log was told
	since    time.Time // when the senders' verdict last changed
	swept    int64     // the period in which room was last looked for
	period   int64     // of the lines
	lines    int       // written in it
	skipped  int       // since the last line
}

// sender is what is kept of one.
type sender struct {
	name      string
	boot, seq uint64 // the highest nonce
	accepted  least
	refused   least
	row       int   // refused since one was accepted
	heard     int64 // the period of the last reading
	off       Side  // as the log was told
	told      time.Time
}

// NewWatch returns a watch for messages that may be off by skew.
func NewWatch(skew time.Duration, log *slog.Logger) *Watch {
	return &Watch{skew: skew, log: log, senders: make(map[string]*sender)}
}

// Hear takes the reading of a message. It reports whether the reading counts: a
// refused message says nothing of its sender's clock if its nonce is not above
// all before, because whoever carries messages can bring an old one again.
func (w *Watch) Hear(r Reading, now time.Time) bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	s, period := w.find(r.Sender, now)
	if s == nil {
		w.mu.Unlock()
		return false
	}
	later := r.Boot > s.boot || r.Boot == s.boot && r.Seq > s.seq
	if later {
		s.boot, s.seq = r.Boot, r.Seq
	}
	if !r.Accepted && !later {
		w.mu.Unlock()
		return false
	}
	s.heard = period
	if r.Accepted {
		s.accepted.add(r.Offset, period)
		s.row = 0
	} else {
		s.refused.add(r.Offset, period)
		s.row++
	}
	offset, known := s.estimate(period)
	if !known {
		w.mu.Unlock()
		return true
	}
	side := s.side(offset, w.skew)
	line := w.due(s, side, offset, period, now)
	verdict, changed := w.voices.Hear(s.name, side, now)
	if changed {
		w.since = now
	}
	settled := verdict != w.verdict && now.Sub(w.since) >= settling
	if settled {
		w.verdict = verdict
	}
	w.mu.Unlock()
	if line != nil {
		line()
	}
	if settled {
		w.judge(verdict)
	}
	return true
}

// find returns the sender's record and the number of the period, and makes a
// record if there is room.
func (w *Watch) find(name []byte, now time.Time) (*sender, int64) {
	if w.began.IsZero() {
		w.began = now
	}
	period := int64(now.Sub(w.began) / Period)
	if s := w.senders[string(name)]; s != nil {
		return s, period
	}
	if len(w.senders) >= MaxSenders && !w.makeRoom(period) {
		w.unlisted++
		return nil, period
	}
	s := &sender{name: string(name)}
	w.senders[s.name] = s
	return s, period
}

// makeRoom forgets senders that have no figures any more. A look at all of them
// is taken once a period: what finds no room otherwise waits.
func (w *Watch) makeRoom(period int64) bool {
	if period == w.swept {
		return false
	}
	w.swept = period
	for name, s := range w.senders {
		if period-s.heard >= 2 {
			delete(w.senders, name)
		}
	}
	return len(w.senders) < MaxSenders
}

// estimate returns the offset that says most of the sender's clock.
func (s *sender) estimate(period int64) (time.Duration, bool) {
	if s.row >= persistent {
		return s.refused.at(period)
	}
	return s.accepted.at(period)
}

// side judges an offset by half the skew. It is back in time only well inside,
// so that an offset at the edge does not come and go.
func (s *sender) side(offset, skew time.Duration) Side {
	if s.off != InTime && SideOf(offset, skew*3/8) == s.off {
		return s.off
	}
	return SideOf(offset, skew/2)
}

// due returns what writes a line about the sender, nil if none is due. Of one
// sender there is a line a period at most, and then what holds by that time.
func (w *Watch) due(s *sender, side Side, offset time.Duration, period int64, now time.Time) func() {
	if side == s.off || !s.told.IsZero() && now.Sub(s.told) < Period {
		return nil
	}
	s.off, s.told = side, now
	if period != w.period {
		w.period, w.lines = period, 0
	}
	if w.lines == maxLines {
		w.skipped++
		return nil
	}
	w.lines++
	attrs := []slog.Attr{slog.String("sender", s.name), slog.Duration("offset", offset), slog.Duration("skew", w.skew)}
	if w.skipped > 0 {
		attrs = append(attrs, slog.Int("skipped", w.skipped))
		w.skipped = 0
	}
	return func() {
		if side == InTime {
			w.log.LogAttrs(context.Background(), slog.LevelInfo, "a sender's clock agrees with ours again", attrs...)
			return
		}
		w.log.LogAttrs(context.Background(), slog.LevelWarn, "a sender's clock and ours differ by more than half of what is allowed",
			append(attrs, slog.String("detail", Detail(offset)))...)
	}
}

// judge tells the log what most senders say of this machine's clock.
func (w *Watch) judge(verdict Side) {
	switch verdict {
	case Behind:
		w.log.Error("most senders are behind this machine's clock: it is probably fast, or messages arrive late", slog.Duration("skew", w.skew))
	case Ahead:
		w.log.Error("most senders are ahead of this machine's clock: it is probably slow", slog.Duration("skew", w.skew))
	default:
		w.log.Info("most senders agree with this machine's clock again")
	}
}

// Verdict returns the side on which most senders are, InTime if there is no
// such majority.
func (w *Watch) Verdict() Side {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.verdict
}

// Unlisted returns how many readings found no room.
func (w *Watch) Unlisted() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unlisted
}

// Senders returns the figures of every sender that has some, by name.
func (w *Watch) Senders(now time.Time) []Figures {
	w.mu.Lock()
	period := int64(now.Sub(w.began) / Period)
	all := make([]Figures, 0, len(w.senders))
	for _, s := range w.senders {
		f := Figures{Sender: s.name}
		f.Offset, f.Heard = s.accepted.at(period)
		f.Refused, f.Missed = s.refused.at(period)
		if f.Heard || f.Missed {
			all = append(all, f)
		}
	}
	w.mu.Unlock()
	slices.SortFunc(all, func(a, b Figures) int { return strings.Compare(a.Sender, b.Sender) })
	return all
}

// What a message's time means where its offset does not tell.
const (
	// OldNonce is of a message whose nonce is not above its sender's newest.
	OldNonce = "it is older than its sender's newest, so it was delayed or replayed: it says nothing of any clock"
	// LateBoot is of a message whose sender's start lies after it.
	LateBoot = "its sender's start is recorded later than its ts: its sender's clock went back since that start"
)

// Detail says what an offset can come from, and no more.
func Detail(offset time.Duration) string {
	if offset < 0 {
		return "its ts is ahead of this machine's clock: either its clock or ours is wrong"
	}
	return "its ts is behind this machine's clock: either its clock or ours is wrong, or its messages are delayed or replayed"
}

// least is the least value of a period and the one before. The zero value has
// none.
type least struct {
	period  int64
	value   [2]time.Duration // of that period, and of the one before
	present [2]bool
}

func (l *least) add(d time.Duration, period int64) {
	switch {
	case period <= l.period: // also if the time went back
	case period == l.period+1:
		l.value[1], l.present[1], l.present[0] = l.value[0], l.present[0], false
		l.period = period
	default:
		*l = least{period: period}
	}
	if !l.present[0] || d < l.value[0] {
		l.value[0], l.present[0] = d, true
	}
}

// at returns the value as of a period.
func (l *least) at(period int64) (d time.Duration, ok bool) {
	age := period - l.period
	if age >= 2 {
		return 0, false
	}
	d, ok = l.value[0], l.present[0]
	if age < 1 && l.present[1] && (!ok || l.value[1] < d) {
		d, ok = l.value[1], true
	}
	return d, ok
}
