package clocks

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The kernel is asked each minute, and the log is told what changed.
func TestKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := KernelState{Synchronised: true, MaxError: time.Millisecond}, KernelState{MaxError: 16 * time.Second}
		silent := errors.New("forbidden")
		type answer struct {
			state KernelState
			err   error
			line  string // "" is none
			words string
		}
		answers := []answer{
			{bad, nil, "level=WARN msg=\"the kernel says that nothing synchronises", "not synchronised"},
			{bad, nil, "", "not synchronised"},
			{good, nil, "level=INFO msg=\"the kernel says that this machine's clock is synchronised again", "synchronised"},
			{good, nil, "", "synchronised"},
			{bad, silent, "is not known", "unknown"},
			{bad, silent, "", "unknown"},
			{bad, nil, "level=WARN", "not synchronised"},
			{good, nil, "again", "synchronised"},
		}
		var log logBuffer
		k := NewKernel(log.logger())
		var asked atomic.Int64
		k.read = func() (KernelState, error) {
			a := answers[asked.Add(1)-1]
			return a.state, a.err
		}
		if k.String() != "unknown" {
			t.Errorf("before it asked: %s", k)
		}
		done := make(chan struct{})
		var running sync.WaitGroup
		running.Go(func() { k.Run(done) })
		before := 0
		for i, a := range answers {
			synctest.Wait()
			lines := log.lines("")
			if asked.Load() != int64(i+1) || k.String() != a.words {
				t.Fatalf("answer %d: asked %d times, %s", i, asked.Load(), k)
			}
			if a.line == "" && len(lines) != before || a.line != "" && (len(lines) != before+1 || !strings.Contains(lines[before], a.line)) {
				t.Errorf("answer %d: %q", i, lines[before:])
			}
			before = len(lines)
			if i < len(answers)-1 {
				time.Sleep(kernelInterval)
			}
		}
		close(done)
		running.Wait()
	})
}

// A good clock is no news at the start, and one of which nothing is known is
// told of once.
func TestKernelAtTheStart(t *testing.T) {
	var log logBuffer
	k := NewKernel(log.logger())
	k.read = func() (KernelState, error) { return KernelState{Synchronised: true}, nil }
	k.ask()
	if lines := log.lines(""); len(lines) > 0 {
		t.Errorf("%q", lines)
	}
	k = NewKernel(log.logger())
	k.read = func() (KernelState, error) { return KernelState{}, errors.New("forbidden") }
	k.ask()
	k.ask()
	if lines := log.lines("is not known"); len(lines) != 1 {
		t.Errorf("%q", lines)
	}
}

// This system's kernel answers, or says that it does not; it never stops a part.
func TestThisKernel(t *testing.T) {
	state, err := readKernel()
	t.Logf("%+v, %v", state, err)
	if err == nil && state.MaxError < 0 {
		t.Errorf("%+v", state)
	}
}
