package broker

import "github.com/mochi-mqtt/server/v2/packets"

// framer follows the fixed headers of a client's bytes and stops at the first
// packet whose type, order or length no client of ours may send, before mochi
// allocates for it or decodes it: mochi does both before any hook runs, reads a
// length of any number of bytes, and takes 256 MiB from anyone (P3, P7). Its
// zero value expects CONNECT. It is not safe for concurrent use.
type framer struct {
	started bool // CONNECT has begun
	within  bool // a type has been read, its length has not ended
	kind    byte
	digits  int // of the length so far
	length  int
	left    int // bytes of the body that are still to come
}

// feed takes the next bytes of the stream and returns how many of them may be
// passed on. A reason other than None refuses the packet after them; feed must
// not be called again then.
func (f *framer) feed(p []byte) (int, Reason) {
	begin := 0 // of the current packet, as far as it lies within p
	for i := 0; i < len(p); {
		if f.left > 0 {
			step := min(f.left, len(p)-i)
			f.left -= step
			i += step
			continue
		}
		b := p[i]
		if !f.within {
			begin = i
			if r := f.begin(b >> 4); r != None {
				return begin, r
			}
			i++
			continue
		}
		i++
		f.length |= int(b&0x7f) << (7 * f.digits)
		f.digits++
		more := b&0x80 != 0
		if more && f.digits == 4 || f.length+maxHeader > bound(f.kind) {
			return begin, BadPacket
		}
		if !more {
			f.within, f.left = false, f.length
		}
	}
	return len(p), None
}

func (f *framer) begin(kind byte) Reason {
	switch {
	case f.started && kind == packets.Connect:
		return SecondConnect // here already, so that its password never reaches mochi's log (P23)
	case bound(kind) == 0 || !f.started && kind != packets.Connect:
		return BadPacket
	}
	f.started, f.within = true, true
	f.kind, f.digits, f.length = kind, 0, 0
	return None
}

// bound returns the largest packet of a type in bytes, 0 for a type that a
// client may not send: QoS 2 is not spoken, and the rest is the server's.
func bound(kind byte) int {
	switch kind {
	case packets.Connect:
		return maxConnect
	case packets.Publish:
		return maxPublish
	case packets.Subscribe, packets.Unsubscribe:
		return maxSubscribe
	case packets.Puback:
		return maxHeader + 2
	case packets.Pingreq, packets.Disconnect:
		return maxHeader
	default:
		return 0
	}
}
