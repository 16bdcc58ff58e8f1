package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/internal/clocks"
	"levee/pki"
	"levee/policies"
)

// Verifier says whose connection it is; *pki.Verifier is one.
type Verifier interface {
	VerifyConnection(cs tls.ConnectionState, usage pki.Usage, at time.Time) (pki.Identity, error)
}

// Windows remember which messages were seen; *replay.Set is one. Whoever opened
// the set syncs it, lets it forget, and closes it after Run has returned.
type Windows interface {
	Check(replay.Message) replay.Verdict
}

// Revocations know whose certificates were taken back; *revocation.Set is one.
// Whoever opened the set runs it.
type Revocations interface {
	pki.Revocations
	Apply(raw []byte, now time.Time) (changed bool, err error)
	MinimumGeneration(sender string) uint32
}

// Credentials judge what a client presents beside its certificate, such as a
// person's access token. They are asked at each CONNECT, also if it presents
// nothing.
type Credentials interface {
	// Verify returns until when the credential holds for id; the zero time is as
	// long as the certificate. An error refuses the client and must name no
	// secret.
	Verify(id pki.Identity, username string, password []byte, now time.Time) (until time.Time, err error)
}

// Config is what a broker needs. All fields are required, but Address if Serve
// is told one, and Credentials.
type Config struct {
	Site        string           // the only site whose certificates are let in
	Host        string           // the site's, {site}.{trust-domain}, by which clients name it
	Address     string           // host:port to listen on
	TLS         *tls.Config      // from pki.ServerConfig
	Verifier    Verifier         // judges client certificates
	Policy      *policies.Policy // rights, rates, classes, skew
	Windows     Windows          // of this broker alone
	Revocations Revocations      // fed with the lists that pass through
	Credentials Credentials      // nil: a client with user name or password is refused
	Log         *slog.Logger
}

// Broker is one site's message space.
type Broker struct {
	site        string
	host        string
	address     string
	tls         *tls.Config
	verifier    Verifier
	rules       atomic.Pointer[policies.Policy]
	windows     Windows
	revocations Revocations
	credentials Credentials
	log         *slog.Logger

	reporter *reporter
	counters counters
	registry *registry
	bans     *bans
	presence *presence
	voices   clocks.Voices // may doubt this broker's own clock
	clocks   *clocks.Watch
	server   *mqtt.Server

	started   atomic.Bool
	door      *door // once it is served
	establish listeners.EstablishFn
	open      chan struct{} // closed when establish is set
	ready     chan struct{}
	addr      net.Addr // after ready
}

// New checks the configuration. It opens nothing.
func New(cfg Config) (*Broker, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("configuring broker: %w", err)
	}
	b := &Broker{
		site: cfg.Site, host: cfg.Host, address: cfg.Address, verifier: cfg.Verifier,
		windows: cfg.Windows, revocations: cfg.Revocations, credentials: cfg.Credentials, log: cfg.Log,
		reporter: newReporter(cfg.Log), registry: newRegistry(), bans: newBans(), presence: newPresence(),
		clocks: clocks.NewWatch(cfg.Policy.Skew(), cfg.Log), open: make(chan struct{}), ready: make(chan struct{}),
	}
	b.rules.Store(cfg.Policy)
	b.tls = b.judging(cfg.TLS)
	b.server = mqtt.New(&mqtt.Options{
		Capabilities:             capabilities(b.bounds()),
		Logger:                   slog.New(redacted{to: b.reporter}),
		SysTopicResendInterval:   sysInterval,
		ClientNetWriteBufferSize: writeBuffer,
	})
	// One hook: mochi lets in whom any hook lets in (P12).
	if err := b.server.AddHook(&hook{b: b}, nil); err != nil {
		return nil, fmt.Errorf("configuring broker: %w", err)
	}
	return b, nil
}

func (cfg *Config) check() error {
	switch {
	case !pki.ValidSite(cfg.Site):
		return fmt.Errorf("%q is no site", cfg.Site)
	case cfg.Host == "":
		return errors.New("no host")
	case cfg.TLS == nil || cfg.Verifier == nil || cfg.Policy == nil || cfg.Windows == nil || cfg.Revocations == nil || cfg.Log == nil:
		return errors.New("one of TLS, Verifier, Policy, Windows, Revocations, Log is missing")
	case cfg.TLS.MinVersion != tls.VersionTLS13:
		return errors.New("TLS below 1.3 is allowed")
	case cfg.TLS.ClientAuth != tls.RequireAndVerifyClientCert || cfg.TLS.ClientCAs == nil || cfg.TLS.VerifyConnection == nil:
		return errors.New("client certificates are not required and verified")
	case !cfg.TLS.SessionTicketsDisabled:
		return errors.New("TLS sessions may be resumed, which would skip the certificates")
	case cfg.TLS.InsecureSkipVerify:
		return errors.New("verification is switched off")
	}
	return nil
}

// policy returns the policy in force.
func (b *Broker) policy() *policies.Policy { return b.rules.Load() }

// bounds returns what connections may cost now.
func (b *Broker) bounds() policies.Broker { return b.policy().Broker() }

// sysInterval is how often mochi stops the world to count its memory for
// $SYS topics, which nobody may read: about once in 30 years. In seconds.
const sysInterval = 1_000_000_000

// capabilities are mochi's limits. Several are not enforced by mochi or at the
// wrong place; those are the framer's and the hook's.
func capabilities(bounds policies.Broker) *mqtt.Capabilities {
	return &mqtt.Capabilities{
		MaximumClients:               math.MaxInt64, // ours are in admission, which counts before TLS
		MaximumMessageExpiryInterval: 60,            // s, of what a subscriber never acknowledges
		MaximumClientWritesPending:   maxPending,    // allocated for each connection; then deliveries are dropped and counted
		// Sessions end with their connections. The interval must still be
		// longer than any teardown: mochi's sweep deletes by identifier, and
		// would take the successor for the one that expired.
		MaximumSessionExpiryInterval: 3600,
		MaximumPacketSize:            maxPacket,
		ReceiveMaximum:               64,
		MaximumInflight:              uint16(bounds.InFlight),
		TopicAliasMaximum:            0, // P25
		MinimumProtocolVersion:       4,
		MaximumQos:                   1,
		RetainAvailable:              0,
		WildcardSubAvailable:         1,
		SharedSubAvailable:           0,
		SubIDAvailable:               0,
		Compatibilities: mqtt.Compatibilities{
			ObscureNotAuthorized:       true,
			NoInheritedPropertiesOnAck: true,
		},
	}
}

// Run serves this site alone until ctx is done; see Serve.
func (b *Broker) Run(ctx context.Context) error { return Serve(ctx, b.address, b) }

// sweep forgets what no longer counts, and ends what the wall clock ended.
func (b *Broker) sweep(now time.Time) {
	b.registry.sweep(now)
	b.bans.sweep(b.bounds(), now)
	b.sweepSessions(now, nil)
}

// Ready is closed when the broker listens.
func (b *Broker) Ready() <-chan struct{} { return b.ready }

// Addr returns the address listened on, nil before Ready.
func (b *Broker) Addr() net.Addr {
	select {
	case <-b.ready:
		return b.addr
	default:
		return nil
	}
}

// Counters returns what was counted since New, by label. The labels are a
// closed set: refused_* counts ends of connections and refusals by Reason,
// envelope_* refused messages by envelope.Reason.
func (b *Broker) Counters() map[string]uint64 {
	m := b.counters.snapshot()
	m["deliveries_unacknowledged_dropped"] = uint64(atomic.LoadInt64(&b.server.Info.InflightDropped)) // no hook tells
	return m
}

// Accepted returns how many protected messages were passed on.
func (b *Broker) Accepted() uint64 { return b.counters.accepted.Load() }

// Refusals returns how many messages were refused, by reason.
func (b *Broker) Refusals() map[envelope.Reason]uint64 {
	m := make(map[envelope.Reason]uint64)
	for _, r := range envelope.Reasons() {
		m[r] = b.counters.envelope[r].Load()
	}
	return m
}

// Clocks returns what the broker knows of its clients' clocks.
func (b *Broker) Clocks() *clocks.Watch { return b.clocks }

// refuse counts and logs a refusal that does not end a session.
func (b *Broker) refuse(level slog.Level, r Reason, attrs ...slog.Attr) {
	b.counters.refuse(r)
	b.reporter.report(level, r.String(), "refused", append(attrs, slog.String("reason", r.String()))...)
}

// closed counts and logs the end of a session.
func (b *Broker) closed(s *session) {
	r := s.reason()
	if s.crashed {
		r = Panicked
	}
	if r != None {
		b.counters.refuse(r)
	}
	if s.sender == "" {
		return // logged with its error
	}
	if r.misconduct() {
		why := "its sessions ended for " + r.String() + " and the like"
		if until := b.bans.offend(s.sender, why, b.bounds(), time.Now()); !until.IsZero() {
			b.banned(s.sender, why, until)
		}
	}
	level, text := slog.LevelWarn, "connection closed"
	switch r {
	case None, Draining:
		level = slog.LevelInfo
	case Outdated: // which of the two is the machine, only people can say
		level, text = slog.LevelError, "an older certificate of a machine that is there with a newer one: a copy, or a bundle that was put back"
	}
	b.reporter.report(level, "closed "+r.String()+" "+s.sender, text, slog.String("reason", r.String()),
		slog.String("identity", s.sender), slog.String("remote", s.from), slog.Duration("after", time.Since(s.opened)))
}

// banned logs that an identity is kept away from now on.
func (b *Broker) banned(sender, why string, until time.Time) {
	b.log.Error("identity banned: "+why, slog.String("identity", sender), slog.Time("until", until))
}

// panicked ends a session after a recovered panic. The stack holds addresses
// and no contents; of the cause only what the runtime itself says is logged.
func (b *Broker) panicked(s *session, cause any) {
	text := fmt.Sprintf("%T", cause)
	if err, ok := cause.(runtime.Error); ok {
		text = err.Error()
	}
	b.log.Error("contained a panic", slog.String("cause", text), slog.String("identity", s.sender),
		slog.String("remote", s.from), slog.String("stack", string(debug.Stack())))
	s.end(Panicked)
}
