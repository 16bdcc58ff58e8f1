package envelope

import "errors"

// ErrRejected is the one public class of every refusal: an attacker who sees
// it learns nothing. ReasonOf tells the operator's counters and logs which
// check refused.
var ErrRejected = errors.New("message rejected")

// Reason names the check that refused a message. The set is closed, so that it
// can label a counter. The zero value is no refusal.
type Reason uint8

// The reasons, in the order in which a receiver checks.
const (
	Accepted       Reason = iota
	BadSize               // empty, or over the bound of its class
	BadKeyID              // kid cannot be found or read
	UnknownKey            // no key, or the wrong generation, for that kid
	BadMAC                // the MAC does not match
	BadGrammar            // not the fixed byte grammar
	BadPayload            // the payload is not a strict JSON object
	BadTopic              // the envelope's topic is not the one it was published on, or not of this system
	BadSender             // kid and topic, or kid and TLS identity, disagree
	Unsigned              // a class that must be signed carries no signature
	BadSignature          // the signature does not match, or the chain does not reach the root
	Revoked               // signed with a certificate that is revoked
	BadPin                // signed with a key that the site document does not pin for this sender
	Stale                 // ts is older than the skew allows
	Future                // ts is later than the skew allows
	Redelivered           // an identical duplicate: harmless
	Replayed              // a nonce used before, or too old to tell
	NonceCollision        // a nonce used before over other bytes: alarm
	Cloned                // two boots of one sender at once: alarm
	WindowsFull           // no room to remember one more sender
	WindowsFailed         // the replay windows cannot be read or written
	BeforeStart           // older than what the replay windows can vouch for
	BadContent            // well-formed, but not what its topic carries
	reasons               // their number
)

var reasonNames = [reasons]string{
	Accepted: "accepted", BadSize: "size", BadKeyID: "kid", UnknownKey: "unknown_key", BadMAC: "mac",
	BadGrammar: "grammar", BadPayload: "payload", BadTopic: "topic", BadSender: "sender", Unsigned: "unsigned",
	BadSignature: "signature", Revoked: "revoked", BadPin: "pin", Stale: "stale", Future: "future", Redelivered: "redelivered",
	Replayed: "replayed", NonceCollision: "nonce_collision", Cloned: "cloned", WindowsFull: "windows_full", WindowsFailed: "windows_failed", BeforeStart: "before_start",
	BadContent: "content",
}

// String returns the counter's label.
func (r Reason) String() string {
	if r >= reasons {
		return "unknown"
	}
	return reasonNames[r]
}

// Reasons returns every reason but Accepted.
func Reasons() []Reason {
	all := make([]Reason, 0, reasons-1)
	for r := BadSize; r < reasons; r++ {
		all = append(all, r)
	}
	return all
}

// Error makes a Reason the error that this package returns. Its text is the
// class's, whatever the reason.
func (r Reason) Error() string { return ErrRejected.Error() }

// Is reports that every reason belongs to ErrRejected.
func (r Reason) Is(target error) bool { return target == ErrRejected }

// ReasonOf returns the reason of a refusal, Accepted for nil and for an error
// that is none.
func ReasonOf(err error) Reason {
	var r Reason
	if errors.As(err, &r) {
		return r
	}
	return Accepted
}
