//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package replay

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The victim of the kill test runs in a process of its own, which is this test
// binary started again with victimEnv set to the directory to work in.
const (
	victimEnv      = "LEVEE_REPLAY_VICTIM"
	victimSenders  = 50
	victimCapacity = 64
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		fmt.Fprintln(os.Stderr, victim(dir, os.Args[len(os.Args)-1]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// victimMessage is the k-th message of a fixed honest traffic: fifty senders
// in turn, each a little out of order, each starting anew at times.
func victimMessage(k uint64) Message {
	n := k / victimSenders
	m := message(1+n/10_000, n%10_000^7+1, inTime+int64(n))
	m.Sender = fmt.Appendf(nil, "melb/sensor/web-%d", k%victimSenders)
	return m
}

// mapProgress maps one counter. The victim stores there how many messages were
// answered Fresh: a store needs no system call, so that kills hit Check.
func mapProgress(dir string) (*atomic.Uint64, error) {
	f, err := os.OpenFile(filepath.Join(dir, "progress"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(8); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*atomic.Uint64)(unsafe.Pointer(&b[0])), nil
}

func victim(dir, from string) error {
	k, err := strconv.ParseUint(from, 10, 64)
	if err != nil {
		return err
	}
	progress, err := mapProgress(dir)
	if err != nil {
		return err
	}
	s, err := Open(filepath.Join(dir, "windows"), victimCapacity, testStart, testSkew, BootID("boot-1"))
	if err != nil {
		return err
	}
	for ; ; k++ {
		if v := s.Check(victimMessage(k)); v != Fresh {
			return fmt.Errorf("message %d: %v", k, v)
		}
		progress.Store(k + 1)
	}
}

// TestKill kills a process in the middle of its work, again and again over one
// file, and shows each time that no answer was forgotten.
func TestKill(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "windows")
	progress, err := mapProgress(dir)
	if err != nil {
		t.Fatal(err)
	}
	cutShort := 0
	for round := range 20 {
		from := progress.Load()
		cmd := exec.Command(self, "-test.run=^$", strconv.FormatUint(from, 10))
		cmd.Env = append(os.Environ(), victimEnv+"="+dir)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(time.Minute)
		for progress.Load() < from+10_000 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if round == 0 {
			if _, err := Open(path, victimCapacity, testStart, testSkew); !errors.Is(err, ErrLocked) {
				t.Errorf("while another process has it: %v, want %v", err, ErrLocked)
			}
		}
		time.Sleep(time.Duration(rand.IntN(3_000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("round %d: the victim ended by itself: %v", round, cmd.ProcessState)
		}
		answered := progress.Load()
		if answered < from+10_000 {
			t.Fatalf("round %d: the victim answered only %d", round, answered-from)
		}

		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if (*state)(unsafe.Pointer(&b[stateOffset])).undo.word != 0 {
			cutShort++
		}
		s := mustOpen(t, path, victimCapacity, inTime+1_000_000, "boot-1")
		if st := s.Stats(); st.Damaged != 0 || st.Floor != testFloor || st.Senders != victimSenders {
			t.Fatalf("round %d: %+v: a kill must cost nothing", round, st)
		}
		for k := answered - min(answered, 60_000); k < answered; k++ {
			v, back := s.Check(victimMessage(k)), (answered-1-k)/victimSenders
			switch {
			case v == Fresh || v.Alarm():
				t.Fatalf("round %d: message %d of %d, answered before the kill: %v", round, k, answered, v)
			case back < Tags-8 && v != Redelivery && v != Late:
				t.Fatalf("round %d: message %d of %d: %v, want %v", round, k, answered, v, Redelivery)
			}
		}
		// The one in flight may have been marked without an answer.
		if v := s.Check(victimMessage(answered)); v != Fresh && v != Redelivery {
			t.Fatalf("round %d: the message in flight: %v", round, v)
		}
		progress.Store(answered + 1)
		mustClose(t, s)
	}
	t.Logf("%d of 20 kills hit a change half made", cutShort)
}
