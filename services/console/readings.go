package console

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/time/rate"

	"levee/internal/feed"
	"levee/internal/session"
	"levee/internal/wire"
)

const (
	// A sender's readings that come faster are counted and not kept. Policy
	// allows a sensor no more, but a captured broker knows no policy.
	readingRate  = 20
	readingBurst = 100
	// silence is how long a server must have said nothing before another may
	// have its place, in ms. So long in the future is no better: a clock was set
	// back.
	silence = 60_000
	// maxCount bounds a counter: what JavaScript's numbers hold exactly.
	maxCount = 1 << 53
	// minInterval is below what any sensor counts over, in seconds. A count
	// over next to no time would be a rate beyond all numbers.
	minInterval = 0.05
)

// point is one reading: [n, t, mark, value…].
type point struct {
	n      uint64 // the server's points in the order of their arrival
	t      int64  // ms since the epoch: what the envelope says, never later than its arrival
	mark   string
	values []float64
	boot   string
	seq    uint64
}

// marks are the numbers, in events, of the words of package feed and of
// confirm.Outcome.
var marks = map[string]int{"unconfirmed": 0, "confirmed": 1, "incomplete": 2, "contradicted": 3, "disowned": 4, "verified": 5}

func (p point) MarshalJSON() ([]byte, error) {
	b := append([]byte{'['}, strconv.FormatUint(p.n, 10)...)
	b = strconv.AppendInt(append(b, ','), p.t, 10)
	b = strconv.AppendInt(append(b, ','), int64(marks[p.mark]), 10)
	for _, v := range p.values {
		b = strconv.AppendFloat(append(b, ','), v, 'g', -1, 64)
	}
	return append(b, ']'), nil
}

// reading is a new point.
type reading struct {
	Server string `json:"server"`
	Kind   string `json:"kind"`
	Point  point  `json:"point"`
}

// mark says what a digest settled of a server's points From to To.
type mark struct {
	Server string `json:"server"`
	From   uint64 `json:"from"`
	To     uint64 `json:"to"`
	Mark   int    `json:"mark"`
}

// server is one watched server.
type server struct {
	Name      string             `json:"name"`
	Seen      int64              `json:"seen"` // when its last reading came
	Method    string             `json:"syn_method,omitempty"`
	Outcome   string             `json:"outcome,omitempty"` // of its last digest
	Settled   int64              `json:"settled,omitempty"` // when that came
	Missing   int                `json:"missing,omitempty"`
	Dropped   int                `json:"dropped,omitempty"`
	Unvouched int                `json:"unvouched,omitempty"`
	Proven    bool               `json:"proven,omitempty"` // some digest has vouched for it
	Sensor    *standing          `json:"sensor,omitempty"` // where it is connected, if a broker said
	Points    map[string][]point `json:"points,omitempty"`

	next uint64
	pace *rate.Limiter
}

// readings holds the servers and their points.
type readings struct {
	servers  map[string]*server
	touched  map[string]bool // servers whose own members changed
	gone     []string
	fresh    []reading
	marked   []mark
	homeless uint64
	skipped  uint64
}

func newReadings() readings {
	return readings{servers: make(map[string]*server), touched: make(map[string]bool)}
}

// kinds are the names of the three kinds of readings in events.
var kinds = map[wire.Kind]string{wire.KindCPU: "cpu", wire.KindRAM: "ram", wire.KindNetwork: "network"}

// note takes a reading.
func (r *readings) note(d session.Delivery, l feed.Line) bool {
	values, method, ok := measured(d)
	if !ok {
		return false
	}
	s := r.place(d.Topic.Name, l.Received, false)
	switch {
	case s == nil:
		r.homeless++
		return true
	case !s.pace.AllowN(d.Received, 1):
		r.skipped++
		return true
	}
	s.next++
	p := point{n: s.next, t: min(l.Time, l.Received), mark: l.Verification, values: values, boot: l.Boot, seq: l.Seq}
	kind := kinds[d.Topic.Kind]
	s.Points[kind] = insert(s.Points[kind], p)
	s.Seen = l.Received // though a clock was set back: what stays in the future never looks old
	if method != "" && method != s.Method {
		s.Method = method
		r.touched[s.Name] = true
	}
	r.fresh = append(r.fresh, reading{Server: s.Name, Kind: kind, Point: p})
	return true
}

// measured returns what a reading says. A value that cannot be is refused: a
// sensor measures no such thing.
func measured(d session.Delivery) (values []float64, method string, ok bool) {
	percent := func(v float64) bool { return v >= 0 && v <= 100 }
	switch d.Topic.Kind {
	case wire.KindCPU:
		var m wire.CPU
		ok = wire.Decode(d.Payload, &m) == nil && m.Server == d.Topic.Name && percent(m.CPUUsage)
		return []float64{m.CPUUsage}, "", ok
	case wire.KindRAM:
		var m wire.RAM
		ok = wire.Decode(d.Payload, &m) == nil && m.Server == d.Topic.Name && percent(m.RAMUsage)
		return []float64{m.RAMUsage}, "", ok
	default:
		var m wire.Network
		ok = wire.Decode(d.Payload, &m) == nil && m.Server == d.Topic.Name && m.Interval >= minInterval && m.Interval <= maxSeconds &&
			m.SYNPacketCount < maxCount && m.ActiveTCPConnections < maxCount
		if !ok {
			return nil, "", false
		}
		perSecond := math.Round(float64(m.SYNPacketCount)/m.Interval*100) / 100
		return []float64{perSecond, float64(m.ActiveTCPConnections)}, word(m.SYNMethod), measurable(perSecond)
	}
}

// insert keeps points in the order of their times: after an outage a sender
// repeats its last ones.
func insert(points []point, p point) []point {
	if len(points) >= maxPoints {
		if p.t < points[0].t {
			return points
		}
		points = slices.Delete(points, 0, 1)
	}
	at, _ := slices.BinarySearchFunc(points, p.t+1, func(q point, t int64) int { return int(q.t - t) })
	return slices.Insert(points, at, p)
}

// place returns the server of that name, and makes it if there is room. Anybody
// on a captured broker can invent servers, so one that a digest vouched for
// takes the place of one that none did, and never the other way round.
func (r *readings) place(name string, now int64, proven bool) *server {
	if s := r.servers[name]; s != nil {
		return s
	}
	if len(r.servers) >= maxServers {
		var victim *server
		for _, s := range r.servers {
			if !s.Proven && (proven || now-s.Seen > silence || s.Seen-now > silence) && (victim == nil || s.Seen < victim.Seen) {
				victim = s
			}
		}
		if victim == nil {
			return nil
		}
		r.remove(victim.Name)
	}
	s := &server{Name: name, Seen: now, Points: make(map[string][]point), pace: rate.NewLimiter(readingRate, readingBurst)}
	r.servers[name] = s
	r.touched[name] = true
	return s
}

func (r *readings) remove(name string) {
	delete(r.servers, name)
	delete(r.touched, name)
	r.gone = append(r.gone, name)
	of := func(server string) bool { return server == name }
	r.fresh = slices.DeleteFunc(r.fresh, func(x reading) bool { return of(x.Server) })
	r.marked = slices.DeleteFunc(r.marked, func(x mark) bool { return of(x.Server) })
}

// confirm marks the points that a sensor's digest settled.
func (r *readings) confirm(name string, l feed.Line) {
	vouches := l.Verification == "confirmed"
	s := r.place(name, l.Received, vouches)
	if s == nil {
		return
	}
	s.Proven = s.Proven || vouches
	s.Outcome, s.Settled, s.Missing, s.Dropped, s.Unvouched = l.Verification, l.Received, l.Missing, l.Dropped, l.Unvouched
	r.touched[name] = true
	if l.Verification == "malformed" {
		return // it speaks for no range
	}
	byMark := make(map[string][]uint64)
	for _, points := range s.Points {
		for i := range points {
			p := &points[i]
			if p.boot != l.Boot || p.seq > l.Last || p.mark != feed.Unconfirmed {
				continue
			}
			p.mark = l.Verification
			if p.seq < l.First { // its digest has come and gone without it
				p.mark = "disowned"
			}
			byMark[p.mark] = append(byMark[p.mark], p.n)
		}
	}
	for word, numbers := range byMark {
		slices.Sort(numbers)
		for i, from := 0, 0; i < len(numbers); i++ {
			if i+1 == len(numbers) || numbers[i+1] != numbers[i]+1 {
				r.marked = append(r.marked, mark{Server: name, From: numbers[from], To: numbers[i], Mark: marks[word]})
				from = i + 1
			}
		}
	}
}

// contradict marks the points under a number under which another message came.
// A digest that covers the number speaks for one of them at most, and those who
// look have seen them all.
func (r *readings) contradict(name, boot string, seq uint64) {
	s := r.servers[name]
	if s == nil {
		return
	}
	for _, points := range s.Points {
		for i := range points {
			if p := &points[i]; p.seq == seq && p.boot == boot && p.mark == feed.Unconfirmed {
				p.mark = "contradicted"
				r.marked = append(r.marked, mark{Server: name, From: p.n, To: p.n, Mark: marks[p.mark]})
			}
		}
	}
}

// all returns every server with its points.
func (r *readings) all() []server {
	list := make([]server, 0, len(r.servers))
	for _, s := range r.servers {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b server) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// changed returns what is new since it was asked last.
func (r *readings) changed() (servers []server, gone []string, fresh []reading, marked []mark) {
	for name := range r.touched {
		s := *r.servers[name]
		s.Points = nil
		servers = append(servers, s)
	}
	gone, fresh, marked = r.gone, r.fresh, r.marked
	r.touched, r.gone, r.fresh, r.marked = make(map[string]bool), nil, nil, nil
	return servers, gone, fresh, marked
}
