package witness

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"levee/internal/durable"
	"levee/internal/translog/proof"
)

// maxSilent is for how many intervals a log may go without enough cosignatures,
// and a witnessed log unheard of, before that is an alarm.
const maxSilent = 30

// SilenceAfter returns how long nothing may be heard where each interval
// something should be.
func SilenceAfter(interval time.Duration) time.Duration { return maxSilent * interval }

// Peer is one witness of our log.
type Peer struct {
	Key *proof.Witness
	// Ask sends a request to a resource of the witness.
	Ask Asker
}

// ClientConfig says whose log is cosigned by whom.
type ClientConfig struct {
	Tiles    fs.FS         // the log's directory
	Verifier note.Verifier // of the log
	Peers    []Peer
	Need     int // how many of them
	// Path is the file for the newest checkpoint that enough witnesses have
	// cosigned.
	Path     string
	Interval time.Duration
	Log      *slog.Logger
}

// Client has one log cosigned. Ask and Run are called by one goroutine at a time.
type Client struct {
	config ClientConfig
	peers  []*peer
	opened time.Time

	mu        sync.Mutex
	witnessed proof.Checkpoint // the newest that enough have cosigned
	when      time.Time
	late      bool // it was told that none was for long
}

// peer is what is known of a witness.
type peer struct {
	Peer
	size    int64 // that it has cosigned, as far as we know
	failing bool

	mu sync.Mutex
	at int64     // the size that it cosigned last; for Figures
	by time.Time // and when
}

// NewClient reads what was cosigned before.
func NewClient(c ClientConfig, now time.Time) (*Client, error) {
	if c.Tiles == nil || c.Verifier == nil || c.Path == "" || c.Interval <= 0 || c.Log == nil || len(c.Peers) == 0 || c.Need < 1 {
		return nil, errors.New("configuring witnesses: log, witnesses, file, interval or logger is missing")
	}
	client := &Client{config: c, opened: now}
	for _, p := range c.Peers {
		if p.Key == nil || p.Ask == nil {
			return nil, errors.New("configuring witnesses: one has no key or no address")
		}
		client.peers = append(client.peers, &peer{Peer: p})
	}
	raw, err := durable.ReadFile(c.Path, maxHeld)
	if errors.Is(err, fs.ErrNotExist) {
		return client, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what witnesses cosigned last: %w", err)
	}
	cp, err := proof.OpenCheckpoint(raw, c.Verifier)
	if err != nil {
		return nil, fmt.Errorf("reading what witnesses cosigned last: %s: %w: remove it, and the next round writes it anew", c.Path, err)
	}
	client.witnessed = cp
	for _, p := range client.peers {
		by, err := proof.Cosignatures(cp, []*proof.Witness{p.Key})
		if err == nil && len(by) == 1 {
			p.size, p.at, p.by = cp.Tree.N, cp.Tree.N, by[0].Time
		}
	}
	return client, nil
}

// Contradiction says that a log does not continue what its own key signed.
type Contradiction struct {
	Source string // who kept it: a witness's name, or the path of a file
	// Held is the checkpoint that was kept, Ours the newest of the log at hand.
	Held, Ours proof.Checkpoint
}

func (c *Contradiction) Error() string {
	what := "it has another history: a fork"
	if c.Held.Tree.N > c.Ours.Tree.N {
		what = "it was rolled back"
	}
	return fmt.Sprintf("%s has a checkpoint of %d entries that this log's key signed, and the log of %d entries at hand does not continue it: %s",
		c.Source, c.Held.Tree.N, c.Ours.Tree.N, what)
}

// Ask asks every witness to cosign cp, once, and keeps it when enough have. The
// error is a Contradiction: everything else is logged.
func (c *Client) Ask(ctx context.Context, cp proof.Checkpoint) error {
	contradiction := (*Contradiction)(nil)
	if err := c.compare(c.config.Path, c.witnessedNow(), cp); errors.As(err, &contradiction) {
		return contradiction
	} else if err != nil {
		c.config.Log.Warn("the log cannot be held against what witnesses have cosigned", slog.Any("error", err))
		return nil
	}
	lines, errs := make([]string, len(c.peers)), make([]error, len(c.peers))
	var asking sync.WaitGroup
	for i, p := range c.peers {
		asking.Go(func() { lines[i], errs[i] = c.ask(ctx, p, cp) })
	}
	asking.Wait()
	signed := string(cp.Note)
	count := 0
	for i, p := range c.peers {
		if errors.As(errs[i], &contradiction) {
			return contradiction
		}
		c.settle(ctx, p, errs[i])
		if errs[i] == nil {
			signed += lines[i]
			count++
		}
	}
	if count >= c.config.Need {
		c.publish(cp, []byte(signed))
	}
	c.remind(ctx, time.Now())
	return nil
}

// settle tells the first failure of a witness in a row, and its end.
func (c *Client) settle(ctx context.Context, p *peer, err error) {
	switch {
	case ctx.Err() != nil:
		return
	case err != nil && !p.failing:
		c.config.Log.Warn("a witness does not cosign", slog.String("witness", p.Key.Name()), slog.Any("error", err))
	case err == nil && p.failing:
		c.config.Log.Info("a witness cosigns again", slog.String("witness", p.Key.Name()))
	}
	p.failing = err != nil
}

// publish keeps a checkpoint that enough witnesses have cosigned.
func (c *Client) publish(cp proof.Checkpoint, signed []byte) {
	cp.Note = signed
	if err := durable.WriteFile(c.config.Path, signed, 0o644); err != nil {
		c.config.Log.Error("a checkpoint was cosigned, and cannot be kept", slog.Any("error", err))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.witnessed, c.when = cp, time.Now()
	if c.late {
		c.late = false
		c.config.Log.Info("enough witnesses cosign the log again", slog.Int64("entries", cp.Tree.N))
	}
}

// remind raises an alarm when too few witnesses have cosigned for long.
func (c *Client) remind(ctx context.Context, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	since := c.when
	if since.IsZero() {
		since = c.opened
	}
	if age := now.Sub(since); age >= SilenceAfter(c.config.Interval) && !c.late && ctx.Err() == nil {
		c.late = true
		c.config.Log.Error("too few witnesses cosign the log", slog.Int("need", c.config.Need), slog.Int("of", len(c.peers)), slog.Duration("age", age))
	}
}

func (c *Client) witnessedNow() proof.Checkpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.witnessed
}

// compare returns a Contradiction if cp does not continue a checkpoint that was
// kept, and another error if that cannot be told. A zero one is continued by all.
func (c *Client) compare(source string, held, cp proof.Checkpoint) error {
	if held.Note == nil {
		return nil
	}
	if held.Tree.N <= cp.Tree.N {
		if err := proof.Consistent(c.config.Tiles, held.Tree, cp.Tree); !errors.Is(err, proof.ErrInconsistent) {
			return err
		}
	}
	return &Contradiction{Source: source, Held: held, Ours: cp}
}

// Log is the log that is witnessed; *translog.Log is one.
type Log interface {
	Checkpoint(ctx context.Context) (proof.Checkpoint, error)
}

// Run asks each interval until ctx ends. It returns earlier, with a
// Contradiction, when the log turns out not to continue what its key signed.
func (c *Client) Run(ctx context.Context, log Log) error {
	tick := time.NewTicker(c.config.Interval)
	defer tick.Stop()
	for {
		if cp, err := log.Checkpoint(ctx); err == nil { // the log itself says why it has none
			if err := c.Ask(ctx, cp); err != nil && ctx.Err() == nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Figure is what one witness has cosigned last.
type Figure struct {
	Witness string
	Size    int64
	Time    time.Time // zero: nothing
}

// Figures returns what each witness has cosigned last.
func (c *Client) Figures() []Figure {
	var all []Figure
	for _, p := range c.peers {
		p.mu.Lock()
		all = append(all, Figure{p.Key.Name(), p.at, p.by})
		p.mu.Unlock()
	}
	return all
}

// Age returns how long ago enough witnesses had cosigned, since the start if
// they never have.
func (c *Client) Age(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.when.IsZero() {
		return now.Sub(c.opened)
	}
	return now.Sub(c.when)
}

// cosignature takes the witness's own signature line out of an answer.
func cosignature(cp proof.Checkpoint, key *proof.Witness, answer []byte) (string, error) {
	text := proof.CheckpointText(cp.Origin, cp.Tree) + "\n" + string(answer)
	n, err := note.Open([]byte(text), note.VerifierList(key))
	if err != nil {
		return "", fmt.Errorf("its cosignature: %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
	if err != nil {
		return "", fmt.Errorf("its cosignature: %w", err)
	}
	return signatureLine(key.Name(), raw), nil // in its one spelling
}
