package broker

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"levee/internal/wire"
)

// hook is all of our decisions within mochi. Every method that decides recovers
// from a panic and then refuses.
//
// What mochi makes of a hook's error differs by method, and most errors mean
// "go on": OnPacketRead stops for ErrRejectPacket alone (P11), OnPublish
// swallows a message for CodeSuccessIgnore or ErrRejectPacket alone (P1).
type hook struct {
	mqtt.HookBase
	b *Broker
}

// errAnonymous says that a client is not one of our sessions. There is none:
// the inline client is not enabled.
var errAnonymous = errors.New("no session")

// ID names the hook within mochi.
func (h *hook) ID() string { return "levee" }

// Provides lists the methods that mochi calls.
func (h *hook) Provides(method byte) bool {
	switch method {
	case mqtt.OnPacketRead, mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnSessionEstablished,
		mqtt.OnACLCheck, mqtt.OnSubscribe, mqtt.OnPublish, mqtt.OnPublished, mqtt.OnPublishDropped:
		return true
	}
	return false
}

// sessionOf returns the session of a client, nil if there is none.
func sessionOf(cl *mqtt.Client) *session {
	s, _ := cl.Net.Conn.(*session)
	return s
}

// contain recovers from a panic of the deferring method. If there was one it
// ends the session and calls deny, which sets the method's results.
func (h *hook) contain(s *session, deny func()) {
	if cause := recover(); cause != nil {
		deny()
		h.b.panicked(s, cause)
	}
}

// OnPacketRead judges every packet as soon as it is decoded, CONNECT included,
// and before anything of mochi acts on it. A refusal ends the session.
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (_ packets.Packet, err error) {
	s := sessionOf(cl)
	if s == nil {
		return pk, packets.ErrRejectPacket
	}
	defer h.contain(s, func() { err = packets.ErrRejectPacket })
	if s.client.Load() == nil {
		s.client.Store(cl)
	}
	if r := h.judge(s, cl, &pk); r != None {
		s.end(r)
		return pk, packets.ErrRejectPacket
	}
	return pk, nil
}

func (h *hook) judge(s *session, cl *mqtt.Client, pk *packets.Packet) Reason {
	if pk.FixedHeader.Type == packets.Connect {
		r := s.judgeConnect(pk)
		if code, ok := connackCodes[r]; ok {
			_, _ = s.Write([]byte{packets.Connack << 4, 2, 0, code})
		}
		return r
	}
	if s.clientID == "" {
		return BadPacket
	}
	r := None
	switch pk.FixedHeader.Type {
	case packets.Disconnect:
		s.goodbye = true
		return None // costs no more than its bytes
	case packets.Puback:
		return None
	case packets.Pingreq:
	case packets.Publish:
		s.messages.Add(1)
		r = s.judgePublish(pk)
	case packets.Subscribe, packets.Unsubscribe:
		r = s.judgeFilters(pk)
		h.freeID(cl, pk.PacketID)
	default:
		r = BadPacket
	}
	if r == None && !s.admit(s.account.messages, 1) {
		return TooFast
	}
	return r
}

// freeID makes room for a client's packet identifier. mochi keeps both
// directions' identifiers in one table and refuses a SUBSCRIBE that meets one
// of its own unacknowledged messages there (P16). The message was sent; without
// persistent sessions it would never be sent again.
func (h *hook) freeID(cl *mqtt.Client, id uint16) {
	if cl.State.Inflight.Delete(id) {
		atomic.AddInt64(&h.b.server.Info.Inflight, -1)
	}
}

// OnConnect refuses whatever did not pass OnPacketRead.
func (h *hook) OnConnect(cl *mqtt.Client, _ packets.Packet) error {
	if s := sessionOf(cl); s == nil || s.clientID == "" || s.clientID != cl.ID {
		return errAnonymous
	}
	return nil
}

// OnConnectAuthenticate admits the session when it owns its client identifier.
// Whose it is was settled by TLS, and which identifier it may have by
// OnPacketRead; both are asked again.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) (ok bool) {
	s := sessionOf(cl)
	if s == nil {
		return false
	}
	defer h.contain(s, func() { ok = false })
	if s.identity.Site != h.b.site || !s.mayUse(cl.ID) || pk.Connect.ClientIdentifier != cl.ID {
		s.end(BadClientID)
		return false
	}
	r := h.b.registry.claim(s, h.b.bounds().TakeoverTimeout)
	if r == None {
		r = h.b.registry.handOver(s)
	}
	if r != None {
		s.end(r)
		return false
	}
	s.ticket.settle()
	return true
}

// OnSessionEstablished notes the session.
func (h *hook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	s := sessionOf(cl)
	if s == nil {
		return
	}
	name := s.clientID
	s.named.Store(&name)
	h.b.counters.sessions.Add(1)
	h.b.presence.arrive(s, time.Now())
	h.b.reporter.report(slog.LevelInfo, "opened "+cl.ID, "session opened",
		slog.String("identity", s.sender), slog.String("client", cl.ID), slog.String("remote", s.from))
}

// OnACLCheck is asked for each PUBLISH (write), each filter of a SUBSCRIBE, and
// each delivery. The last two look alike; a wildcard tells them apart, because
// no topic has one, and a filter without one is the topic that it matches.
func (h *hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) (ok bool) {
	s := sessionOf(cl)
	if s == nil {
		return false
	}
	defer h.contain(s, func() { ok = false })
	switch {
	case write:
		if ok = s.grant.Load().rights.MayPublish(topic); !ok {
			// mochi drops the message at QoS 0. At QoS 1 it would write a
			// packet that MQTT 3.1.1 does not know, and disconnect.
			s.end(NotPublisher)
		}
	case strings.ContainsAny(topic, "+#"):
		ok = s.grant.Load().rights.MaySubscribe(topic)
	default:
		if ok = s.grant.Load().rights.MayReceive(topic); !ok {
			h.b.refuse(slog.LevelError, NotReceiver, slog.String("identity", s.sender))
		} else {
			s.makeWay()
		}
	}
	return ok
}

// OnSubscribe replaces every filter that is not granted by one that mochi
// answers with 0x80. Leaving it out would make SUBACK shorter than SUBSCRIBE.
func (h *hook) OnSubscribe(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	s := sessionOf(cl)
	if s == nil {
		return denied(pk)
	}
	defer h.contain(s, func() { denied(pk) })
	g := s.grant.Load()
	room := g.limits.Subscriptions - cl.State.Subscriptions.Len()
	for i := range pk.Filters {
		filter := pk.Filters[i].Filter
		r := None
		switch _, held := cl.State.Subscriptions.Get(filter); {
		case strings.HasPrefix(filter, "$"):
			r = BadFilter // $SYS and $share (P15, P27)
		case !g.rights.MaySubscribe(filter):
			r = NotSubscriber
		case held:
		case room <= 0:
			r = TooManyFilters
		default:
			room--
		}
		if r != None {
			pk.Filters[i].Filter = ""
			h.b.refuse(slog.LevelWarn, r, slog.String("identity", s.sender), slog.String("filter", filter))
		}
	}
	return pk
}

// denied makes every filter one that mochi refuses. The filters are shared with
// the caller's packet.
func denied(pk packets.Packet) packets.Packet {
	for i := range pk.Filters {
		pk.Filters[i].Filter = ""
	}
	return pk
}

// OnPublished ends the session of an issuer that revoked itself, once its list is
// delivered: mochi would not deliver it for a session that has ended.
func (h *hook) OnPublished(cl *mqtt.Client, _ packets.Packet) {
	if s := sessionOf(cl); s != nil && s.condemned {
		s.end(Revoked)
	}
}

// OnPublishDropped counts deliveries that a reader's full queue cost.
func (h *hook) OnPublishDropped(cl *mqtt.Client, _ packets.Packet) {
	h.b.counters.dropped.Add(1)
	if s := sessionOf(cl); s != nil {
		h.b.reporter.report(slog.LevelWarn, "dropped "+s.sender, "delivery dropped, the reader is too slow",
			slog.String("identity", s.sender))
	}
}

// judgePublish checks what does not depend on who publishes.
func (s *session) judgePublish(pk *packets.Packet) Reason {
	bounds := s.b.bounds()
	switch {
	case pk.FixedHeader.Qos > 1:
		return BadQoS
	case pk.FixedHeader.Retain:
		return BadRetain
	case pk.FixedHeader.Qos == 1 && pk.PacketID == 0:
		return BadPacket
	case !wire.ValidTopic(pk.TopicName) || len(pk.TopicName) > bounds.TopicBytes || strings.Count(pk.TopicName, "/") >= bounds.TopicLevels:
		return BadTopicName
	}
	return None
}

// judgeFilters bounds the filters of SUBSCRIBE and UNSUBSCRIBE: mochi's index
// takes time that grows with the square of the levels, under one lock (P14).
func (s *session) judgeFilters(pk *packets.Packet) Reason {
	bounds := s.b.bounds()
	switch {
	case pk.PacketID == 0 || len(pk.Filters) == 0:
		return BadPacket
	case len(pk.Filters) > bounds.Filters:
		return TooManyFilters
	}
	for i := range pk.Filters {
		f := pk.Filters[i].Filter
		if len(f) > bounds.TopicBytes || strings.Count(f, "/") >= bounds.TopicLevels {
			return BadFilter
		}
	}
	return None
}
