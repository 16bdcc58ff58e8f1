package controller

import (
	"context"
	"time"
)

// Actuator is a load balancer. Only one goroutine calls its methods.
type Actuator interface {
	// Pools returns the names of the servers whose pools it balances. They
	// do not change.
	Pools() []string
	// Apply brings pool into the state want, absolutely: applying it twice is
	// applying it once. It returns when the state is in force, or an error
	// when it is not, and heeds the end of ctx. It ends each part of want at
	// that part's Until by itself, as far as it is able to; the controller asks
	// it to as well.
	Apply(ctx context.Context, pool string, want Wanted) error
}

// Wanted is the whole state of one pool. The zero value is a pool without any
// mitigation.
type Wanted struct {
	RateLimit *RateLimit // nil: none
	Scaling   *Scaling   // nil: the pool's own number of servers
}

// RateLimit bounds the requests of each client address.
type RateLimit struct {
	PerSecond float64 // positive
	Burst     int     // at least 1
	Until     time.Time
}

// Scaling is the number of servers wanted in all. It never means fewer than
// the pool has of its own: the end of a scaling is its absence.
type Scaling struct {
	Servers int
	Until   time.Time
}
