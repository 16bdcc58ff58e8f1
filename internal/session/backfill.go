package session

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"levee/envelope"
	"levee/internal/spool"
	"levee/internal/wire"
	"levee/pki"
)

const (
	// patience is how old a message is before it is sent again as an original,
	// and how long a backfill waits for its answer at first.
	patience = replayAge
	// lastPatience is how long it waits at last. A recorder that is away is not
	// asked by every sender at once, and not in vain each few seconds.
	lastPatience = 5 * time.Minute
	// spread is over how long senders begin to send again what a recorder missed
	// that has come back.
	spread = 10 * time.Second
	// leastFill is what a backfill carries at first and after one that was not
	// answered, in bytes of base64; each answer doubles it.
	leastFill = 8 << 10
	// fillOverhead is what a backfill has around its originals, at most.
	fillOverhead = 1 << 10
)

// filler sends one backfill after the other. outbox.mu guards it.
type filler struct {
	class
	number uint64         // of the last backfill
	last   envelope.Nonce // of its last original; zero if it was answered
	raw    []byte         // of it; nil if it was answered or is not worth sending again
	time   int64          // its ts
	made   time.Time
	retry  time.Time     // when it counts as lost
	wait   time.Duration // for the answer to the next one
	room   int           // for originals, in bytes of base64
	heard  bool          // the recorder has acknowledged something since the start
	more   chan struct{} // holds a token when the next one may be due
}

// store hands a sealed message to the spool and to the ledger: it will be there
// whenever the recorder lacks it. It must be called with o.mu held.
func (o *outbox) store(m outgoing) {
	o.ledger.deliver(sha256.Sum256(m.raw), len(m.raw))
	o.spool.Add(spool.Message{Seq: m.seq, Time: m.time, Raw: m.raw, Begins: o.ledger.first == m.seq, Digest: m.digest})
}

// thin gives up, and declares, what there is no room for. The declaration is
// kept before what it speaks of is removed. It must be called with o.mu held.
func (o *outbox) thin(now time.Time) {
	if o.spool == nil {
		return
	}
	for {
		loss, ok := o.spool.Excess()
		if !ok {
			return
		}
		o.ledger.giveUp(loss.Drops)
		_ = o.vouch(now) // what could not be signed is owed, and declared later
		o.spool.GiveUp(loss)
		o.drops(loss.Messages)
	}
}

// errAck is that an acknowledgement speaks of what was never sent.
var errAck = errors.New("it acknowledges what was never sent")

// released is what an acknowledgement brought.
type released struct {
	messages, byFill int
	first            bool // it is the first since the start
}

// believe takes an acknowledgement, but never more than was sent. A lower one
// than before changes nothing.
func (o *outbox) believe(a wire.Ack, now time.Time) (r released, err error) {
	boot, ok := envelope.ParseBoot(a.Boot)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !ok || boot > o.boot || boot == o.boot && (a.Seq > o.seq || a.Backfill > o.fill.number) {
		return released{}, errAck
	}
	f := &o.fill
	if boot == o.boot && f.last != (envelope.Nonce{}) && a.Backfill >= f.number {
		r.byFill = o.spool.ReleaseTo(f.last)
		f.last, f.raw, f.retry = envelope.Nonce{}, nil, now
		f.room = min(2*f.room, f.maxBytes-fillOverhead)
		select {
		case f.more <- struct{}{}:
		default:
		}
	}
	r.messages = r.byFill + o.spool.Release(boot, a.Seq)
	if f.wait > patience { // it was away
		soon := now.Add(rand.N(spread))
		if f.last != (envelope.Nonce{}) && soon.Before(f.made.Add(patience)) {
			soon = f.made.Add(patience)
		}
		if soon.Before(f.retry) {
			f.retry = soon
		}
	}
	f.wait = patience
	r.first, f.heard = !f.heard, true
	return r, nil
}

// refill seals the next backfill, if one is due and there is something to send.
// It reads the disk, and holds up nobody meanwhile. It is called by one goroutine.
func (o *outbox) refill(now time.Time) error {
	o.mu.Lock()
	f := &o.fill
	if now.Before(f.retry) {
		o.mu.Unlock()
		return nil
	}
	if f.last != (envelope.Nonce{}) { // no answer came
		f.last, f.raw, f.room = envelope.Nonce{}, nil, leastFill
		f.wait = min(2*f.wait, lastPatience)
	}
	room := f.room
	o.mu.Unlock()
	batch, err := o.spool.Oldest(room, wire.MaxOriginals, now.Add(-patience).UnixMilli(), func(n int) int { return base64.RawURLEncoding.EncodedLen(n) + len(`"",`) })
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.thin(now) // declares what cannot be read
		return fmt.Errorf("reading what the recorder lacks: %w", err)
	}
	if len(batch.Envelopes) == 0 {
		return nil
	}
	from, ok := o.spool.Holds()
	if !ok {
		from = o.seq + 1
	}
	payload := wire.Backfill{Timestamp: seconds(now), From: from}
	for _, raw := range batch.Envelopes {
		payload.Envelopes = append(payload.Envelopes, raw)
	}
	raw, err := o.sealFill(&payload, now)
	if err != nil {
		f.retry = now.Add(f.wait)
		return fmt.Errorf("sealing a backfill: %w", err)
	}
	if len(raw) > f.maxBytes { // of one original: it never fits
		o.drops(o.spool.ReleaseTo(batch.Last))
		return fmt.Errorf("a backfill with message %s-%d has %d bytes, and its class holds %d", envelope.FormatBoot(batch.Last.Boot), batch.Last.Seq, len(raw), f.maxBytes)
	}
	f.number++
	f.last, f.raw, f.time, f.made, f.retry = batch.Last, raw, now.UnixMilli(), now, now.Add(f.wait)
	for _, c := range o.cursors {
		c.nudge()
	}
	return nil
}

// sealFill seals the next backfill, which has a counter of its own.
func (o *outbox) sealFill(payload *wire.Backfill, now time.Time) ([]byte, error) {
	b, err := wire.Encode(payload)
	if err != nil {
		return nil, err
	}
	return envelope.Append(nil, envelope.Header{KeyID: o.kid, Time: now.UnixMilli(),
		Nonce: envelope.Nonce{Boot: o.boot, Seq: o.fill.number + 1}, Topic: o.fill.topic}, b, o.key, nil)
}

// nextFill returns the backfill that the line of c has not sent. It comes after
// every message that waits: what is late can be later. It must be called with
// o.mu held.
func (o *outbox) nextFill(c *cursor, now time.Time) (outgoing, bool) {
	f := &o.fill
	m := outgoing{name: f.topic, raw: f.raw, time: f.time}
	if f.raw == nil || c.filled == f.number || !m.fresh(now) {
		return outgoing{}, false
	}
	c.filled = f.number
	return m, true
}

func newFiller(c class) filler {
	return filler{class: c, wait: patience, room: leastFill, more: make(chan struct{}, 1)}
}

// acksTopic returns the filter of what recorders acknowledge to this sender.
func acksTopic(site, role, name string) string {
	return wire.Topic{Kind: wire.KindAck, Site: site, Name: "+", PeerRole: role, PeerName: name}.String()
}

// openAcks has the session told what the recorder has kept, and returns whether
// policy lets it send again what that lacks.
func (s *Session) openAcks() bool {
	id := s.config.Bundle.Identity
	filter := acksTopic(id.Site, string(id.Role), id.Name)
	if s.config.Ring == nil || !s.rights.MaySubscribe(filter) || !s.rights.MayPublish(s.fillTopic()) || !s.rights.MayPublish(s.digestTopic()) {
		return false
	}
	if !slices.Contains(s.filters, filter) {
		s.filters = append(slices.Clone(s.filters), filter)
	}
	return true
}

func (s *Session) fillTopic() string {
	id := s.config.Bundle.Identity
	return wire.Topic{Kind: wire.KindBackfill, Site: id.Site, Role: string(id.Role), Name: id.Name}.String()
}

// acknowledge believes an acknowledgement that passed every check of its
// envelope.
func (s *Session) acknowledge(d Delivery) error {
	a, err := wire.ParseAck(d.Payload)
	if err != nil {
		return errors.Join(envelope.BadContent, err)
	}
	r, err := s.outbox.believe(a, d.Received)
	if err != nil {
		s.config.Log.Error("acknowledgement refused", slog.Any("error", err), slog.String("recorder", d.Topic.Name),
			slog.String("boot", a.Boot), slog.Uint64("seq", a.Seq), slog.Uint64("backfill", a.Backfill))
		return envelope.BadContent
	}
	s.acknowledged.Add(1)
	s.backfilled.Add(uint64(r.byFill))
	if r.first {
		s.config.Log.Info("the recorder acknowledges", slog.String("recorder", d.Topic.Name))
	}
	return nil
}

// silence is for how long the recorder may acknowledge nothing before the log
// says so.
const silence = time.Minute

// backfill sends again what the recorder lacks, until done is closed. What it
// finds out about its silence it says once, and once more when that ends.
func (s *Session) backfill(done <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	silent := false
	for {
		select {
		case <-done:
			return
		case <-s.outbox.fill.more:
		case <-tick.C:
		}
		st := s.outbox.spool.Stats()
		switch {
		case !silent && st.Oldest > silence:
			silent = true
			s.config.Log.Warn("the recorder lacks messages; they are kept, and beyond the bound the oldest are given up",
				slog.Int("messages", st.Messages), slog.Int64("bytes", st.Bytes), slog.Duration("oldest", st.Oldest.Round(time.Second)))
		case silent && st.Oldest < silence:
			silent = false
			s.config.Log.Info("the recorder has everything again")
		}
		if !s.Online() {
			continue
		}
		if err := s.outbox.refill(time.Now()); err != nil {
			s.config.Log.Error("no backfill", slog.Any("error", err))
		}
	}
}

// sign signs digests until done is closed, connected or not: what is sealed is
// kept, and a range ends before it is too large to be given up whole.
func (s *Session) sign(done <-chan struct{}, due <-chan time.Time) {
	for {
		select {
		case <-done:
			return
		case now := <-due:
			s.digest(now)
		}
	}
}

// keeps reports whether this part keeps its messages until the recorder has
// acknowledged them.
func (s *Session) keeps() bool { return s.outbox != nil && s.outbox.spool != nil }

// DirOutbox is where messages that the recorder has not acknowledged are kept, in
// the state directory.
const DirOutbox = "outbox"

// Bytes of messages that are kept where the configuration says nothing.
const (
	sensorOutbox = 32 << 20
	serverOutbox = 256 << 20
)

func (s *Session) openSpool(boot uint64) (*spool.Spool, error) {
	b := s.config.Bundle
	most := b.OutboxBytes
	if most == 0 && b.Identity.Role == pki.RoleSensor {
		most = sensorOutbox
	} else if most == 0 {
		most = serverOutbox
	}
	return spool.Open(spool.Config{Dir: filepath.Join(b.State, DirOutbox), Sender: b.Identity.Sender(), Boot: boot, Max: most, Log: s.config.Log})
}

// Outbox returns the figures of what is kept until the recorder has acknowledged
// it; ok is false for a part that keeps nothing.
func (s *Session) Outbox() (st spool.Stats, ok bool) {
	if !s.keeps() {
		return spool.Stats{}, false
	}
	st = s.outbox.spool.Stats()
	st.Acknowledgements, st.Backfilled = s.acknowledged.Load(), s.backfilled.Load()
	return st, true
}
