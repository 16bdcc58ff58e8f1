package broker

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// tcpPair returns the two ends of a connection over loopback.
func tcpPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// failure records what an outbox failed for.
type failure struct {
	mu  sync.Mutex
	err error
}

func (f *failure) set(err error) { f.mu.Lock(); f.err = err; f.mu.Unlock() }

func (f *failure) get() error { f.mu.Lock(); defer f.mu.Unlock(); return f.err }

func TestOutboxKeepsOrderThroughAQueue(t *testing.T) {
	client, server := tcpPair(t)
	var wg sync.WaitGroup
	var failed failure
	o := newOutbox(server, 64<<20, 10*time.Second, &wg, failed.set)
	want := make([]byte, 32<<20)
	for i := range want {
		want[i] = byte(i * 7 / 5)
	}
	for i := 0; i < len(want); i += 100_000 { // far beyond what the kernel buffers: nothing is read yet
		if _, err := o.Write(want[i:min(i+100_000, len(want))]); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(client, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("bytes arrived out of order")
	}
	// The queue is empty now: writing goes on directly, without the deadline of the queue.
	wg.Wait()
	if _, err := o.Write([]byte("more")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, got[:4]); err != nil || string(got[:4]) != "more" {
		t.Errorf("after the queue: %q, %v", got[:4], err)
	}
	if err := o.Close(); err != nil || failed.get() != nil {
		t.Errorf("closing: %v, failed: %v", err, failed.get())
	}
	if n, err := client.Read(got); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after closing: %d bytes, %v", n, err)
	}
}

func TestOutboxClosesWhenItsQueueIsFull(t *testing.T) {
	_, server := tcpPair(t)
	var wg sync.WaitGroup
	var failed failure
	o := newOutbox(server, 1<<20, time.Hour, &wg, failed.set)
	block := make([]byte, 256<<10)
	var err error
	for range 1000 { // nobody reads
		if _, err = o.Write(block); err != nil {
			break
		}
	}
	if !errors.Is(err, errQueueFull) || !errors.Is(failed.get(), errQueueFull) {
		t.Errorf("write: %v, failed: %v", err, failed.get())
	}
	if _, err := o.Read(block); err == nil {
		t.Error("the reader was not ended")
	}
	wg.Wait() // the sender ends though its timeout is an hour away
	if _, err := o.Write(block); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after the end: %v", err)
	}
}

// A pipe has no buffer at all, so every write is queued. Its deadlines run on
// the bubble's clock.
func TestP28OutboxGivesUpWithoutProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, server := net.Pipe()
		var wg sync.WaitGroup
		var failed failure
		o := newOutbox(server, 1<<20, 5*time.Second, &wg, failed.set)
		start := time.Now()
		if _, err := o.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("Write waited %v", waited)
		}
		wg.Wait()
		if waited := time.Since(start); waited != 5*time.Second || !errors.Is(failed.get(), os.ErrDeadlineExceeded) {
			t.Errorf("gave up after %v for %v", waited, failed.get())
		}
		if _, err := o.Read(make([]byte, 1)); err == nil {
			t.Error("the reader was not ended")
		}
	})
}

func TestOutboxSendsItsQueueBeforeItCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		var wg sync.WaitGroup
		o := newOutbox(server, 1<<20, 5*time.Second, &wg, func(error) {})
		_, _ = o.Write([]byte("goodbye"))
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := o.Read(make([]byte, 1)); err == nil {
			t.Error("reading goes on after Close")
		}
		if err := o.SetReadDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a deadline after Close revives the reader: %v", err)
		}
		got, err := io.ReadAll(client)
		if string(got) != "goodbye" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		wg.Wait()
	})
}

func TestOutboxLingersOnlyASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, server := net.Pipe()
		var wg sync.WaitGroup
		o := newOutbox(server, 1<<20, time.Hour, &wg, func(error) {})
		_, _ = o.Write([]byte("goodbye"))
		synctest.Wait() // the sender has an hour for it
		start := time.Now()
		_ = o.Close()
		wg.Wait()
		if waited := time.Since(start); waited != linger {
			t.Errorf("lingered for %v", waited)
		}
	})
}
