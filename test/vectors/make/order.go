package main

import (
	"encoding/hex"

	"levee/test/vectors"
)

// acknowledgements are messages under a key that their peer alone finds.
func (s *set) acknowledgements() {
	rec := sender{"melb", "recorder", "rec-1", 1}
	topic := "melb/bank_server/acks/rec-1/sensor/web-1"
	key := derive(web1.key(), "ack")
	good := rec.on(topic).with(`{"boot":"192b9fdc06e","seq":41}`).under(key)
	peer := func(of sender) vectors.Receiver {
		r := s.verifying(person())
		r.Own = &vectors.Own{KID: of.kid(), Key: hex.EncodeToString(of.key())}
		return r
	}
	second := web1
	second.generation = 2
	judge := s.verifying(monitor())
	judge.Keys = hexKeys("sensor", "recorder")
	for _, c := range []struct {
		name, says string
		r          vectors.Receiver
		m          message
		want       string
	}{
		{"honest-ack", "an acknowledgement, at its peer", peer(web1), good, "accepted"},
		{"honest-ack-signed", "an acknowledgement that is signed as well, at its peer", peer(web1), good.by(s.signer(s.machines, rec, edKey("rec-1"), nil)), "accepted"},
		{"honest-ack-generation", "an acknowledgement to a peer of generation 2, under the recorder's kid", peer(second), good.under(derive(second.key(), "ack")), "accepted"},
		{"ack-mac", "an acknowledgement under no key", peer(web1), good.under(make([]byte, 32)), "mac"},
		{"ack-peers-key", "an acknowledgement under its peer's own key", peer(web1), good.under(web1.key()), "mac"},
		{"ack-recorders-key", "an acknowledgement under the recorder's own key", peer(web1), good.under(rec.key()), "mac"},
		{"ack-another-generation", "an acknowledgement under the key for generation 1 of the peer, which is at 2", peer(second), good, "mac"},
		{"ack-another-peer", "an acknowledgement to web-1, at web-2", peer(web2), good, "unknown_key"},
		{"ack-without-a-key", "an acknowledgement at a receiver without keys: it waits for no digest", s.verifying(person()), good, "unknown_key"},
		{"ack-without-a-key-signed", "the same, and it is signed", s.verifying(person()), good.by(s.signer(s.machines, rec, edKey("rec-1"), nil)), "unknown_key"},
		{"ack-role-keys", "an acknowledgement at a receiver with the keys of both roles: it is not the peer", judge, good, "unknown_key"},
		{"ack-kid", "an acknowledgement whose kid is its peer's", peer(web1), web1.on(topic).with(good.payload).under(key), "sender"},
	} {
		s.vector(c.name, "6", c.says, c.r, given(rec, topic, c.m.raw(), c.want))
	}
	s.vector("ack-redelivered", "9", "an acknowledgement again: it is of the recorder's window", peer(web1), given(rec, topic, good.raw(), "accepted"),
		given(rec, topic, good.raw(), "redelivered"))
}

// orders are the cases of a receiver that holds keys, but not the role's, and
// of what comes before and after a missing signature or key.
func (s *set) orders() {
	holding := func(roles ...string) vectors.Receiver {
		r := s.verifying(monitor())
		r.Keys = hexKeys(roles...)
		return r
	}
	good := m1.on(command).by(s.m1)
	s.vector("honest-key-not-held", "7", "a signed message of a role whose key the receiver does not hold", holding("sensor"), good.given("accepted"))
	s.vector("honest-key-not-held-any-mac", "7", "a signed message stands by its signature where nobody can check its MAC", holding("sensor"),
		good.under(make([]byte, 32)).given("accepted"))
	s.vector("unknown-key-signed-of-another-role", "7", "the kid of a role whose key the receiver holds, on a topic of one whose key it does not", holding("sensor"),
		given(m1, command, web1.on(command).by(s.web1).raw(), "sender"))

	reading := web1.on(ramWeb1)
	judge := holding("monitor")
	for _, c := range []struct {
		name, says string
		m          message
		raw        string
		want       string
	}{
		{"unknown-key-unsigned", "an unsigned message of a role whose key the receiver does not hold, although it holds another's", reading, reading.raw(), "unknown_key"},
		{"unknown-key-before-stale", "the same, and stale: the key comes first", reading, reading.at(now - skew - 1).raw(), "unknown_key"},
		{"unknown-key-before-future", "the same, and too early: the key comes first", reading, reading.at(now + skew + 1).raw(), "unknown_key"},
		{"grammar-before-unknown-key", "the same, and a space: the grammar comes first", reading, reading.edited(`"ts":`, `"ts": `), "grammar"},
		{"payload-before-unknown-key", "the same, and a null: the payload comes first", reading, reading.value("null").raw(), "payload"},
		{"topic-before-unknown-key", "the same, and another topic: the topic comes first", reading, web1.on(cpuWeb1).raw(), "topic"},
		{"sender-before-unknown-key", "the same, and another sender: the sender comes first", reading, web2.on(ramWeb1).raw(), "sender"},
		{"signature-before-unknown-key", "a wrong signature under a MAC that nobody can check", reading, reading.by(s.web1.mended(spoil)).raw(), "signature"},
	} {
		s.vector(c.name, "7", c.says, judge, given(c.m.sender, c.m.topic, c.raw, c.want))
	}
	s.sequence("unknown-key-unmarked", "what was refused for its key leaves no mark", judge, step{reading, "unknown_key"}, step{reading.by(s.web1), "accepted"})

	bare := m1.on(command)
	for _, c := range []struct{ name, says, raw, want string }{
		{"unsigned-before-unknown-key", "a command without a signature, of a role whose key is not held: the signature comes first", bare.raw(), "unsigned"},
		{"grammar-before-unsigned", "a command without a signature, and a space: the grammar comes first", bare.edited(`"ts":`, `"ts": `), "grammar"},
		{"payload-before-unsigned", "a command without a signature, and a null: the payload comes first", bare.value("null").raw(), "payload"},
		{"topic-before-unsigned", "a command without a signature, made for another topic: the topic comes first", m1.on("melb/bank_server/alerts/m1").raw(), "topic"},
	} {
		s.vector(c.name, "7", c.says, holding("sensor"), given(m1, command, c.raw, c.want))
	}
	s.vector("mac-before-unsigned", "7", "a command without a signature, and a wrong MAC: the MAC comes first", holding("monitor"),
		bare.under(make([]byte, 32)).given("mac"))
	s.vector("unsigned-before-future", "7", "a command without a signature, and too early: the signature comes first", holding("monitor"),
		bare.at(now+skew+1).given("unsigned"))
	late := holding("monitor")
	late.Start = now
	s.vector("unsigned-before-start", "7", "a command without a signature, before the start: the signature comes first", late, bare.given("unsigned"))
}
