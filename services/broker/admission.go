package broker

import (
	"net"
	"net/netip"
	"sync"
)

// admission counts connections against the caps: in all, for each address, and
// of both those that have no session yet, which cost an attacker nothing.
type admission struct {
	limits Limits

	mu             sync.Mutex
	total, pending int
	addresses      map[netip.Prefix]*use
}

type use struct{ total, pending int }

func newAdmission(l Limits) *admission {
	return &admission{limits: l, addresses: make(map[netip.Prefix]*use)}
}

// ticket is one admitted connection. Its methods may be called once each.
type ticket struct {
	a       *admission
	from    netip.Prefix
	pending bool
}

// enter admits a connection or says why not.
func (a *admission) enter(from netip.Prefix) (*ticket, Reason) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := a.addresses[from]
	switch {
	case a.total >= a.limits.Connections:
		return nil, TooMany
	case a.pending >= a.limits.Pending:
		return nil, TooManyPending
	case u != nil && (u.total >= a.limits.AddressConns || u.pending >= a.limits.AddressPending):
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
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
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
