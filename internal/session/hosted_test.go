package session

import (
	"path/filepath"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/revocation"
)

// A session in a process that runs revocations, renewal and the watch of the clock
// already shares the first and does none of the others a second time.
func TestHostedSession(t *testing.T) {
	b := openBundle(t, identity("melb", pki.RoleBroker, "b1"))
	set, err := revocation.Open(revocation.Config{Site: "melb", Verifier: b.Verifier, Document: b.Document,
		File: filepath.Join(t.TempDir(), revocation.FileName), Skew: b.Policy.Skew(), Log: quiet()}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	log := new(logBuffer)
	c := Config{Bundle: b, Ring: ringOf(t, b.KeyFile), Revocations: set, Log: log.logger()}
	hosted, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if hosted.Revocations() != set || hosted.renewal != nil {
		t.Errorf("it has revocations %v and renewal %v of its own", hosted.Revocations() != set, hosted.renewal)
	}
	hosted.Close()
	c.Revocations = nil
	alone, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if alone.Revocations() == set || alone.renewal == nil {
		t.Error("one that is alone keeps nothing")
	}
	alone.Close()
}
