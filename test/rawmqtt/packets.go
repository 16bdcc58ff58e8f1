package rawmqtt

import (
	"encoding/binary"
	"fmt"
)

// ConnectOptions are the fields of CONNECT. The zero value with a client
// identifier and a keep-alive is a plain MQTT 3.1.1 clean session.
type ConnectOptions struct {
	Protocol   string // "MQTT" if empty
	Level      byte   // 4 if zero
	ClientID   string
	KeepAlive  uint16
	Persistent bool // clean session flag off
	WillTopic  string
	WillBody   string
	WillRetain bool
	Username   string
	Password   string
	Flags      byte // set in addition
}

// Raw frames body as a packet of type t.
func Raw(t, flags byte, body []byte) []byte {
	b := []byte{t<<4 | flags}
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...)
}

// Connect encodes CONNECT (section 3.1). Level 5 gets empty properties.
func Connect(o ConnectOptions) []byte {
	if o.Protocol == "" {
		o.Protocol = "MQTT"
	}
	if o.Level == 0 {
		o.Level = 4
	}
	flags := o.Flags
	if !o.Persistent {
		flags |= 1 << 1
	}
	if o.WillTopic != "" {
		flags |= 1 << 2
		if o.WillRetain {
			flags |= 1 << 5
		}
	}
	if o.Username != "" {
		flags |= 1 << 7
	}
	if o.Password != "" {
		flags |= 1 << 6
	}
	b := text(nil, o.Protocol)
	b = append(b, o.Level, flags)
	b = binary.BigEndian.AppendUint16(b, o.KeepAlive)
	if o.Level == 5 {
		b = append(b, 0)
	}
	b = text(b, o.ClientID)
	if o.WillTopic != "" {
		if o.Level == 5 {
			b = append(b, 0)
		}
		b = text(b, o.WillTopic)
		b = text(b, o.WillBody)
	}
	if o.Username != "" {
		b = text(b, o.Username)
	}
	if o.Password != "" {
		b = text(b, o.Password)
	}
	return Raw(TypeConnect, 0, b)
}

// Message is one PUBLISH.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
	Dup     bool
	ID      uint16 // for QoS above 0
}

// Publish encodes PUBLISH (section 3.3).
func Publish(m Message) []byte {
	flags := m.QoS << 1
	if m.Retain {
		flags |= 1
	}
	if m.Dup {
		flags |= 8
	}
	b := text(nil, m.Topic)
	if m.QoS > 0 {
		b = binary.BigEndian.AppendUint16(b, m.ID)
	}
	return Raw(TypePublish, flags, append(b, m.Payload...))
}

// Message decodes PUBLISH.
func (p Packet) Message() (Message, error) {
	m := Message{QoS: p.Flags >> 1 & 3, Retain: p.Flags&1 != 0, Dup: p.Flags&8 != 0}
	if p.Type != TypePublish || len(p.Body) < 2 {
		return m, fmt.Errorf("reading PUBLISH: type %d, body %x", p.Type, p.Body)
	}
	n, rest := int(binary.BigEndian.Uint16(p.Body)), p.Body[2:]
	if len(rest) < n {
		return m, fmt.Errorf("reading PUBLISH: topic is cut short")
	}
	m.Topic, rest = string(rest[:n]), rest[n:]
	if m.QoS > 0 {
		if len(rest) < 2 {
			return m, fmt.Errorf("reading PUBLISH: packet identifier is cut short")
		}
		m.ID, rest = binary.BigEndian.Uint16(rest), rest[2:]
	}
	m.Payload = rest
	return m, nil
}

// Subscribe encodes SUBSCRIBE (section 3.8) with one QoS for all filters.
func Subscribe(id uint16, qos byte, filters ...string) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	for _, f := range filters {
		b = append(text(b, f), qos)
	}
	return Raw(TypeSubscribe, 2, b)
}

// Unsubscribe encodes UNSUBSCRIBE (section 3.10).
func Unsubscribe(id uint16, filters ...string) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	for _, f := range filters {
		b = text(b, f)
	}
	return Raw(TypeUnsubscribe, 2, b)
}

// Ack encodes PUBACK, PUBREC, PUBREL or PUBCOMP.
func Ack(t byte, id uint16) []byte {
	flags := byte(0)
	if t == TypePubrel {
		flags = 2
	}
	return Raw(t, flags, binary.BigEndian.AppendUint16(nil, id))
}

// Pingreq encodes PINGREQ.
func Pingreq() []byte { return Raw(TypePingreq, 0, nil) }

// Disconnect encodes DISCONNECT.
func Disconnect() []byte { return Raw(TypeDisconnect, 0, nil) }

func text(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}
