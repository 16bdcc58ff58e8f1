package session

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/internal/clocks"
	"levee/internal/renewal"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/revocation"
	"levee/policies"
)

// DefaultDigest is how often a sender signs for what it sent.
const DefaultDigest = time.Minute

// Ring is what a part seals and opens with: *keys.Ring, or *ownkey.Ring of one
// that was issued no key but its own.
type Ring interface {
	// Own returns the part's own key and its kid.
	Own() (*envelope.Key, envelope.KeyID)
	// Holds reports whether the MACs of a role's senders can be checked.
	Holds(pki.Role) bool
	// Open opens a message with the key that its kid asks for.
	Open(raw []byte, max int) (envelope.Message, error)
	// OpenAck opens an acknowledgement to the part itself.
	OpenAck(raw []byte, max int) (envelope.Message, error)
}

// Config is what a session needs.
type Config struct {
	Bundle *site.Bundle
	// Ring holds the envelope keys of the bundle. People have none.
	Ring Ring
	// Filters are subscribed to on every connection, and nothing else is
	// handed on. Policy must grant each; one that the broker refuses all the
	// same fails the connection, loudly. Lists of revocations the session
	// subscribes to by itself, where policy grants them.
	Filters []string
	// Handle receives every message that passed, one at a time, until Run or
	// Around returns: also while the session drains.
	Handle func(Delivery)
	// Refused receives every message that did not; it may be nil. Each is
	// counted and logged in any case.
	Refused func(Refusal)
	// Digest is the interval of digests; zero means DefaultDigest.
	Digest time.Duration
	// Acks derives the keys of acknowledgements; only a recorder makes any.
	Acks AckKeys
	// Revocations are those of a process that runs them already, and that renews
	// the certificate and watches the kernel's clock as well. Nil: the session
	// does all that.
	Revocations *revocation.Set
	// Instance is 0 to 3: people may hold four sessions at once.
	Instance int
	Log      *slog.Logger
}

// Session is one part's connections to its site's brokers.
type Session struct {
	config   Config
	clientID string
	filters  []string // subscribed to
	verifier *pki.Verifier
	receiver receiver
	outbox   *outbox // nil for people: they hold no key to seal with
	rights   *policies.Rights
	lines    []*line
	refusals *tally
	clocks   *clocks.Watch
	kernel   *clocks.Kernel
	renewal  *renewal.Renewal // nil for people, who carry what they are given, and where another renews
	overflow atomic.Uint64
	dropped  atomic.Uint64
	// acknowledged counts acknowledgements, backfilled our messages that the
	// recorder has only from a backfill.
	acknowledged, backfilled atomic.Uint64
	online                   atomic.Int64  // lines that are connected and subscribed
	ready                    chan struct{} // closed at the first connection
	once                     sync.Once     // of ready
	last                     sync.Once     // of the digest at the end
	close                    func() error

	// accepting is held while one message is checked and handled, so that lines
	// take turns, and what two of them bring is handled in the order in which
	// it was accepted.
	accepting  sync.Mutex
	echoes     *echoes // nil if there is one line
	accepted   atomic.Uint64
	duplicates atomic.Uint64
}

// New checks the configuration, opens the replay windows and records this
// start's boot. It connects to nothing.
func New(c Config) (*Session, error) {
	s, err := open(c, time.Now())
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	return s, nil
}

func open(c Config, now time.Time) (*Session, error) {
	switch {
	case c.Bundle == nil || c.Log == nil:
		return nil, errors.New("it has no bundle or no logger")
	case len(c.Filters) > 0 && c.Handle == nil:
		return nil, errors.New("it subscribes and has no handler")
	case c.Digest != 0 && c.Digest < time.Second:
		return nil, errors.New("its digest interval is below a second")
	}
	id, skew := c.Bundle.Identity, c.Bundle.Policy.Skew()
	s := &Session{config: c, filters: c.Filters, verifier: c.Bundle.Verifier, clientID: id.ClientID(), rights: c.Bundle.Policy.Rights(id),
		refusals: newTally(c.Log, skew), clocks: clocks.NewWatch(skew, c.Log), kernel: clocks.NewKernel(c.Log), ready: make(chan struct{})}
	for _, f := range c.Filters {
		if !s.rights.MaySubscribe(f) {
			return nil, fmt.Errorf("policy does not let a %s subscribe to %q", id.Role, f)
		}
	}
	if c.Instance != 0 {
		if id.Role.Class() != pki.ClassPerson || c.Instance < 0 || c.Instance > 3 {
			return nil, errors.New("only people hold further sessions, numbered 1 to 3")
		}
		s.clientID += "_" + strconv.Itoa(c.Instance)
	}
	s.lines = newLines(s, id.Role, c.Bundle.Document.Brokers)
	s.echoes = newEchoes(len(s.lines), skew)
	if s.config.Digest == 0 {
		s.config.Digest = DefaultDigest
	}
	if err := checkRing(c.Ring, c.Bundle); err != nil {
		return nil, err
	}
	revocations, err := s.openRevocations(now)
	if err != nil {
		return nil, err
	}
	backfills := s.openAcks()
	s.receiver = receiver{site: id.Site, filters: s.filters, policy: c.Bundle.Policy, document: c.Bundle.Document, revocations: revocations,
		chains: newChains(c.Bundle.Verifier, c.Bundle.Root), keys: c.Ring, judges: len(c.Bundle.Policy.KeyRoles(id.Role)) > 0, clocks: s.clocks, skew: skew}
	if c.Ring == nil {
		// People look; what they see changes nothing that a replay could
		// exploit, and they start too often to wait out the skew each time.
		s.receiver.windows = replay.New(site.MaxSenders)
		s.close = sync.OnceValue(s.receiver.windows.Close)
		return s, nil
	}
	if s.receiver.windows, err = c.Bundle.OpenWindows(now); err != nil {
		return nil, err
	}
	s.close = sync.OnceValue(s.receiver.windows.Close)
	boot, err := nextBoot(c.Bundle.State, now, skew)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if c.Revocations == nil {
		if s.renewal, err = c.Bundle.Renewal(c.Log); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	key, kid := c.Ring.Own()
	s.outbox = &outbox{key: key, kid: kid, boot: boot, skew: skew, sign: c.Bundle.Signer, vouches: s.rights.MayPublish(s.digestTopic()),
		drops: s.countDropped, ledger: newLedger(boot), digests: class{s.digestTopic(), c.Bundle.Policy.Class(wire.KindDigest).MaxBytes}}
	if backfills {
		if s.outbox.spool, err = s.openSpool(boot); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.outbox.fill = newFiller(class{s.fillTopic(), c.Bundle.Policy.Class(wire.KindBackfill).MaxBytes})
	}
	return s, nil
}

// checkRing refuses a ring that does not fit the certificate, the site document
// or the policy: it would show only in what others do not accept, or in what this
// part could not check.
func checkRing(ring Ring, b *site.Bundle) error {
	id := b.Identity
	if id.Role.Class() == pki.ClassPerson {
		if ring != nil {
			return errors.New("a person holds no envelope keys")
		}
		return nil
	}
	if ring == nil {
		return errors.New("a machine needs its envelope keys")
	}
	const remedy = "provision its bundle again"
	_, kid := ring.Own()
	switch minimum := b.Document.MinimumGeneration(id.Sender()); {
	case kid.Sender() != id.Sender():
		return fmt.Errorf("the sender key is of %s, the certificate of %s", kid.Sender(), id.Sender())
	case kid.Generation < minimum:
		return fmt.Errorf("the sender key is of generation %d, the site document asks for %d: %s", kid.Generation, minimum, remedy)
	}
	for _, role := range b.Policy.KeyRoles(id.Role) {
		if !ring.Holds(role) {
			return fmt.Errorf("the bundle lacks the key of role %q, which policy grants a %s: %s", role, id.Role, remedy)
		}
	}
	return nil
}

// Close releases what New opened. Run does it too.
func (s *Session) Close() error { return s.close() }

// Publish seals payload for topic and queues it; it does not wait. Whether it
// is signed follows from the policy's class. It fails only on what would not
// arrive: a payload or topic outside the format, a topic that policy does not
// let this part publish on, a clock that went back behind the start.
func (s *Session) Publish(topic wire.Topic, payload any) error {
	if s.outbox == nil {
		return errors.New("publishing: this identity holds no key to seal with")
	}
	b, err := wire.Encode(payload)
	if err != nil {
		return fmt.Errorf("publishing on %s: %w", topic, err)
	}
	class := s.receiver.policy.Class(topic.Kind)
	if !class.Protected || !s.rights.MayPublish(topic.String()) {
		return fmt.Errorf("publishing on %s: policy does not let %s do it", topic, s.config.Bundle.Identity.Sender())
	}
	if err := s.outbox.put(topic.String(), b, class.Signed, class.MaxBytes, time.Now()); err != nil {
		return fmt.Errorf("publishing on %s: %w", topic, err)
	}
	return nil
}

// Ready is closed when the session is first connected and subscribed.
func (s *Session) Ready() <-chan struct{} { return s.ready }

// Online reports whether the session is connected and subscribed now, to one
// broker at least.
func (s *Session) Online() bool { return s.online.Load() > 0 }

// Brokers returns the site's brokers by name, and whether the session is connected
// to each and subscribed there.
func (s *Session) Brokers() map[string]bool {
	brokers := make(map[string]bool)
	for _, l := range s.lines {
		for _, b := range l.brokers {
			brokers[b.Name] = false
		}
	}
	for _, l := range s.lines {
		if to := l.up.Load(); to != nil {
			brokers[to.Name] = true
		}
	}
	return brokers
}

// Duplicates returns how many messages came by another broker after they had
// passed every check: neither accepted twice nor refused.
func (s *Session) Duplicates() uint64 { return s.duplicates.Load() }

// Refusals returns how many messages were refused, by reason.
func (s *Session) Refusals() map[envelope.Reason]uint64 { return s.refusals.snapshot() }

// Accepted returns how many protected messages passed every check.
func (s *Session) Accepted() uint64 { return s.accepted.Load() }

// Clocks returns what the session knows of its senders' clocks.
func (s *Session) Clocks() *clocks.Watch { return s.clocks }

// Kernel returns what the kernel says of this machine's clock.
func (s *Session) Kernel() *clocks.Kernel { return s.kernel }

// Revocations returns what this part knows to be revoked, nil where policy does
// not let it be told.
func (s *Session) Revocations() *revocation.Set { return s.receiver.revocations }

// Certificates returns what the session shows to brokers, and the root.
func (s *Session) Certificates() (leaf, authority, root *x509.Certificate) {
	return s.config.Bundle.Certificates()
}

// Windows returns the figures of the replay windows.
func (s *Session) Windows() replay.Stats { return s.receiver.windows.Stats() }

// Losses returns how many received messages found no room to be checked, and
// how many of our own were given up before they were delivered.
func (s *Session) Losses() (received, sent uint64) { return s.overflow.Load(), s.dropped.Load() }

func (s *Session) countDropped(n int) {
	after := s.dropped.Add(uint64(n))
	if before := after - uint64(n); bits.Len64(before) != bits.Len64(after) { // past a power of two
		s.config.Log.Warn("messages were given up", slog.Uint64("dropped", after))
	}
}

// RefuseContent counts and logs a message that passed every check and then did
// not hold what its topic carries.
func (s *Session) RefuseContent(d Delivery) {
	raw := d.Message.Raw
	if raw == nil { // a public message is no envelope
		raw = d.Payload
	}
	s.refuse(Refusal{Name: d.Name, Raw: raw, Reason: envelope.BadContent, Received: d.Received})
}

// Around runs the session from before inner begins until after it has returned,
// so that whatever inner publishes at its end is still sent. The end of the
// session ends inner.
func (s *Session) Around(ctx context.Context, inner func(context.Context) error) error {
	outer, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		running sync.WaitGroup
		failure error
	)
	running.Go(func() {
		defer cancel()
		failure = s.Run(outer)
	})
	err := inner(ctx)
	stop()
	running.Wait()
	return errors.Join(err, failure)
}

// Run connects, and reconnects with jitter, until ctx ends; then it sends what
// waits, signs for it, and returns. It is called once.
func (s *Session) Run(ctx context.Context) error {
	done := make(chan struct{})
	var workers, lines sync.WaitGroup
	workers.Go(func() { site.KeepWindows(done, s.receiver.windows, s.receiver.skew, s.config.Log) })
	if s.outbox != nil && s.config.Revocations == nil { // a person looks, and did not ask about this machine
		workers.Go(func() { s.kernel.Run(done) })
		workers.Go(func() { s.renewal.Run(ctx) })
		if set := s.Revocations(); set != nil {
			workers.Go(func() { set.Run(done) })
		}
	}
	// One ticker for all connections: however short each of them is, digests
	// come. What is kept until the recorder has it is vouched for without any.
	digest := time.NewTicker(s.config.Digest)
	defer digest.Stop()
	due := digest.C
	if s.keeps() {
		due = nil
		workers.Go(func() { s.outbox.spool.Run(done) })
		workers.Go(func() { s.backfill(done) })
		workers.Go(func() { s.sign(done, digest.C) })
	}
	for _, l := range s.lines {
		workers.Go(func() { l.receive(done) })
		lines.Go(func() { l.run(ctx, due) })
	}
	lines.Wait()
	if s.keeps() {
		s.last.Do(func() { s.digest(time.Now()) }) // no line was there to do it
	}
	close(done)
	workers.Wait()
	if s.outbox != nil {
		n := s.outbox.waiting()
		switch st, keeps := s.Outbox(); {
		case keeps && st.Failed:
			s.config.Log.Error("stopped without a disk: what the recorder has not acknowledged is lost", slog.Int("messages", st.Messages))
		case keeps && n > 0:
			s.config.Log.Info("stopped before everything was sent; it is kept for the next start", slog.Int("waiting", n), slog.Int("messages", st.Messages))
		case n > 0:
			s.config.Log.Warn("stopped before everything was sent", slog.Int("waiting", n))
		}
	}
	return s.Close()
}

// digest queues a digest, if there is anything to vouch for.
func (s *Session) digest(now time.Time) {
	if err := s.outbox.putDigest(now); err != nil {
		s.config.Log.Error("no digest", slog.Any("error", err))
	}
}

func (s *Session) digestTopic() string {
	id := s.config.Bundle.Identity
	return wire.Topic{Kind: wire.KindDigest, Site: id.Site, Role: string(id.Role), Name: id.Name}.String()
}

// accept judges one message that came by a line, and hands it on.
func (s *Session) accept(in inbound, line int) {
	s.accepting.Lock()
	defer s.accepting.Unlock()
	sum := s.echoes.sum(in)
	if s.echoes.known(sum, line, in.at) {
		s.duplicates.Add(1)
		return
	}
	d, err := s.receiver.open(in.name, in.raw, in.at)
	d.Via = s.lines[line].broker()
	if err == nil && d.Topic.Kind == wire.KindRevocations && s.Revocations() != nil {
		err = s.revoke(d)
	}
	if err == nil && d.Topic.Kind == wire.KindAck && s.keeps() {
		err = s.acknowledge(d)
	}
	if err == nil {
		if d.Topic.Protected() {
			s.accepted.Add(1)
			s.echoes.remember(sum, line, in.at)
		}
		if covered(s.config.Filters, in.name) { // else the session asked for itself
			s.config.Handle(d)
		}
		return
	}
	untimely, _ := errors.AsType[*Untimely](err)
	s.refuse(Refusal{Name: in.name, Raw: in.raw, Reason: envelope.ReasonOf(err), Received: in.at, Via: d.Via, Untimely: untimely})
}

func (s *Session) refuse(r Refusal) {
	s.refusals.refuse(r)
	if s.config.Refused != nil {
		s.config.Refused(r)
	}
}
