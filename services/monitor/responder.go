package monitor

import (
	"errors"
	"time"

	"levee/internal/wire"
	"levee/services/monitor/detect"
)

// responder decides which commands go out, and when. It sends nothing, starts
// nothing and reads no clock; times are the caller's.
type responder struct {
	mode        Mode
	answers     map[detect.Metric][]Automatic
	controllers map[string][]string // by server
	runs        map[answer]*run
	sent        map[wire.ID]answer // the newest command of each run, in mode act
}

// answer names what a run is of: one command for one cause at one controller.
type answer struct {
	server, command, controller string
	cause                       detect.Metric
}

// run is a command and its renewals.
type run struct {
	command  wire.Command // the newest
	incident time.Time    // when the incident that it answers was raised
	commands int          // so far
	answered bool         // no status is awaited (any more)
	ended    bool         // no further command in this run
	renew    time.Time
	expires  time.Time
	over     time.Time // the next run may begin
	coolDown time.Duration
}

func newResponder(c Config) *responder {
	r := &responder{
		mode:        c.Mode,
		answers:     make(map[detect.Metric][]Automatic),
		controllers: make(map[string][]string),
		runs:        make(map[answer]*run),
		sent:        make(map[wire.ID]answer),
	}
	for _, a := range c.Automatic {
		for _, cause := range a.Causes {
			metric, _ := detect.ParseMetric(cause) // checked by Config
			r.answers[metric] = append(r.answers[metric], a)
		}
	}
	for _, x := range c.Controllers {
		for _, server := range x.Servers {
			r.controllers[server] = append(r.controllers[server], x.Name)
		}
	}
	return r
}

// unserved reports whether policy has an answer to the incident that no
// controller could give.
func (r *responder) unserved(i detect.Incident) bool {
	return len(r.answers[i.Metric]) > 0 && len(r.controllers[i.Server]) == 0
}

// respond returns the new commands that the open incident calls for at now.
func (r *responder) respond(now time.Time, i detect.Incident) []wire.Command {
	if i.Silent {
		return nil
	}
	var due []wire.Command
	for _, a := range r.answers[i.Metric] {
		for _, controller := range r.controllers[i.Server] {
			key := answer{i.Server, a.Command, controller, i.Metric}
			if r.due(now, key, a.Renewals) {
				due = append(due, r.issue(now, key, a, i))
			}
		}
	}
	return due
}

// due reports whether the next command of key may go out.
func (r *responder) due(now time.Time, key answer, renewals int) bool {
	current := r.runs[key]
	switch {
	case current == nil || !now.Before(current.over):
		return true
	case current.ended || current.commands > renewals:
		return false
	case current.answered:
		return !now.Before(current.renew)
	default:
		// Nobody has answered yet. A renewal would reach nobody either, and
		// would use up the run; the command itself is still being repeated.
		return !now.Before(current.expires)
	}
}

func (r *responder) issue(now time.Time, key answer, a Automatic, i detect.Incident) wire.Command {
	current := r.runs[key]
	if current == nil || !now.Before(current.over) {
		r.drop(key)
		current = &run{}
		r.runs[key] = current
	}
	delete(r.sent, current.command.ID)
	current.command = wire.Command{
		Timestamp:  seconds(now),
		ID:         wire.NewID(),
		Command:    a.Command,
		Controller: key.controller,
		Server:     key.server,
		Parameters: a.Parameters,
		Issued:     now.UnixMilli(),
		TTL:        int64(a.TTL / time.Second),
		Cause:      key.cause.String(),
		Incident:   i.ID,
		Sensors:    []string{key.server},
	}
	current.incident = i.Raised
	current.commands++
	current.renew = now.Add(a.TTL / 2)
	current.expires = now.Add(a.TTL)
	current.over = current.expires.Add(a.CoolDown)
	current.coolDown = a.CoolDown
	current.answered = r.mode != ModeAct // nobody answers what was not sent
	if r.mode == ModeAct {
		r.sent[current.command.ID] = key
	}
	return current.command
}

// repeat returns the commands that still await their status at now, and those
// that have just expired without one. It forgets the runs that are over.
func (r *responder) repeat(now time.Time) (again, unanswered []wire.Command) {
	for key, current := range r.runs {
		switch {
		case !now.Before(current.over):
			r.drop(key)
		case current.answered:
		case now.Before(current.expires):
			again = append(again, current.command)
		default:
			current.answered = true
			unanswered = append(unanswered, current.command)
		}
	}
	return again, unanswered
}

func (r *responder) drop(key answer) {
	if current := r.runs[key]; current != nil {
		delete(r.sent, current.command.ID)
		delete(r.runs, key)
	}
}

// What a status does.
type outcome uint8

const (
	unchanged outcome = iota
	succeeded
	failed
	overruled
)

var errStatus = errors.New("the status does not match its command")

// status takes a controller's answer. since is when the incident was raised.
func (r *responder) status(now time.Time, from wire.Topic, s wire.Status) (o outcome, since time.Time, err error) {
	key, ours := r.sent[s.ID]
	if !ours {
		return unchanged, time.Time{}, nil
	}
	if from.Name != key.controller || s.Controller != key.controller || s.Server != key.server ||
		s.Command != key.command || from.Kind != statusKind(key.command) {
		return unchanged, time.Time{}, errStatus
	}
	current := r.runs[key]
	first := !current.answered
	switch {
	case s.Status == wire.StatusFailure:
		o = failed
	case s.Status != wire.StatusSuccess:
		return unchanged, time.Time{}, errStatus
	case s.State == wire.StateStopped:
		o = overruled
	case first:
		o = succeeded
	}
	current.answered = true
	if o == failed || o == overruled {
		if current.ended { // answered again: the cool-down counts from the first
			return unchanged, time.Time{}, nil
		}
		current.ended = true
		current.over = now.Add(current.coolDown)
	}
	return o, current.incident, nil
}

func statusKind(command string) wire.Kind {
	if command == wire.ScaleUpServers {
		return wire.KindScaling
	}
	return wire.KindRateLimiting
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
