package broker

import (
	"levee/envelope"
	"levee/internal/wire"
)

// Bounds of packets in bytes, fixed header included. They follow from what a
// packet may carry; the policy's own bounds are narrower.
const (
	maxHeader    = 1 + 4
	mostFilters  = 64 // that any policy allows in one packet
	maxConnect   = maxHeader + 4096
	maxPublish   = maxHeader + 2 + wire.MaxTopic + 2 + envelope.MaxBackfill
	maxSubscribe = maxHeader + 2 + mostFilters*(2+wire.MaxTopic+1)
	maxPacket    = maxPublish
)
