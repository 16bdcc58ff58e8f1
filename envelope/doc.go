// Package envelope seals and opens levee's messages. docs/envelope.md is the
// format; this package implements it and nothing beside it.
//
// It guarantees that what Open returns was sealed with that very key, byte for
// byte, that it has exactly one reading, and that what it accepts is what
// Append would produce again. VerifySignature adds that a certificate below
// the root vouches for the sender, so that a third party can check without any
// secret.
//
// It does not judge freshness, replay or permission: those are for
// envelope/replay, package policies, and the receiver. It allocates nothing
// for an unsigned message.
package envelope
