//go:build unix

package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/internal/config"
	"levee/internal/provision"
)

func exampleInventory(t *testing.T) (inv provision.Inventory) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "inventory.yaml")
	if err := os.WriteFile(file, provision.Example(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := config.Load(file, &inv); err != nil {
		t.Fatal(err)
	}
	return inv
}

// What testscript cannot say: the clock, another process, another user.
func TestApplyRefusesAndTells(t *testing.T) {
	inv, out := exampleInventory(t), filepath.Join(t.TempDir(), "bank")
	var shown bytes.Buffer
	if err := apply(&shown, provision.Config{Dir: out, Inventory: inv, Unsealed: true}, false, time.Now()); err != nil {
		t.Fatal(err)
	}
	shown.Reset()
	if err := apply(&shown, provision.Config{Dir: out, Inventory: inv, Unsealed: true}, false, time.Now().AddDate(0, 0, 40)); err != nil {
		t.Fatal(err)
	}
	// The guests have expired; machines of a site with an issuer renew themselves; people have time.
	if n, renewed := strings.Count(shown.String(), "EXPIRED"), strings.Count(shown.String(), "its part has renewed it"); n != 2 || renewed != 16 {
		t.Errorf("%d expired, %d renewed:\n%s", n, renewed, shown.String())
	}

	unlock, taken, err := tryLock(filepath.Join(out, "lock"))
	if err != nil || !taken {
		t.Fatal(taken, err)
	}
	if err := apply(&shown, provision.Config{Dir: out, Inventory: inv, Unsealed: true}, false, time.Now()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("two at a time: %v", err)
	}
	unlock()

	if os.Geteuid() == 0 {
		if err := os.Chown(out, 65534, -1); err != nil {
			t.Fatal(err)
		}
		if err := apply(&shown, provision.Config{Dir: out, Inventory: inv, Unsealed: true}, false, time.Now()); err == nil || !strings.Contains(err.Error(), "belongs to somebody else") {
			t.Errorf("another user's directory: %v", err)
		}
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// What could not be shown is told by the next run.
func TestApplyTellsAgain(t *testing.T) {
	inv, out := exampleInventory(t), filepath.Join(t.TempDir(), "bank")
	if err := apply(brokenPipe{}, provision.Config{Dir: out, Inventory: inv, Unsealed: true}, false, time.Now()); err == nil {
		t.Error("nothing was shown, and that is no error")
	}
	for i, want := range []string{"22 changed", "0 changed"} {
		var shown bytes.Buffer
		if err := apply(&shown, provision.Config{Dir: out, Inventory: inv, Unsealed: true}, false, time.Now()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(shown.String(), want) {
			t.Errorf("run %d does not say %q:\n%s", i, want, shown.String())
		}
	}
}
