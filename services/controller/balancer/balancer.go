package balancer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"golang.org/x/sync/errgroup"

	"levee/pki"
	"levee/services/controller"
)

// Bounds and defaults of a pool's number of servers.
const (
	DefaultServers    = 2
	DefaultMaxServers = 8
	maxServers        = 32
)

// Pool is one server's pool.
type Pool struct {
	Name       string // the server's
	Listen     string // a loopback address and port; port 0 takes a free one
	Servers    int    // demonstration backends without scaling; 0 means DefaultServers
	MaxServers int    // with scaling; 0 means DefaultMaxServers
}

// Config is what a balancer needs.
type Config struct {
	Pools []Pool // at least one
	Log   *slog.Logger
}

// Balancer is the embedded load balancer.
type Balancer struct {
	pools []*pool
}

var _ controller.Actuator = (*Balancer)(nil)

// New checks cfg and takes the pools' addresses, so that one in use is found
// before anything depends on it. Nothing is answered until Run is called.
func New(cfg Config) (*Balancer, error) {
	if cfg.Log == nil {
		return nil, errors.New("balancer: Log is required")
	}
	if len(cfg.Pools) == 0 {
		return nil, errors.New("balancer: no pools")
	}
	b := &Balancer{}
	for _, cfgPool := range cfg.Pools {
		p, err := b.newPool(cfgPool, cfg.Log)
		if err != nil {
			return nil, fmt.Errorf("balancer: pool %q: %w", cfgPool.Name, errors.Join(err, b.Close()))
		}
		b.pools = append(b.pools, p)
	}
	return b, nil
}

// Close gives the addresses back, of a balancer that will not run.
func (b *Balancer) Close() error {
	var err error
	for _, p := range b.pools {
		err = errors.Join(err, p.listener.Close())
	}
	return err
}

func (b *Balancer) newPool(cfg Pool, log *slog.Logger) (*pool, error) {
	if !pki.ValidName(cfg.Name) {
		return nil, errors.New("not a server's name")
	}
	if b.pool(cfg.Name) != nil {
		return nil, errors.New("stands twice")
	}
	if cfg.Servers == 0 {
		cfg.Servers = DefaultServers
	}
	if cfg.MaxServers == 0 {
		cfg.MaxServers = max(DefaultMaxServers, cfg.Servers)
	}
	if cfg.Servers < 1 || cfg.Servers > cfg.MaxServers || cfg.MaxServers > maxServers {
		return nil, fmt.Errorf("servers %d and max servers %d must rise from 1 to %d", cfg.Servers, cfg.MaxServers, maxServers)
	}
	address, err := netip.ParseAddrPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("reading the address to listen on: %w", err)
	}
	if !address.Addr().IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address", cfg.Listen)
	}
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(address))
	if err != nil {
		return nil, err
	}
	return newPool(cfg, listener, log), nil
}

func (b *Balancer) pool(name string) *pool {
	for _, p := range b.pools {
		if p.name == name {
			return p
		}
	}
	return nil
}

// Pools returns the names of the pools.
func (b *Balancer) Pools() []string {
	names := make([]string, len(b.pools))
	for i, p := range b.pools {
		names[i] = p.name
	}
	return names
}

// Addr returns the address that a pool listens on, nil for an unknown pool.
func (b *Balancer) Addr(name string) net.Addr {
	if p := b.pool(name); p != nil {
		return p.listener.Addr()
	}
	return nil
}

// Apply brings a pool into the state want; see controller.Actuator. It takes
// effect only while Run runs, and waits for it as long as ctx allows.
func (b *Balancer) Apply(ctx context.Context, name string, want controller.Wanted) error {
	p := b.pool(name)
	if p == nil {
		return fmt.Errorf("applying to pool %q: unknown", name)
	}
	if err := p.apply(ctx, want); err != nil {
		return fmt.Errorf("applying to pool %q: %w", name, err)
	}
	return nil
}

// State returns what is in force in a pool, the zero State for an unknown one.
func (b *Balancer) State(name string) State {
	if p := b.pool(name); p != nil {
		return p.state()
	}
	return State{}
}

// Run serves every pool until ctx ends, then drains: requests under way may
// finish, within a bound. It must be called once, and returns nil unless a pool
// could not be served.
func (b *Balancer) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, p := range b.pools {
		group.Go(func() error {
			if err := p.run(ctx); err != nil {
				return fmt.Errorf("serving pool %q: %w", p.name, err)
			}
			return nil
		})
	}
	return group.Wait()
}
