package main

import "levee/test/vectors"

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
