// Package controller turns authenticated commands into the state of a load
// balancer, and that state's end into fact.
//
// It guarantees that a command acts at most once, that it is on disk before it
// acts, that what it wanted ends at issued + time to live whether anybody asks
// or not, that the latest command issued for a pool wins, and that every command
// addressed to it gets a status: refusals included, with a reason of a closed
// set. Its memory and its journal are bounded whoever floods it.
//
// It does not authenticate: its caller has verified MAC, signature, pin,
// freshness and replay (package envelope) of what it hands to Handle. It does
// not measure whether a mitigation helps. In this version it verifies no grants,
// and therefore refuses every command that does not come from a monitor.
package controller
