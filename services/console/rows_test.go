package console

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/session"
	"levee/internal/wire"
)

func raised(server string) wire.Alert {
	return wire.Alert{Alert: wire.AlertSYN, State: wire.StateRaised, Incident: wire.NewID(), Server: server, Metric: "syn_packet_count", Value: 900, Threshold: 700, Window: 5}
}

func TestIncident(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	a := raised("web-1")
	topic := "melb/bank_server/alerts/m1"
	h.deliver(delivery(t, topic, 1, session.ProofSignature, &a, began))
	got := told(t, h, began).Alerts
	if len(got) != 1 || got[0].Ended != 0 || got[0].Raised != began.UnixMilli() || got[0].Value != 900 || got[0].Verification != "verified" || got[0].Monitor != "m1" {
		t.Errorf("raised: %+v", got)
	}
	end := a
	end.State, end.Value = wire.StateEnded, 3
	h.deliver(delivery(t, topic, 2, session.ProofSignature, &end, began.Add(time.Minute)))
	got = told(t, h, began).Alerts
	if len(got) != 1 || got[0].Ended != began.Add(time.Minute).UnixMilli() || got[0].Raised != began.UnixMilli() || got[0].Value != 900 {
		t.Errorf("ended: %+v", got)
	}
	// Whatever comes late or twice: what has ended stays so, since it was raised.
	h.deliver(delivery(t, topic, 3, session.ProofSignature, &a, began.Add(2*time.Minute)))
	if got = told(t, h, began).Alerts; len(got) != 1 || got[0].Ended != began.Add(time.Minute).UnixMilli() || got[0].Raised != began.UnixMilli() {
		t.Errorf("raised again: %+v", got)
	}
	// Another monitor's word about the same incident is its own.
	h.deliver(delivery(t, "melb/bank_server/alerts/m2", 1, session.ProofSignature, &a, began))
	if got := everything(t, h, began).Alerts; len(got) != 2 {
		t.Errorf("two monitors: %+v", got)
	}
}

func TestCommandAndStatus(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	c := wire.Command{ID: wire.NewID(), Command: wire.EnableRateLimiting, Controller: "lb-1", Server: "web-1", Issued: began.UnixMilli(), TTL: 30,
		Parameters: wire.Parameters{RatePerSecond: 5, Burst: 10}, Incident: wire.NewID(), Sensors: []string{"web-1"}}
	topic := "melb/bank_server/control/command/monitor/m1"
	h.deliver(delivery(t, topic, 1, session.ProofSignature, &c, began))
	got := told(t, h, began).Commands
	if len(got) != 1 || got[0].Status != nil || got[0].Ends != began.Add(30*time.Second).UnixMilli() || got[0].Sender != "melb/monitor/m1" || got[0].Parameters.Burst != 10 {
		t.Errorf("sent: %+v", got)
	}
	h.deliver(delivery(t, topic, 2, session.ProofSignature, &c, began.Add(time.Second)))
	if got := told(t, h, began).Commands; got != nil {
		t.Errorf("a repetition: %+v", got)
	}
	s := wire.Status{ID: c.ID, Command: c.Command, Status: wire.StatusSuccess, State: wire.StateActive, Controller: "lb-1", Server: "web-1", Until: 5}
	foreign := s
	foreign.Controller = "lb-2"
	h.deliver(delivery(t, "melb/bank_server/status/rate_limiting/lb-2", 1, session.ProofSignature, &foreign, began))
	h.deliver(delivery(t, "melb/bank_server/status/rate_limiting/lb-1", 1, session.ProofSignature, &s, began))
	for _, row := range told(t, h, began).Commands {
		if row.Status == nil || row.Status.State != wire.StateActive || (row.Controller == "lb-1") != (row.Sender != "") {
			t.Errorf("answered: %+v", row)
		}
	}
	if n := len(everything(t, h, began).Commands); n != 2 {
		t.Errorf("%d rows: another controller answers for the one that was asked", n)
	}
}

// orders are the deliveries of a site's commands and statuses, in the order in
// which they are made.
type orders struct {
	t   *testing.T
	seq uint64
}

func (o *orders) command(monitor string, c wire.Command) session.Delivery {
	o.seq++
	return delivery(o.t, "melb/bank_server/control/command/monitor/"+monitor, o.seq, session.ProofSignature, &c, began)
}

func (o *orders) status(s wire.Status) session.Delivery {
	o.seq++
	return delivery(o.t, "melb/bank_server/status/rate_limiting/"+s.Controller, o.seq, session.ProofSignature, &s, began)
}

// Nobody changes what stands in the row of another's command.
func TestCommandsOfOneID(t *testing.T) {
	o := &orders{t: t}
	c := wire.Command{ID: wire.NewID(), Command: wire.EnableRateLimiting, Controller: "lb-1", Server: "web-1", Issued: began.UnixMilli(), TTL: 30, Parameters: wire.Parameters{RatePerSecond: 5, Burst: 10}}
	other := c
	other.Command, other.Server, other.Parameters = wire.ScaleUpServers, "web-9", wire.Parameters{Servers: 9}
	active := wire.Status{ID: c.ID, Command: c.Command, Status: wire.StatusSuccess, State: wire.StateActive, Controller: "lb-1", Server: "web-1", Parameters: wire.Parameters{RatePerSecond: 7, Burst: 10}, Until: 1 << 50}
	refused := active
	refused.Status, refused.State, refused.Parameters, refused.Until = wire.StatusFailure, wire.StateRefused, wire.Parameters{}, 0
	unknown := refused
	unknown.Command, unknown.Server = "unknown", ""
	failed := refused
	failed.State = wire.StateFailed
	for _, test := range []struct {
		name string
		in   []session.Delivery
		want []string // sender, command, server, rate, state; and whether the id is another's as well
	}{
		{"one command", []session.Delivery{o.command("m1", c)}, []string{"m1 enable_rate_limiting web-1 5 - false"}},
		{"its answer, in the controller's words", []session.Delivery{o.command("m1", c), o.status(active)}, []string{"m1 enable_rate_limiting web-1 7 active false"}},
		{"the answer first", []session.Delivery{o.status(active), o.command("m1", c)}, []string{"m1 enable_rate_limiting web-1 7 active false"}},
		{"another's id", []session.Delivery{o.command("m1", c), o.command("m2", other), o.status(active)},
			[]string{"m1 enable_rate_limiting web-1 7 active true", "m2 scale_up_servers web-9 0 - true"}},
		{"another's id, and it was first", []session.Delivery{o.command("m2", other), o.command("m1", c), o.status(active)},
			[]string{"m2 scale_up_servers web-9 0 - true", "m1 enable_rate_limiting web-1 7 active true"}},
		{"a copy", []session.Delivery{o.command("m1", c), o.command("m2", c), o.status(active)},
			[]string{"m1 enable_rate_limiting web-1 7 active true", "m2 enable_rate_limiting web-1 5 - true"}},
		{"a copy that is refused", []session.Delivery{o.command("m1", c), o.status(active), o.command("m2", c), o.status(refused)},
			[]string{"m1 enable_rate_limiting web-1 7 active true", "m2 enable_rate_limiting web-1 5 - true"}},
		{"a second try of the same sender", []session.Delivery{o.command("m1", c), o.command("m1", other)}, []string{"m1 enable_rate_limiting web-1 5 - false"}},
		{"an answer to something else", []session.Delivery{o.command("m1", other), o.status(active)},
			[]string{"m1 scale_up_servers web-9 0 - false", " enable_rate_limiting web-1 7 active false"}},
		{"a refusal of something else", []session.Delivery{o.command("m1", c), o.status(unknown)},
			[]string{"m1 enable_rate_limiting web-1 5 - false", " unknown  0 refused false"}},
		{"refused at first", []session.Delivery{o.command("m1", c), o.status(refused), o.status(active)}, []string{"m1 enable_rate_limiting web-1 7 active false"}},
		{"failed after it was in force", []session.Delivery{o.command("m1", c), o.status(active), o.status(failed)}, []string{"m1 enable_rate_limiting web-1 0 failed false"}},
		{"an old answer after the new", func() []session.Delivery {
			old := o.status(active)
			return []session.Delivery{o.command("m1", c), o.status(failed), old}
		}(), []string{"m1 enable_rate_limiting web-1 0 failed false"}},
		{"an answer of an earlier run", func() []session.Delivery {
			old := o.status(active)
			old.Message.Nonce.Boot--
			old.Message.Nonce.Seq = 1 << 30
			return []session.Delivery{o.command("m1", c), o.status(failed), old}
		}(), []string{"m1 enable_rate_limiting web-1 0 failed false"}},
	} {
		h := newHub("melb", "desk-1", began, quiet())
		for _, d := range test.in {
			if !h.deliver(d) {
				t.Fatalf("%s: refused", test.name)
			}
		}
		var got []string
		for _, row := range everything(t, h, began).Commands {
			state := "-"
			if row.Status != nil {
				state = row.Status.State
			}
			got = append(got, fmt.Sprint(strings.TrimPrefix(row.Sender, "melb/monitor/"), " ", row.Command, " ", row.Server, " ", row.Parameters.RatePerSecond, " ", state, " ", row.Shared))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s:\n%q, not\n%q", test.name, got, test.want)
		}
	}
}

// A flood of rows crowds out what is over, then the flood itself, and never
// another sender's open row.
func TestOpenRowsKeepTheirPlace(t *testing.T) {
	for _, ending := range []bool{true, false} {
		h := newHub("melb", "desk-1", began, quiet())
		o := &orders{t: t}
		mine := raised("web-1")
		h.deliver(delivery(t, "melb/bank_server/alerts/m1", 1, session.ProofSignature, &mine, began))
		c := wire.Command{ID: wire.NewID(), Command: wire.EnableRateLimiting, Controller: "lb-1", Server: "web-1", Issued: began.UnixMilli(), TTL: 30}
		h.deliver(o.command("m1", c))
		told(t, h, began)
		page := map[string]bool{"m1/" + mine.Incident.String(): true} // what a reader holds
		for i := range uint64(3 * maxIncidents) {
			a := raised("web-2")
			x := wire.Command{ID: wire.NewID(), Command: wire.EnableRateLimiting, Controller: "lb-1", Server: "web-2", Issued: began.UnixMilli(), TTL: 1 << 40}
			if ending {
				a.State, x.TTL = wire.StateEnded, -1
			}
			h.deliver(delivery(t, "melb/bank_server/alerts/m2", i+1, session.ProofSignature, &a, began))
			h.deliver(o.command("m2", x))
			if i < maxIncidents && i%7 == 0 || i == 3*maxIncidents-1 { // at last of more than there is room for
				u := told(t, h, began)
				for _, key := range u.GoneAlerts {
					if !page[key] {
						t.Fatalf("%q is gone, and was never there", key)
					}
					delete(page, key)
				}
				for _, a := range u.Alerts {
					page[a.Key] = true
				}
				if len(page) > maxIncidents {
					t.Fatalf("a reader holds %d rows", len(page))
				}
			}
		}
		got := everything(t, h, began)
		if len(got.Alerts) != maxIncidents || len(got.Commands) != maxCommands {
			t.Errorf("%d alerts, %d commands", len(got.Alerts), len(got.Commands))
		}
		if !slices.ContainsFunc(got.Alerts, func(a incident) bool { return a.Monitor == "m1" }) || !slices.ContainsFunc(got.Commands, func(c order) bool { return c.Sender == "melb/monitor/m1" }) {
			t.Errorf("ended %v: another's flood hides an open incident, or a command", ending)
		}
		b := h.board.beat(began)
		if crowded := uint64(2*maxIncidents + 1); (ending && b.CrowdedAlerts+b.CrowdedCommands != 0) || (!ending && (b.CrowdedAlerts != crowded || b.CrowdedCommands != crowded)) {
			t.Errorf("ended %v: %d and %d open rows lost their place", ending, b.CrowdedAlerts, b.CrowdedCommands)
		}
	}
}

func TestFloodOfAlertsAndCommands(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	long := strings.Repeat("x", 3000)
	for i := range uint64(2000) {
		a := raised(long)
		a.Metric = long
		for _, d := range []session.Delivery{
			delivery(t, "melb/bank_server/alerts/m1", i+1, session.ProofSignature, &a, began),
			delivery(t, "melb/bank_server/control/command/monitor/m1", i+1, session.ProofSignature,
				&wire.Command{ID: wire.NewID(), Command: long, Controller: "lb-1", Server: long, Issued: 1 << 62, TTL: 1 << 62}, began),
			delivery(t, "melb/bank_server/status/scaling/lb-1", i+1, session.ProofSignature,
				&wire.Status{ID: wire.NewID(), Controller: "lb-1", Command: long, Server: long, Status: wire.StatusFailure, State: wire.StateFailed, Reason: long}, began),
		} {
			if !h.deliver(d) {
				t.Fatal("refused")
			}
		}
	}
	got := everything(t, h, began)
	if len(got.Alerts) != maxIncidents || len(got.Commands) != maxCommands {
		t.Errorf("%d alerts, %d commands", len(got.Alerts), len(got.Commands))
	}
	b, err := json.Marshal(got)
	if err != nil || len(b) > (maxIncidents+maxCommands)*2000 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if u := told(t, h, began); len(u.Alerts) != maxIncidents || len(u.Commands) != maxCommands {
		t.Errorf("told of %d alerts, %d commands", len(u.Alerts), len(u.Commands))
	}
	// What was told is no news.
	if u := told(t, h, began); len(u.Alerts)+len(u.Commands)+len(u.GoneAlerts)+len(u.GoneCommands) != 0 {
		t.Errorf("told twice: %+v", u)
	}
}
