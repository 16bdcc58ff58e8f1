package broker

import (
	"fmt"
	"time"

	"levee/envelope"
	"levee/internal/wire"
)

// Limits bound what connections may cost before and after they are known to
// belong to an identity. A zero field takes its default.
type Limits struct {
	Connections        int           // in all; 16,384
	Pending            int           // in all, not yet past CONNECT; 512
	AddressConns       int           // for each address (IPv6: each /64); 4,096
	AddressPending     int           // for each address, not yet past CONNECT; 64
	Strikes            int           // refused messages within a minute that end a session; 20
	QueueBytes         int           // unsent bytes that end a slow reader's session; 4 MiB
	HandshakeTimeout   time.Duration // for TLS, from accept; 5 s
	ConnectTimeout     time.Duration // for CONNECT, from the end of TLS; 5 s
	WriteTimeout       time.Duration // for each 64 KiB that waits to be sent; 5 s
	TakeoverTimeout    time.Duration // for the older session of a client identifier to end; 5 s
	ThrottledPerMinute time.Duration // time that a client may be held back in each minute; 30 s
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{
		{&l.Connections, 16384}, {&l.Pending, 512}, {&l.AddressConns, 4096}, {&l.AddressPending, 64},
		{&l.Strikes, 20}, {&l.QueueBytes, 4 << 20},
	} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	for _, f := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&l.HandshakeTimeout, 5 * time.Second}, {&l.ConnectTimeout, 5 * time.Second}, {&l.WriteTimeout, 5 * time.Second},
		{&l.TakeoverTimeout, 5 * time.Second}, {&l.ThrottledPerMinute, 30 * time.Second},
	} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	return l
}

func (l Limits) check() error {
	for name, v := range map[string]int64{
		"connections": int64(l.Connections), "pending": int64(l.Pending), "connections of an address": int64(l.AddressConns),
		"pending of an address": int64(l.AddressPending), "strikes": int64(l.Strikes),
		"queue": int64(l.QueueBytes) - maxPacket, "handshake timeout": int64(l.HandshakeTimeout), "connect timeout": int64(l.ConnectTimeout),
		"write timeout": int64(l.WriteTimeout), "takeover timeout": int64(l.TakeoverTimeout), "time held back": int64(l.ThrottledPerMinute),
	} {
		if v <= 0 {
			return fmt.Errorf("checking limits: %s is too small", name)
		}
	}
	return nil
}

// Bounds of packets in bytes, fixed header included. They follow from what a
// packet may carry.
const (
	maxHeader    = 1 + 4
	maxFilters   = 8 // in one SUBSCRIBE or UNSUBSCRIBE
	maxConnect   = maxHeader + 4096
	maxPublish   = maxHeader + 2 + wire.MaxTopic + 2 + envelope.MaxBackfill
	maxSubscribe = maxHeader + 2 + maxFilters*(2+wire.MaxTopic+1)
	maxPacket    = maxPublish
)

// The range of keep-alive in seconds. mochi's deadline is one and a half times
// that, computed in 16 bits (P19).
const (
	minKeepAlive = 10
	maxKeepAlive = 120
)
