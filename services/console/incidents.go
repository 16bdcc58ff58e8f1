package console

import (
	"levee/internal/feed"
	"levee/internal/session"
	"levee/internal/wire"
)

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
	// Left is when its monitor was last heard before it started anew: a
	// monitor remembers no incident of an earlier run, so no end will come.
	Left int64 `json:"left,omitempty"`

	boot string // of the run that raised it
}

func (i *incident) over(int64) bool { return i.Ended != 0 }
func (i *incident) from() string    { return i.Monitor }

// texts are what an alert can say. They are the report's: nobody words an
// alert for the people who read it.
var texts = map[string]bool{wire.AlertCPU: true, wire.AlertRAM: true, wire.AlertSYN: true, wire.AlertConnections: true}

// maxSeconds bounds what a value was measured over.
const maxSeconds = 3600

// measurable reports whether v can have been measured, or counted.
func measurable(v float64) bool { return v >= 0 && v < maxCount } // which no NaN is

func (b *board) alert(d session.Delivery, l feed.Line) bool {
	var m wire.Alert
	if wire.Decode(d.Payload, &m) != nil || m.State != wire.StateRaised && m.State != wire.StateEnded ||
		!texts[m.Alert] || !measurable(m.Value) || !measurable(m.Threshold) || !measurable(m.Window) || m.Window > maxSeconds {
		return false
	}
	key := d.Topic.Name + "/" + m.Incident.String()
	row := b.incidents.row(key, l.Received)
	row.Key, row.ID, row.Monitor, row.Verification = key, m.Incident.String(), d.Topic.Name, l.Verification
	row.Alert, row.Server, row.Metric = m.Alert, word(m.Server), word(m.Metric)
	row.Threshold, row.Window = m.Threshold, m.Window
	if m.State == wire.StateEnded {
		row.Ended = l.Received
		return true
	}
	row.Value, row.boot, row.Left = m.Value, l.Boot, 0
	if row.Raised == 0 {
		row.Raised = l.Received
	}
	return true
}

// maxMonitors bounds the monitors that are followed. Each has proven itself by
// a signature, and a site has few.
const maxMonitors = 32

// monitor is when one was heard: any message counts that it signed.
type monitor struct {
	Name  string `json:"name"`
	Heard int64  `json:"heard"`

	boot string
}

// hear notes that a monitor lives. A message counts from when it was signed: a
// broker that holds one back gives no life.
func (b *board) hear(name string, l feed.Line) {
	m := b.monitors[name]
	if m == nil {
		if len(b.monitors) >= maxMonitors {
			return
		}
		m = &monitor{Name: name, boot: l.Boot}
		b.monitors[name] = m
	}
	if l.Boot > m.boot { // of a fixed length, so that they compare as numbers
		for key, row := range b.incidents.rows {
			if row.Monitor == name && !row.over(0) && row.Left == 0 && row.boot < l.Boot {
				row.Left = m.Heard
				b.incidents.touch(key)
			}
		}
		m.boot, m.Heard = l.Boot, 0
	}
	if l.Boot == m.boot {
		m.Heard = max(m.Heard, min(l.Time, l.Received))
	}
}
