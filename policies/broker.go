package policies

import (
	"fmt"
	"time"

	"levee/internal/wire"
)

// Broker bounds what connections may cost a broker, whoever they are, and how
// long it keeps away from those that misbehave. Roles have Limits beside it. The
// zero value admits nobody.
type Broker struct {
	Connections        int // in all
	Pending            int // of them not yet past CONNECT
	AddressConnections int // from one address (IPv6: one /64)
	AddressPending     int // of them not yet past CONNECT

	HandshakeTimeout time.Duration // for TLS, from accept
	ConnectTimeout   time.Duration // for CONNECT, from the end of TLS
	WriteTimeout     time.Duration // for each 64 KiB that waits to be sent
	TakeoverTimeout  time.Duration // for the older session of a client identifier to end
	MinKeepAlive     time.Duration // whole seconds
	MaxKeepAlive     time.Duration // whole seconds

	QueueBytes  int // unsent to one reader, which ends a slow reader's session
	InFlight    int // unacknowledged to one reader, beyond which deliveries are dropped
	Filters     int // in one SUBSCRIBE or UNSUBSCRIBE
	TopicLevels int // of a topic or filter
	TopicBytes  int // of a topic or filter

	Throttled time.Duration // for which a client may be held back in each minute
	Strikes   int           // refused messages within a minute that end a session

	// Connects of one identity, and Failures of one address to become a session,
	// within a minute; whoever has more is banned.
	Connects int
	Failures int
	// Offences are sessions that one identity's misconduct ended, within
	// OffencesWithin, that ban it.
	Offences       int
	OffencesWithin time.Duration
	// A ban lasts FirstBan, and twice as long as the one before if that ended
	// less than LongestBan ago, LongestBan at most.
	FirstBan   time.Duration
	LongestBan time.Duration
}

// Broker returns the bounds of connections.
func (p *Policy) Broker() Broker { return p.broker }

// brokerFile is the section "broker". What it leaves out has its default.
type brokerFile struct {
	Connections        *integer  `yaml:"connections"`
	Pending            *integer  `yaml:"pending"`
	AddressConnections *integer  `yaml:"address_connections"`
	AddressPending     *integer  `yaml:"address_pending"`
	HandshakeTimeout   *duration `yaml:"handshake_timeout"`
	ConnectTimeout     *duration `yaml:"connect_timeout"`
	WriteTimeout       *duration `yaml:"write_timeout"`
	TakeoverTimeout    *duration `yaml:"takeover_timeout"`
	MinKeepAlive       *duration `yaml:"min_keep_alive"`
	MaxKeepAlive       *duration `yaml:"max_keep_alive"`
	QueueBytes         *integer  `yaml:"queue_bytes"`
	InFlight           *integer  `yaml:"in_flight"`
	Filters            *integer  `yaml:"filters"`
	TopicLevels        *integer  `yaml:"topic_levels"`
	TopicBytes         *integer  `yaml:"topic_bytes"`
	Throttled          *duration `yaml:"throttled"`
	Strikes            *integer  `yaml:"strikes"`
	Connects           *integer  `yaml:"connects"`
	Failures           *integer  `yaml:"failures"`
	Offences           *integer  `yaml:"offences"`
	OffencesWithin     *duration `yaml:"offences_within"`
	FirstBan           *duration `yaml:"first_ban"`
	LongestBan         *duration `yaml:"longest_ban"`
}

// maxConnections bounds the figures of connections: more have no descriptors.
const maxConnections = 1 << 20

// compileBroker fills in the defaults, which are those that default.yaml writes
// out, and refuses figures with which nobody could work.
func compileBroker(f brokerFile) (Broker, error) {
	var b Broker
	for _, n := range []struct {
		name              string
		field             *int
		value             *integer
		byDefault         int
		smallest, largest int
	}{
		{"connections", &b.Connections, f.Connections, 16384, 1, maxConnections},
		{"pending", &b.Pending, f.Pending, 512, 1, maxConnections},
		{"address_connections", &b.AddressConnections, f.AddressConnections, 4096, 1, maxConnections},
		{"address_pending", &b.AddressPending, f.AddressPending, 64, 1, maxConnections},
		{"queue_bytes", &b.QueueBytes, f.QueueBytes, 4 << 20, 2 * maxBackfill, 1 << 30},
		{"in_flight", &b.InFlight, f.InFlight, 8192, 1, 65535},
		{"filters", &b.Filters, f.Filters, 8, 1, 64},
		{"topic_levels", &b.TopicLevels, f.TopicLevels, wire.MaxLevels, 6, wire.MaxLevels},
		{"topic_bytes", &b.TopicBytes, f.TopicBytes, wire.MaxTopic, 128, wire.MaxTopic},
		{"strikes", &b.Strikes, f.Strikes, 20, 1, 1 << 20},
		{"connects", &b.Connects, f.Connects, 30, 1, 1 << 20},
		{"failures", &b.Failures, f.Failures, 120, 1, 1 << 20},
		{"offences", &b.Offences, f.Offences, 5, 1, 1 << 20},
	} {
		if *n.field = n.byDefault; n.value != nil {
			*n.field = int(*n.value)
		}
		if *n.field < n.smallest || *n.field > n.largest {
			return Broker{}, fmt.Errorf("%s %d is outside %d to %d", n.name, *n.field, n.smallest, n.largest)
		}
	}
	for _, d := range []struct {
		name              string
		field             *time.Duration
		value             *duration
		byDefault         time.Duration
		smallest, largest time.Duration
	}{
		{"handshake_timeout", &b.HandshakeTimeout, f.HandshakeTimeout, 5 * time.Second, 100 * time.Millisecond, time.Minute},
		{"connect_timeout", &b.ConnectTimeout, f.ConnectTimeout, 5 * time.Second, 100 * time.Millisecond, time.Minute},
		{"write_timeout", &b.WriteTimeout, f.WriteTimeout, 5 * time.Second, 100 * time.Millisecond, time.Minute},
		{"takeover_timeout", &b.TakeoverTimeout, f.TakeoverTimeout, 5 * time.Second, 100 * time.Millisecond, time.Minute},
		{"min_keep_alive", &b.MinKeepAlive, f.MinKeepAlive, 10 * time.Second, time.Second, time.Hour},
		{"max_keep_alive", &b.MaxKeepAlive, f.MaxKeepAlive, 2 * time.Minute, time.Second, time.Hour},
		{"throttled", &b.Throttled, f.Throttled, 30 * time.Second, time.Millisecond, time.Minute},
		{"offences_within", &b.OffencesWithin, f.OffencesWithin, 10 * time.Minute, time.Second, 24 * time.Hour},
		{"first_ban", &b.FirstBan, f.FirstBan, time.Minute, time.Second, 24 * time.Hour},
		{"longest_ban", &b.LongestBan, f.LongestBan, time.Hour, time.Second, 24 * time.Hour},
	} {
		if *d.field = d.byDefault; d.value != nil {
			*d.field = time.Duration(*d.value)
		}
		if *d.field < d.smallest || *d.field > d.largest {
			return Broker{}, fmt.Errorf("%s %s is outside %s to %s", d.name, *d.field, d.smallest, d.largest)
		}
	}
	switch {
	case b.MinKeepAlive%time.Second != 0 || b.MaxKeepAlive%time.Second != 0:
		return Broker{}, fmt.Errorf("keep-alives are whole seconds")
	case b.MinKeepAlive > b.MaxKeepAlive:
		return Broker{}, fmt.Errorf("min_keep_alive %s is above max_keep_alive %s", b.MinKeepAlive, b.MaxKeepAlive)
	case b.MinKeepAlive > ownKeepAlive || b.MaxKeepAlive < ownKeepAlive:
		return Broker{}, fmt.Errorf("keep-alives must admit %s, which every part of ours asks for", ownKeepAlive)
	case b.FirstBan > b.LongestBan:
		return Broker{}, fmt.Errorf("first_ban %s is above longest_ban %s", b.FirstBan, b.LongestBan)
	case b.AddressConnections > b.Connections || b.Pending > b.Connections || b.AddressPending > b.Pending:
		return Broker{}, fmt.Errorf("a part of the connections is more than the whole")
	}
	return b, nil
}

// ownKeepAlive is internal/session's.
const ownKeepAlive = 20 * time.Second
