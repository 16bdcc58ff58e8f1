package e2e

import (
	"net/http"
	"testing"
	"time"

	"levee/internal/wire"
	"levee/pki"
)

// Whoever holds the site's machine authority can make a monitor. The broker
// lets it in, its command is sealed and signed as a monitor's should be, and
// the controller does nothing: the site document pins another key.
func TestPin(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	broker := b.daemon(t, pki.RoleBroker)
	broker.awaitLog(t, 0, entry{"msg": "broker listens"})
	tap := b.tap(t)
	recorder, controller := b.daemon(t, pki.RoleRecorder), b.daemon(t, pki.RoleController)
	for _, p := range []*process{recorder, controller} {
		p.awaitLog(t, 0, entry{"msg": "connected"})
	}
	await(t, 30*time.Second, "the balancer answers", func() bool { return get(b.balancer).code == http.StatusOK })

	monitor := b.steal(t, pki.RoleMonitor, "mon-1")
	minted := b.mint(t, monitor.id, time.Hour)
	minted.key = monitor.key
	client := b.connect(t, minted)
	topic, raw := minted.command(t)
	publish(t, client, topic, raw)
	for _, p := range []*process{recorder, controller} {
		p.awaitLog(t, 0, entry{"msg": "message refused", "reason": "pin", "topic": topic})
	}
	if tap.saw(raw) != 1 {
		t.Error("the broker has not passed it on") // it has no reason to refuse it
	}
	if b.limited() {
		t.Error("the balancer is limited")
	}

	// The same with the key that is pinned.
	minted.signer = monitor.signer
	topic, raw = minted.command(t)
	publish(t, client, topic, raw)
	tap.await(t, wire.KindRateLimiting, func([]byte) bool { return true })
	await(t, 10*time.Second, "the pinned monitor is heard", b.limited)
}
