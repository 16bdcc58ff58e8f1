package broker

import (
	"bytes"
	"slices"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"levee/test/rawmqtt"
)

var (
	connectPacket = rawmqtt.Connect(rawmqtt.ConnectOptions{ClientID: "melb_sensor_web-1", KeepAlive: 30})
	publishPacket = rawmqtt.Publish(rawmqtt.Message{Topic: "public/a", Payload: []byte("hello")})
)

func TestFramer(t *testing.T) {
	tests := []struct {
		name string
		in   [][]byte // joined
		pass int      // packets of in, from the first, that are passed on; the rest is not
		want Reason
	}{
		{"CONNECT and more", [][]byte{connectPacket, publishPacket, rawmqtt.Pingreq(), rawmqtt.Subscribe(1, 0, "public/#"),
			rawmqtt.Unsubscribe(2, "public/#"), rawmqtt.Ack(rawmqtt.TypePuback, 1), rawmqtt.Disconnect()}, 7, None},
		{"nothing", nil, 0, None},
		{"PUBLISH first", [][]byte{publishPacket}, 0, BadPacket},
		{"PINGREQ first", [][]byte{rawmqtt.Pingreq()}, 0, BadPacket},
		{"a second CONNECT", [][]byte{connectPacket, connectPacket}, 1, SecondConnect},
		{"type 0", [][]byte{connectPacket, {0x00, 0x00}}, 1, BadPacket},
		{"CONNACK", [][]byte{connectPacket, {0x20, 0x02, 0, 0}}, 1, BadPacket},
		{"PUBREC", [][]byte{connectPacket, rawmqtt.Ack(rawmqtt.TypePubrec, 1)}, 1, BadPacket},
		{"PUBREL", [][]byte{connectPacket, rawmqtt.Ack(rawmqtt.TypePubrel, 1)}, 1, BadPacket},
		{"PUBCOMP", [][]byte{connectPacket, rawmqtt.Ack(rawmqtt.TypePubcomp, 1)}, 1, BadPacket},
		{"SUBACK", [][]byte{connectPacket, {0x90, 0x03, 0, 1, 0}}, 1, BadPacket},
		{"AUTH of MQTT 5", [][]byte{connectPacket, {0xf0, 0x00}}, 1, BadPacket},
		{"256 MiB of CONNECT", [][]byte{{0x10, 0xff, 0xff, 0xff, 0x7f}}, 0, BadPacket},
		{"256 MiB of PUBLISH", [][]byte{connectPacket, {0x30, 0xff, 0xff, 0xff, 0x7f}}, 1, BadPacket},
		{"a length without end", [][]byte{connectPacket, {0x30, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80}}, 1, BadPacket},
		{"the largest PUBLISH", [][]byte{connectPacket, rawmqtt.Raw(3, 0, make([]byte, maxPublish-maxHeader))}, 2, None},
		{"one byte more", [][]byte{connectPacket, rawmqtt.Raw(3, 0, make([]byte, maxPublish-maxHeader+1))}, 1, BadPacket},
		{"a long SUBSCRIBE", [][]byte{connectPacket, rawmqtt.Raw(8, 2, make([]byte, maxSubscribe))}, 1, BadPacket},
		{"a long PINGREQ", [][]byte{connectPacket, rawmqtt.Raw(12, 0, []byte{1})}, 1, BadPacket},
		{"a long PUBACK", [][]byte{connectPacket, rawmqtt.Raw(4, 0, []byte{0, 1, 0})}, 1, BadPacket},
		{"good, bad, good", [][]byte{connectPacket, publishPacket, {0x00, 0x00}, publishPacket}, 2, BadPacket},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			all := bytes.Join(test.in, nil)
			want := len(bytes.Join(test.in[:test.pass], nil))
			var whole framer
			if n, r := whole.feed(all); n != want || r != test.want {
				t.Errorf("at once: passed %d of %d for %v, want %d for %v", n, len(all), r, want, test.want)
			}
			// Byte by byte the fixed header of the refused packet has been
			// passed on already, its body has not.
			var single framer
			passed, r := 0, None
			for i := 0; i < len(all) && r == None; i++ {
				var n int
				n, r = single.feed(all[i : i+1])
				passed += n
			}
			if r != test.want || passed < want || passed > want+maxHeader {
				t.Errorf("byte by byte: passed %d of %d for %v, want %d for %v", passed, len(all), r, want, test.want)
			}
		})
	}
}

// However the stream is cut, the verdict is the same, and mochi's own reading
// of what is passed on agrees: no packet in it is over its bound.
func FuzzFramer(f *testing.F) {
	f.Add(connectPacket, uint8(3))
	f.Add(slices.Concat(connectPacket, publishPacket, rawmqtt.Pingreq()), uint8(1))
	f.Add(slices.Concat(connectPacket, []byte{0x30, 0x80, 0x80, 0x80, 0x80, 1}), uint8(7))
	f.Add(slices.Concat(connectPacket, rawmqtt.Ack(rawmqtt.TypePuback, 9), connectPacket), uint8(255))
	f.Add([]byte{0x10, 0xff, 0xff, 0xff, 0x7f}, uint8(2))
	f.Fuzz(func(t *testing.T, stream []byte, step uint8) {
		var whole framer
		n, want := whole.feed(stream)
		if n > len(stream) || (want == None) != (n == len(stream)) {
			t.Fatalf("passed %d of %d for %v", n, len(stream), want)
		}
		var cut framer
		got := None
		for i, width := 0, int(step)+1; i < len(stream) && got == None; i += width {
			_, got = cut.feed(stream[i:min(i+width, len(stream))])
		}
		if got != want {
			t.Fatalf("cut into %d bytes: %v, at once: %v", int(step)+1, got, want)
		}
		first := true
		for r := bytes.NewReader(stream[:n]); r.Len() > 0; first = false {
			kind, _ := r.ReadByte()
			length, _, err := packets.DecodeLength(r)
			if err != nil {
				break // the stream ends within a header
			}
			if length+maxHeader > bound(kind>>4) || (kind>>4 == packets.Connect) != first {
				t.Fatalf("passed on: type %d with %d bytes", kind>>4, length)
			}
			_, _ = r.Seek(int64(min(length, r.Len())), 1)
		}
	})
}
