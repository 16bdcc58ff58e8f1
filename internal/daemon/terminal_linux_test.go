package daemon_test

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"levee/internal/daemon"
)

// terminal opens a pseudo-terminal.
func terminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminal to be had: %v", err)
	}
	t.Cleanup(func() { ours.Close() })
	number, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skipf("no terminal to be had: %v", err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminal to be had: %v", err)
	}
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

// On a terminal the log is text, and a value from the network stays one: the
// logging library, with colours on, would put its escapes back.
func TestLogOnATerminalIsInert(t *testing.T) {
	ours, theirs := terminal(t)
	log := daemon.NewLog(theirs, slog.LevelInfo)
	log.Warn("refused", slog.String("topic", "\x1b[2Jx"), slog.String("other", `\x1b[2Jy`))
	line, err := bufio.NewReader(ours).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(line, "\x1b") || !strings.Contains(line, "WRN refused") || strings.HasPrefix(line, "{") {
		t.Errorf("%q", line)
	}
}
