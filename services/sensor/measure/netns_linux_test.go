package measure

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace marks the process that isolated started, by the test's name.
const inNamespace = "LEVEE_TEST_NETNS"

// isolated runs body in a process of its own, in a fresh network namespace
// whose loopback is up: nobody else's packets are counted, and no rule is added
// to this machine. Without root it takes a user namespace as well. Where
// neither is allowed, the test is skipped.
func isolated(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	if os.Getenv(inNamespace) == t.Name() {
		raiseLoopback(t)
		body(t)
		return
	}
	command := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	command.Env = append(os.Environ(), inNamespace+"="+t.Name())
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if os.Getuid() != 0 {
		command.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		command.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		command.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := command.CombinedOutput()
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("SKIPPED, NOT TESTED: no network namespace: %v", err)
	}
	if err != nil {
		t.Fatalf("in its own network namespace: %v\n%s", err, out)
	}
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skipf("SKIPPED, NOT TESTED:\n%s", out)
	}
	if !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("no test ran in the network namespace:\n%s", out)
	}
}

func raiseLoopback(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		t.Fatalf("raising loopback: %v", err)
	}
}

// withCapabilities runs f on a thread that keeps but these capabilities.
func withCapabilities(t *testing.T, f func() error, keep ...int) {
	t.Helper()
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		for _, c := range keep {
			sets[c/32].Effective |= 1 << (c % 32)
			sets[c/32].Permitted |= 1 << (c % 32)
		}
		if err := unix.Capset(&header, &sets[0]); err != nil {
			result <- fmt.Errorf("giving up capabilities: %w", err)
			return
		}
		result <- f()
	}()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// listen accepts connections on loopback and keeps them until the test ends.
func listen(t *testing.T, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var held []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			held = append(held, c)
		}
		for _, c := range held {
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// listenSilent keeps every connection half-open: the kernel accepts none before
// it has sent data.
func listenSilent(t *testing.T, network, address string) string {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 30)
		}); e != nil {
			return e
		}
		return err
	}}
	l, err := config.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// connect opens n connections, one SYN each.
func connect(t *testing.T, network, address string, n int) {
	t.Helper()
	for range n {
		c, err := net.Dial(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
}

// knock sends n SYNs to a closed port.
func knock(t *testing.T, n int) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for range n {
		if c, err := net.Dial("tcp4", l.Addr().String()); err == nil {
			c.Close()
			t.Fatal("the closed port is open")
		}
	}
}
