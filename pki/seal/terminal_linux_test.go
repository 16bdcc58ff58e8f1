package seal_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"levee/pki/seal"
)

// terminal returns both ends of a pseudo-terminal: the one with the keyboard,
// and the one that a program has.
func terminal(t *testing.T) (keyboard, program *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return keyboard, program
}

func TestTerminal(t *testing.T) {
	for _, test := range []struct {
		name    string
		typed   string
		new     bool
		wrong   string // what the error says; "" for none
		prompts int
	}{
		{"once", line + "\r", false, "", 1},
		{"corrected", "correct horsf\x7fe\r", false, "", 1},
		{"new, twice", line + "\r" + line + "\r", true, "", 2},
		{"new, twice, differently", line + "\r" + line + "!\r", true, "differ", 2},
		{"new, too short", "abcdefghijk\r", true, "shorter", 1},
		{"too short", "abcdefghijk\r", false, "shorter", 1},
		{"nothing", "\r", false, "empty", 1},
		{"interrupted", "correct\x03", false, "interrupted", 1},
		{"ended", "\x04", false, "interrupted", 1},
		{"interrupted at the second", line + "\r\x03", true, "interrupted", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			keyboard, program := terminal(t)
			before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			shown := make(chan string)
			go func() { // a person, who types when asked
				var screen strings.Builder
				buffer := make([]byte, 256)
				answers := strings.SplitAfter(test.typed, "\r")
				for asked := 0; ; {
					n, err := keyboard.Read(buffer)
					screen.Write(buffer[:n])
					if now := strings.Count(screen.String(), ": "); now > asked {
						asked = now
						_, _ = io.WriteString(keyboard, answers[min(asked, len(answers))-1])
					}
					if err != nil || strings.HasSuffix(screen.String(), "§") {
						shown <- screen.String()
						return
					}
				}
			}()
			got, err := seal.Ask(seal.Source{Terminal: program, Prompt: "root key of bank.example", New: test.new})
			if test.wrong == "" {
				if err != nil || !seal.Equal(got, passphrase(t, line)) {
					t.Errorf("refused: %v", err)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.wrong) {
				t.Errorf("%v, want %q", err, test.wrong)
			}
			_, _ = io.WriteString(program, "§")
			screen := <-shown
			if !strings.Contains(screen, "root key of bank.example") || strings.Count(screen, ": ") != test.prompts {
				t.Errorf("asked %q", screen)
			}
			if strings.Contains(screen, "corr") || strings.Contains(screen, "abc") {
				t.Errorf("the terminal shows what was typed: %q", screen)
			}
			after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
			if err != nil || *after != *before {
				t.Errorf("the terminal is left as %+v, was %+v, %v", after, before, err)
			}
		})
	}

	t.Run("as descriptor", func(t *testing.T) {
		_, program := terminal(t)
		fd, err := unix.Dup(int(program.Fd())) // Ask closes what it read
		if err != nil {
			t.Fatal(err)
		}
		if _, err := seal.Ask(seal.Source{Descriptor: fmt.Sprint(fd)}); err == nil || !strings.Contains(err.Error(), "is a terminal") {
			t.Errorf("it would show the passphrase: %v", err)
		}
	})
}

// The runtime's own descriptors have no kind. To read or close one of them by
// mistake would break the process.
func TestDescriptorOfNoKind(t *testing.T) {
	fd, err := unix.Eventfd(1, 0) // as if it were handed over: one of our own is refused before
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Ask(seal.Source{Descriptor: fmt.Sprint(fd)}); err == nil || !strings.Contains(err.Error(), "neither a file nor a pipe") {
		t.Errorf("%v", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
		t.Errorf("it was closed: %v", err)
	}
}
