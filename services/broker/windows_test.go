package broker

import (
	"testing"
	"time"

	"levee/envelope"
	"levee/envelope/replay"
)

// Windows that are closed, or whose file failed, pass nothing on.
func TestClosedWindows(t *testing.T) {
	b, s := offline(t)
	key, err := envelope.NewKey(make([]byte, envelope.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	message := func(seq uint64) []byte {
		raw, err := envelope.Append(nil, envelope.Header{KeyID: envelope.KeyID{Site: "melb", Role: "sensor", Name: "web-1", Generation: 1},
			Time: now.UnixMilli(), Nonce: envelope.Nonce{Boot: 1, Seq: seq}, Topic: cpuTopic}, []byte(`{"cpu_usage":1}`), key, nil)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if r, _ := b.inspect(s, cpuTopic, message(1), now); r != envelope.Accepted {
		t.Fatal(r.String())
	}
	if err := b.windows.(*replay.Set).Close(); err != nil {
		t.Fatal(err)
	}
	if r, _ := b.inspect(s, cpuTopic, message(2), now); r != envelope.WindowsFailed {
		t.Errorf("with closed windows: %s", r.String())
	}
}

// A client with a fast clock that starts anew does not silence its honest
// namesake without an alarm.
func TestFastClone(t *testing.T) {
	b, s := offline(t)
	key, err := envelope.NewKey(make([]byte, envelope.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	send := func(at, ts time.Time, boot, seq uint64) envelope.Reason {
		t.Helper()
		raw, err := envelope.Append(nil, envelope.Header{KeyID: envelope.KeyID{Site: "melb", Role: "sensor", Name: "web-1", Generation: 1},
			Time: ts.UnixMilli(), Nonce: envelope.Nonce{Boot: boot, Seq: seq}, Topic: cpuTopic}, []byte(`{"cpu_usage":1}`), key, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, _ := b.inspect(s, cpuTopic, raw, at)
		return r
	}
	honest := uint64(now.Add(-time.Hour).UnixMilli())
	ahead := now.Add(29 * time.Second)
	if r := send(now, ahead, uint64(ahead.UnixMilli()), 1); r != envelope.Accepted {
		t.Fatal(r.String())
	}
	if r := send(now.Add(time.Second), now.Add(time.Second), honest, 1); r != envelope.Cloned {
		t.Errorf("the honest one: %s", r.String())
	}
}
