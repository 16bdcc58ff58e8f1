package recorder

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"levee/internal/metrics"
	"levee/internal/session"
	"levee/internal/siem"
	"levee/internal/translog"
	"levee/pki"
	"levee/services/recorder/journals"
	"levee/services/recorder/ledger"
	"levee/services/recorder/notable"
)

// Evidence is told what other systems should know of; *notable.Events is one. It
// does not wait.
type Evidence interface {
	Refused(session.Refusal)
	Holes(now time.Time, holes []ledger.Hole, fate func(ledger.Hole) ledger.Fate)
}

// outward tells a SIEM of what happens. A nil one tells nobody.
type outward struct {
	sender *siem.Sender
	events *notable.Events
}

// openOutward reads what the configuration says of a SIEM.
func openOutward(settings siem.Settings, id pki.Identity, log *slog.Logger) (*outward, error) {
	if !settings.Configured() {
		return nil, nil
	}
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	// Its own log is not told of: that the SIEM is away is nothing to tell it.
	sender, err := siem.New(siem.Config{Settings: settings, Host: id.Host(), Version: version, Log: log})
	if err != nil {
		return nil, err
	}
	return &outward{sender, notable.New(id.Site, sender)}, nil
}

// logger returns a logger whose errors are told of.
func (o *outward) logger(log *slog.Logger) *slog.Logger {
	if o == nil {
		return log
	}
	return slog.New(o.events.Handler(log.Handler()))
}

// evidence is what a Recorder tells.
func (o *outward) evidence() Evidence {
	if o == nil {
		return nil
	}
	return o.events
}

// around sends from before inner begins until it has told how inner ended.
func (o *outward) around(ctx context.Context, inner func(context.Context) error) error {
	if o == nil {
		return inner(ctx)
	}
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var running sync.WaitGroup
	running.Go(func() { o.sender.Run(sending) })
	o.events.Started(time.Now())
	err := inner(ctx)
	o.events.Stopped(time.Now(), err)
	stop()
	running.Wait()
	return err
}

// log returns the log as those see it whose entries are told of.
func (o *outward) log(l *translog.Log) journals.Log {
	if o == nil {
		return l
	}
	return tellingLog{l, o.events}
}

// tellingLog tells of entries once they are part of the log, and of no others.
type tellingLog struct {
	journals.Log
	events *notable.Events
}

func (l tellingLog) AppendAll(ctx context.Context, entries [][]byte) ([]uint64, error) {
	indices, err := l.Log.AppendAll(ctx, entries)
	if err == nil {
		l.events.Logged(entries)
	}
	return indices, err
}

// families are its figures.
func (o *outward) families() []metrics.Family {
	if o == nil {
		return nil
	}
	return []metrics.Family{
		metrics.Single("levee_siem_sent_total", "Security events that were sent to the SIEM.", metrics.Counter, func() float64 { return float64(o.sender.Sent()) }),
		metrics.Single("levee_siem_dropped_total", "Security events that found no room while the SIEM was away.", metrics.Counter, func() float64 { return float64(o.sender.Dropped()) }),
		metrics.Single("levee_siem_connected", "1 while connected to the SIEM.", metrics.Gauge, func() float64 {
			if o.sender.Connected() {
				return 1
			}
			return 0
		}),
	}
}

const (
	holesEvery = 10 * time.Second // how often what is missing is looked at,
	maxHoles   = 4096             // and of how many senders
)

// tellRefused tells of a message that failed a check.
func (r *Recorder) tellRefused(refusal session.Refusal) {
	if r.config.Evidence != nil {
		r.config.Evidence.Refused(refusal)
	}
}

// tellHoles tells what is missing, now and then.
func (r *Recorder) tellHoles(now time.Time) {
	if since := now.Sub(r.looked); r.config.Evidence == nil || since >= 0 && since < holesEvery {
		return
	}
	r.looked = now
	r.config.Evidence.Holes(now, r.held.ledger.Holes(maxHoles), r.held.ledger.Fate)
}
