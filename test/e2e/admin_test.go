package e2e

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/internal/brokeradmin"
	"levee/pki"
)

// admin runs levee broker and returns its output and exit code.
func (b *bank) admin(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "levee"), append([]string{"broker"}, append(args, "--config", b.layout.Config(b.ids[pki.RoleBroker]))...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(text) + stderr.String(), cmd.ProcessState.ExitCode()
}

// listed returns what levee broker sessions shows.
func (b *bank) listed(t *testing.T, args ...string) (sessions []brokeradmin.Session, bans []brokeradmin.Ban) {
	t.Helper()
	out, code := b.admin(t, append([]string{"sessions", "--json"}, args...)...)
	var all struct {
		Sessions []brokeradmin.Session
		Bans     []brokeradmin.Ban
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != 0 {
		t.Fatalf("code %d, %v: %s", code, err, out)
	}
	return all.Sessions, all.Bans
}

// An administrator of the broker's machine sees a live session, ends it, keeps
// it away and lets it in again; each order is in the broker's log. What a killed
// broker left is no obstacle, and a ban does not outlive the process.
func TestAdministration(t *testing.T) {
	b := newBank(t)
	socket := filepath.Join(b.layout.State(b.ids[pki.RoleBroker]), "admin.sock")
	broker := b.daemon(t, pki.RoleBroker)
	broker.awaitLog(t, 0, entry{"msg": "broker listens"})
	b.watchAs(t, pki.RoleViewer)
	viewer := b.ids[pki.RoleViewer].Sender()
	connected := func() bool {
		sessions, _ := b.listed(t, "--identity", viewer)
		return len(sessions) == 1 && sessions[0].FiltersHeld > 0
	}
	await(t, 20*time.Second, "the viewer is connected", connected)
	// The broker's own session is one like any other (docs/broker.md, section 3).
	if sessions, _ := b.listed(t); len(sessions) != 2 || sessions[0].Identity != b.ids[pki.RoleBroker].Sender() || sessions[1].Identity != viewer || sessions[1].Bytes == 0 {
		t.Errorf("%+v", sessions)
	}
	if out, code := b.admin(t, "sessions"); code != 0 || !strings.Contains(out, "IDENTITY") || !strings.Contains(out, viewer) || !strings.Contains(out, "2 sessions") {
		t.Errorf("code %d: %s", code, out)
	}
	if info, err := os.Lstat(socket); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v, %v", info, err)
	}

	first, _ := b.listed(t, "--identity", viewer)
	if out, code := b.admin(t, "kick", viewer); code != 0 || !strings.Contains(out, "1 sessions ended") {
		t.Errorf("code %d: %s", code, out)
	}
	broker.awaitLog(t, 0, entry{"level": "WARN", "msg": "an administrator's order", "order": "kick", "target": viewer, "uid": float64(os.Geteuid())})
	broker.awaitLog(t, 0, entry{"msg": "connection closed", "reason": "kicked", "identity": viewer})
	await(t, 30*time.Second, "the viewer has come back", func() bool {
		again, _ := b.listed(t, "--identity", viewer)
		return len(again) == 1 && again[0].Since.After(first[0].Since)
	})

	if out, code := b.admin(t, "ban", viewer, "--for", "1h"); code != 0 || !strings.Contains(out, "until the broker stops") {
		t.Errorf("code %d: %s", code, out)
	}
	mark := broker.mark()
	broker.awaitLog(t, mark, entry{"msg": "connection refused", "reason": "banned"})
	if sessions, bans := b.listed(t); len(sessions) != 1 || len(bans) != 1 || bans[0].Who != viewer {
		t.Errorf("%+v, %+v", sessions, bans)
	}
	if out, code := b.admin(t, "unban", viewer); code != 0 {
		t.Errorf("code %d: %s", code, out)
	}
	await(t, time.Minute, "the viewer has come back", connected)
	for _, args := range [][]string{{"unban", viewer}, {"kick", "melb/sensor/nobody"}, {"ban", "perth/sensor/web-1"}} {
		if out, code := b.admin(t, args...); code != 3 || !strings.Contains(out, "the broker refuses") {
			t.Errorf("%v: code %d: %s", args, code, out)
		}
	}

	// A killed broker leaves its socket, and takes its bans along.
	if out, code := b.admin(t, "ban", viewer); code != 0 {
		t.Errorf("code %d: %s", code, out)
	}
	broker.Kill(t)
	if _, err := os.Lstat(socket); err != nil {
		t.Fatal(err)
	}
	if out, code := b.admin(t, "sessions"); code != 1 || !strings.Contains(out, syscall.ECONNREFUSED.Error()) {
		t.Errorf("code %d: %s", code, out)
	}
	broker = b.daemon(t, pki.RoleBroker)
	await(t, time.Minute, "the viewer is connected to the new broker", func() bool {
		_, err := os.Lstat(socket)
		if err != nil {
			return false
		}
		_, code := b.admin(t, "sessions")
		return code == 0 && connected()
	})
	if _, bans := b.listed(t); len(bans) != 0 {
		t.Errorf("%+v", bans)
	}
	broker.Stop(t)
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}
