// Package session is one part's conversation with its site: MQTT 3.1.1 over
// mTLS, every message sealed on send and opened on receive. Who judges holds a
// line to every broker of the site and says everything on each; a sensor or a
// person holds one, to the first broker that answers.
//
// It guarantees that a handler sees only what it asked for, and only after
// every check of docs/envelope.md that this part can make: size, key and MAC
// where it holds the key, grammar, topic, sender, generation, signature,
// revocation and pin where the class is signed, freshness, replay. Each refusal is counted by its
// reason and logged. A broker that is captured can withhold messages; it
// cannot make this process panic, hang or grow without bound, and takes neither
// room nor turn from another line. What two brokers bring is handled once.
//
// It reconnects by itself with jitter, sends on each new connection every sealed
// message that is still fresh, byte for byte, and signs digests of what it sent.
// Where policy grants backfill, it keeps every message until the recorder has
// acknowledged it, over any end of the process that leaves the disk whole, and sends
// again what the recorder lacks; it declares what it had to give up for want of
// room. Acknowledgements it believes from the recorder alone, and never of more
// than it sent. Elsewhere a message in a digest was acknowledged by a broker, which
// does not mean that anybody received it.
//
// A machine's session subscribes to the site's lists of revocations by itself,
// and leaves a broker that is revoked. That nothing newer was revoked it cannot
// know: package revocation tells when its list is stale.
//
// It does not guarantee delivery to anybody but the recorder: who needs an answer
// asks again until it comes. It does not judge what a message says.
package session
