// Package session is one part's conversation with its site: MQTT 3.1.1 over
// mTLS, every message sealed on send and opened on receive. It holds a
// connection to one broker of the site at a time.
//
// It guarantees that a handler sees only what it asked for, and only after
// every check of docs/envelope.md that this part can make: size, key and MAC
// where it holds the key, grammar, topic, sender, generation, signature,
// revocation and pin where the class is signed, freshness, replay. Each refusal is counted by its
// reason and logged. A broker that is captured can withhold messages; it
// cannot make this process panic, hang or grow without bound.
//
// It reconnects by itself with jitter, sends each sealed message again after a
// lost connection while it is fresh, and signs digests of what it sent, in
// which it declares what it had to drop. A message in a digest was acknowledged
// by a broker, which does not mean that anybody received it.
//
// A machine's session subscribes to the site's lists of revocations by itself,
// and leaves a broker that is revoked. That nothing newer was revoked it cannot
// know: package revocation tells when its list is stale.
//
// It does not guarantee delivery: who needs an answer asks again until it
// comes. It does not judge what a message says.
package session
