package session

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

// renew gives a session's part its next certificate, as a renewal would.
func renew(t *testing.T, s *Session, lifetime time.Duration) {
	t.Helper()
	store := s.config.Bundle.Credentials
	issuer := machineCA(t, store.Identity().Site)
	key, err := pki.NewKey(store.Identity().Role)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueLeaf(issuer, store.Identity(), key.Public(), ca.Names{}, lifetime, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, chainPEM, err := pki.MarshalCredential(key, leaf, issuer.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Replace(keyPEM, chainPEM); err != nil {
		t.Fatal(err)
	}
}

// lease is longer than what provisioning issued, and backdated less.
const lease = pki.MaxMachineLifetime

// The connection with the renewed certificate is there before the one with the
// old certificate goes, and nothing is lost or sent twice.
func TestHandOver(t *testing.T) {
	b := melbBroker(t)
	b.start()
	log := new(logBuffer)
	s := sensorTo(t, log, b)
	run(t, s)
	publish := func(i int) {
		if err := s.Publish(ramOfWeb1, &wire.RAM{Timestamp: float64(i), Server: "web-1"}); err != nil {
			t.Fatal(err)
		}
	}
	publish(0)
	eventually(t, "the first message", func() bool { return len(b.got()) == 1 })
	renew(t, s, lease)
	for i := 1; i < 10; i++ {
		publish(i)
	}
	eventually(t, "ten messages", func() bool { return len(b.got()) == 10 })
	eventually(t, "a second connection", func() bool { return slices.Equal(b.clientIDs(), []string{"melb_sensor_web-1", "melb_sensor_web-1_1"}) })
	eventually(t, "the first says goodbye", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.goodbyes == 1 })
	publish(10)
	eventually(t, "one more", func() bool { return len(b.got()) == 11 })
	seen := make(map[string]bool)
	for i, p := range b.got() {
		if seen[string(p.raw)] {
			t.Errorf("message %d came twice", i)
		}
		seen[string(p.raw)] = true
	}
	if last := b.got()[10]; last.conn != 2 {
		t.Error("the last message came by the old connection")
	}
	if lines := log.lines("not connected"); len(lines) != 0 {
		t.Errorf("the log speaks of a loss: %v", lines)
	}
}

// While no second connection comes about, the first one goes on.
func TestHandOverThatFails(t *testing.T) {
	b := melbBroker(t)
	b.connack = func(conn int) byte { return map[bool]byte{true: 3}[conn == 2] } // server unavailable
	b.start()
	log := new(logBuffer)
	s := sensorTo(t, log, b)
	run(t, s)
	if err := s.Publish(ramOfWeb1, &wire.RAM{Server: "web-1"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first message", func() bool { return len(b.got()) == 1 })
	renew(t, s, lease)
	eventually(t, "the refusal is in the log", func() bool { return len(log.lines("no connection with the renewed certificate yet")) == 1 })
	if err := s.Publish(ramOfWeb1, &wire.RAM{Server: "web-1"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second message", func() bool { return len(b.got()) == 2 })
	if got := b.got()[1]; got.conn != 1 {
		t.Error("it did not come by the connection that stood")
	}
	eventually(t, "another attempt", func() bool { return len(b.clientIDs()) == 3 })
	if !strings.HasSuffix(fmt.Sprint(b.clientIDs()), "_1]") {
		t.Errorf("%v", b.clientIDs())
	}
}

func (b *fakeBroker) clientIDs() (ids []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.connects {
		ids = append(ids, c.id)
	}
	return ids
}
