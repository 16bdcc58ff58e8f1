package broker

import (
	"net"
	"net/netip"
	"sync"

	"levee/policies"
)

// admission counts connections against the caps: in all, for each address, and
// of both those that have no session yet, which cost an attacker nothing.
type admission struct {
	bounds func() policies.Broker // now in force

	mu             sync.Mutex
	total, pending int
	addresses      map[netip.Prefix]*use
}

type use struct{ total, pending int }

func newAdmission(bounds func() policies.Broker) *admission {
	return &admission{bounds: bounds, addresses: make(map[netip.Prefix]*use)}
}

// ticket is one admitted connection. Its methods may be called once each.
type ticket struct {
	a       *admission
	from    netip.Prefix
	pending bool
}

// enter admits a connection or says why not.
func (a *admission) enter(from netip.Prefix) (*ticket, Reason) {
	bounds := a.bounds()
	a.mu.Lock()
	defer a.mu.Unlock()
	u := a.addresses[from]
	switch {
	case a.total >= bounds.Connections:
		return nil, TooMany
	case a.pending >= bounds.Pending:
		return nil, TooManyPending
	case u != nil && (u.total >= bounds.AddressConnections || u.pending >= bounds.AddressPending):
		return nil, TooManyAddress
	case u == nil:
		u = &use{}
		a.addresses[from] = u
	}
	a.total++
	a.pending++
	u.total++
	u.pending++
	return &ticket{a: a, from: from, pending: true}, None
}

// settle notes that the connection has a session now.
func (t *ticket) settle() {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	t.unpend()
}

// leave gives the place back.
func (t *ticket) leave() {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	t.unpend()
	u := t.a.addresses[t.from]
	t.a.total--
	if u.total--; u.total == 0 {
		delete(t.a.addresses, t.from)
	}
}

func (t *ticket) unpend() {
	if t.pending {
		t.pending = false
		t.a.pending--
		t.a.addresses[t.from].pending--
	}
}

// origin returns what the caps of one address count: an IPv4 address, or the
// /64 that one IPv6 host commands. Addresses that are none share one place.
func origin(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	return area(tcp.AddrPort().Addr())
}

// area returns what counts as one address with ip.
func area(ip netip.Addr) netip.Prefix {
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
