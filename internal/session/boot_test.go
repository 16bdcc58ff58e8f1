package session

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/envelope"
)

const testSkew = 30 * time.Second

func TestBootGrowsWithEachStart(t *testing.T) {
	dir := t.TempDir()
	at := time.UnixMilli(1_700_000_000_000)
	var last uint64
	for _, now := range []time.Time{at, at, at.Add(time.Millisecond), at.Add(-time.Second), at.Add(-29 * time.Second), at.Add(time.Hour)} {
		boot, err := nextBoot(dir, now, testSkew)
		if err != nil {
			t.Fatalf("at %v: %v", now, err)
		}
		if boot <= last || boot < uint64(now.UnixMilli()) {
			t.Errorf("at %v: boot %d after %d", now, boot, last)
		}
		// What is recorded is what is used, not later.
		text, err := os.ReadFile(filepath.Join(dir, "boot"))
		if recorded, ok := envelope.ParseBoot(strings.TrimSpace(string(text))); err != nil || !ok || recorded != boot {
			t.Errorf("recorded %q, %v, and used %d", text, err, boot)
		}
		last = boot
	}
}

// Receivers refuse a boot above ts + skew, so a start that would make one is an
// error here, and changes nothing.
func TestBootRefusesAClockFarBack(t *testing.T) {
	dir := t.TempDir()
	at := time.UnixMilli(1_700_000_000_000)
	if _, err := nextBoot(dir, at, testSkew); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(dir, "boot"))
	if err != nil {
		t.Fatal(err)
	}
	if boot, err := nextBoot(dir, at.Add(-30*time.Second), testSkew); err == nil {
		t.Errorf("boot %d, a millisecond beyond the skew", boot)
	} else if !strings.Contains(err.Error(), "set this machine's clock") {
		t.Errorf("the error does not say what to do: %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "boot")); err != nil || string(after) != string(before) {
		t.Errorf("a refused start recorded %q", after)
	}
	if boot, err := nextBoot(dir, at.Add(-30*time.Second+time.Millisecond), testSkew); err != nil || boot != uint64(at.UnixMilli())+1 {
		t.Errorf("at the skew: %d, %v", boot, err)
	}
}

func TestBootRefusesADamagedFile(t *testing.T) {
	for _, text := range []string{"", "x", "18bcfe5680", "18bcfe56800f", "18BCFE56800", "00000000000", "18bcfe56800 18bcfe56800", strings.Repeat("0", 100)} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "boot"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if boot, err := nextBoot(dir, time.Now(), testSkew); err == nil {
			t.Errorf("%q: boot %d", text, boot)
		}
	}
}

// A boot that could not be recorded is not used.
func TestBootIsRecordedBeforeItIsUsed(t *testing.T) {
	if boot, err := nextBoot(filepath.Join(t.TempDir(), "missing"), time.Now(), testSkew); err == nil {
		t.Errorf("boot %d, recorded nowhere", boot)
	}
}
