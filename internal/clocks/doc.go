// Package clocks makes a wrong clock visible: how far each sender's clock and
// this machine's are apart, whose it probably is, whether the kernel calls this
// machine's clock synchronised, and when a certificate was refused for its time.
//
// It guarantees that what it keeps is bounded, and that a message which comes
// again never moves a sender's figure. It knows only verified senders, because
// its callers give it no others. It decides nothing about messages, and it
// cannot tell a clock that is behind from messages that someone delays: where
// both are possible, it says both.
package clocks
