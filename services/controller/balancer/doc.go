// Package balancer is the embedded load balancer: a small reverse proxy on
// loopback with demonstration backends of its own, so that a controller has
// something real to act on where no other load balancer is installed.
//
// It guarantees that a rate limit refuses (429, with Retry-After) each client
// address that exceeds it and no other, that its memory does not grow with the
// number of addresses, and that addresses beyond that number share one
// allowance instead of having none; that scaling starts further backends, sends
// them requests, and drains them before it stops them; and that both end at
// their time by themselves. It forwards to its own backends alone, whatever a
// request asks for.
//
// It is no load balancer for production: it serves plain HTTP on loopback, knows
// clients by their socket address only, and forgets its state when it stops.
package balancer
