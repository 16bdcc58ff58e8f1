package recorder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"levee/internal/durable"
	"levee/internal/metrics"
	"levee/internal/records"
	"levee/internal/site"
	"levee/internal/translog"
	"levee/internal/translog/proof"
	"levee/internal/translog/witness"
	"levee/pki"
	"levee/services/recorder/logserver"
)

// witnessing is what a recorder has to do with those of other sites: its log is
// cosigned by them, and theirs by it. Each part of it may be nil; a nil witnessing
// does nothing.
type witnessing struct {
	transparency translog.Config
	verifier     note.Verifier
	client       *witness.Client  // has our log cosigned
	witness      *witness.Witness // cosigns others'
	server       *logserver.Server
	log          *slog.Logger
}

// openWitnessing reads what site document and configuration say of witnesses. v
// judges the certificates of those who connect.
func openWitnessing(settings records.Settings, bundle *site.Bundle, v *pki.Verifier, c translog.Config) (*witnessing, error) {
	w := &witnessing{transparency: c, log: c.Log}
	interval := settings.WitnessInterval
	if interval == 0 {
		interval = records.DefaultWitnessInterval
	}
	if interval < time.Second || interval > time.Hour {
		return nil, fmt.Errorf("opening witnesses: witness_interval: %s is not 1s to 1h", interval)
	}
	var err error
	if w.verifier, err = proof.NewVerifier(c.Origin, c.Key.VKey()); err != nil {
		return nil, fmt.Errorf("opening witnesses: %w", err)
	}
	if err := w.openClient(settings, bundle, v, interval); err != nil {
		return nil, fmt.Errorf("opening witnesses: %w", err)
	}
	recorders, err := w.openWitness(settings, bundle, interval)
	if err != nil {
		return nil, fmt.Errorf("opening witnesses: %w", err)
	}
	if settings.LogListen != "" {
		w.server, err = logserver.Open(logserver.Config{Listen: settings.LogListen, Store: bundle.Credentials, Verifier: v, Site: bundle.Identity.Site,
			Log: c.Dir, Checkpoint: w.shown(settings, bundle.Document), Witness: w.witness, Recorders: recorders, Logger: c.Log})
		if err != nil {
			return nil, err
		}
	}
	return w, nil
}

// openClient has our log cosigned, where the configuration says by whom.
func (w *witnessing) openClient(settings records.Settings, bundle *site.Bundle, v *pki.Verifier, interval time.Duration) error {
	document := bundle.Document
	if len(document.WitnessKeys) == 0 && len(settings.Witnesses) == 0 {
		return nil
	}
	keys, err := proof.Quorum{Witnesses: document.WitnessKeys, Need: document.Needed()}.Open()
	if err != nil {
		return fmt.Errorf("the site document: %w", err)
	}
	known := make(map[string]*proof.Witness)
	for _, key := range keys {
		known[key.Name()] = key
	}
	var peers []witness.Peer
	for _, s := range settings.Witnesses {
		key := known[s.Name]
		if key == nil {
			return fmt.Errorf("%q is asked twice, or the site document has no key of it", s.Name)
		}
		delete(known, s.Name)
		owner, err := records.WitnessOwner(s.Name, bundle.Identity.TrustDomain)
		if err != nil {
			return err
		}
		if owner.Site == bundle.Identity.Site {
			return fmt.Errorf("%q is of this site: whoever rolls the log back rolls it back too", s.Name)
		}
		peers = append(peers, witness.Peer{Key: key, Ask: witness.Over(dialer(bundle.Credentials, v, owner), "https://"+s.Address)})
	}
	if len(peers) < document.Needed() {
		w.log.Error("the site document needs more witnesses than the configuration asks: no checkpoint will have enough cosignatures",
			slog.Int("need", document.Needed()), slog.Int("asked", len(peers)))
	}
	if len(peers) == 0 {
		return nil
	}
	w.client, err = witness.NewClient(witness.ClientConfig{Tiles: os.DirFS(w.transparency.Dir), Verifier: w.verifier, Peers: peers,
		Need: document.Needed(), Path: settings.Cosigned(), Interval: interval, Log: w.log}, time.Now())
	return err
}

// dialer returns a client that talks to one recorder and nobody else.
func dialer(store *pki.Store, v *pki.Verifier, owner pki.Identity) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: pki.ClientConfig(store, v, records.LogHost(owner.Host()), func(id pki.Identity) error {
				if id != owner {
					return fmt.Errorf("it is not %s", owner)
				}
				return nil
			}),
			// Seldom enough that a new handshake, with whatever certificate is
			// current, is the better way.
			DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("a witness does not redirect") },
	}
}

// openWitness cosigns the logs that the site document lists, and returns whose
// they are.
func (w *witnessing) openWitness(settings records.Settings, bundle *site.Bundle, interval time.Duration) (map[pki.Identity]string, error) {
	logs := bundle.Document.WitnessedLogs
	if len(logs) == 0 {
		return nil, nil
	}
	if settings.LogListen == "" {
		w.log.Error("the site document lists logs to witness, and the configuration has no log_listen: they get no cosignature", slog.Int("logs", len(logs)))
		return nil, nil
	}
	key, err := witness.ReadKey(settings.WitnessKey())
	if err != nil {
		return nil, err
	}
	if own := records.WitnessName(bundle.Identity); key.Name() != own {
		return nil, fmt.Errorf("%s is the key of %q, not of %q", settings.WitnessKey(), key.Name(), own)
	}
	w.witness, err = witness.Open(witness.Config{Key: key, Logs: logs, Dir: settings.Witnessed(), Silence: witness.SilenceAfter(interval), Log: w.log}, time.Now())
	if err != nil {
		return nil, err
	}
	recorders := make(map[pki.Identity]string)
	for _, origin := range w.witness.Origins() {
		owner, err := records.LogOwner(origin, bundle.Identity.TrustDomain)
		if err != nil {
			return nil, err
		}
		if owner.Site == bundle.Identity.Site {
			return nil, fmt.Errorf("the log %q is of this site: it cannot be its own witness", origin)
		}
		recorders[owner] = origin
	}
	return recorders, nil
}

// shown returns what reads the checkpoint that auditors are shown: the newest
// that enough witnesses have cosigned, or, of a site without witnesses, the newest.
func (w *witnessing) shown(settings records.Settings, document *site.Document) func() (logserver.Checkpoint, error) {
	path := filepath.Join(w.transparency.Dir, proof.CheckpointFile)
	if len(document.WitnessKeys) > 0 {
		path = settings.Cosigned()
	}
	return func() (logserver.Checkpoint, error) {
		raw, err := durable.ReadFile(path, maxHead)
		if errors.Is(err, fs.ErrNotExist) {
			return logserver.Checkpoint{}, nil
		}
		if err != nil {
			return logserver.Checkpoint{}, err
		}
		cp, err := proof.OpenCheckpoint(raw, w.verifier)
		return logserver.Checkpoint{Note: cp.Note, Size: cp.Tree.N}, err
	}
}

// around serves while inner runs, and does not let a log be opened that a witness
// contradicts.
func (w *witnessing) around(ctx context.Context, inner func(context.Context) error) error {
	serving, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	if w.server != nil {
		w.log.Info("the log is served", slog.String("listen", w.server.Address()), slog.Bool("witness", w.witness != nil))
		running.Go(func() {
			// Recording is more than being read: it goes on.
			if err := w.server.Run(serving); err != nil {
				w.log.Error("the log is served no more", slog.Any("error", err))
			}
		})
	}
	if w.witness != nil {
		running.Go(func() { w.witness.Run(serving) })
	}
	err := inner(ctx)
	stop()
	running.Wait()
	if contradiction := (*witness.Contradiction)(nil); errors.As(err, &contradiction) {
		w.log.Error("this site's log does not continue what its own key signed: it was put back, or another one was put in its place. It stays shut until the right one is back",
			slog.String("says", contradiction.Source), slog.Int64("signed", contradiction.Held.Tree.N), slog.Int64("entries", contradiction.Ours.Tree.N))
		err = errors.Join(err, translog.HoldTo(w.transparency, contradiction.Held.Note))
	}
	return err
}

// ask has the newest checkpoint that was published judged by the witnesses,
// before the log is opened and anything is signed that continues it. A witness
// that does not answer keeps no log shut.
func (w *witnessing) ask(ctx context.Context) error {
	if w.client == nil {
		return nil
	}
	raw, err := durable.ReadFile(filepath.Join(w.transparency.Dir, proof.CheckpointFile), maxHead)
	if err != nil {
		return nil // opening the log says what is wrong with it
	}
	cp, err := proof.OpenCheckpoint(raw, w.verifier)
	if err != nil {
		return nil
	}
	return w.client.Ask(ctx, cp)
}

// run has the log cosigned until ctx ends or a witness contradicts it.
func (w *witnessing) run(ctx context.Context, log witness.Log) error {
	if w.client == nil {
		return nil
	}
	return w.client.Run(ctx, log)
}

// close releases what openWitnessing opened, for a part that will not run.
func (w *witnessing) close() error {
	if w.server == nil {
		return nil
	}
	return w.server.Close()
}

// families are its figures.
func (w *witnessing) families() (all []metrics.Family) {
	if w.client != nil {
		all = append(all,
			metrics.Family{Name: "levee_log_cosigned_entries", Help: "Entries of the log's newest checkpoint that this witness has cosigned.", Type: metrics.Gauge, Label: "witness",
				Collect: func(add func(string, float64)) {
					for _, f := range w.client.Figures() {
						add(f.Witness, float64(f.Size))
					}
				}},
			metrics.Single("levee_log_witnessed_age_seconds", "How long ago enough witnesses had cosigned the log, since the start if they never have.", metrics.Gauge,
				func() float64 { return w.client.Age(time.Now()).Seconds() }))
	}
	if w.witness != nil {
		all = append(all,
			metrics.Family{Name: "levee_witness_requests_total", Help: "Checkpoints of other sites' logs that were to be cosigned, by outcome (docs/records.md).", Type: metrics.Counter, Label: "outcome",
				Collect: func(add func(string, float64)) {
					for _, o := range witness.Outcomes() {
						add(string(o), float64(w.witness.Count(o)))
					}
				}},
			metrics.Family{Name: "levee_witness_alarms_total", Help: "Logs that contradict what they signed, or are not heard of, by reason (docs/records.md).", Type: metrics.Counter, Label: "reason",
				Collect: func(add func(string, float64)) {
					for _, a := range witness.Alarms() {
						add(string(a), float64(w.witness.Alarmed(a)))
					}
				}},
			metrics.Family{Name: "levee_witness_log_age_seconds", Help: "For how long a log that is witnessed was not heard of.", Type: metrics.Gauge, Label: "log",
				Collect: func(add func(string, float64)) {
					for _, origin := range w.witness.Origins() {
						add(origin, w.witness.Age(origin, time.Now()).Seconds())
					}
				}})
	}
	if w.server != nil {
		all = append(all, metrics.Family{Name: "levee_log_requests_total", Help: "Requests and connections at the log's server, by outcome (docs/records.md).", Type: metrics.Counter, Label: "outcome",
			Collect: func(add func(string, float64)) {
				for _, o := range logserver.Outcomes() {
					add(string(o), float64(w.server.Count(o)))
				}
			}})
	}
	return all
}
