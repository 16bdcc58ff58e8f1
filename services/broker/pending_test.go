package broker

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"levee/policies"
)

// A broker on one processor may be busy with publishers for so long that a
// reader's queue overflows before anything is written, although the reader reads.
func TestWriterRunsBeforeItsQueueIsFull(t *testing.T) {
	policy, err := policies.Parse(policies.Default())
	if err != nil {
		t.Fatal(err)
	}
	g, ok := granted(policy, monitor)
	if !ok {
		t.Fatal("no role")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s := &session{}
	s.grant.Store(g)
	s.unsent.Store(maxPending / 2)
	cl := &mqtt.Client{}
	cl.Net.Conn = s
	go s.unsent.Store(0) // as Write does; it does not run before somebody yields
	if !(&hook{}).OnACLCheck(cl, "melb/bank_server/metrics/cpu/web-1", false) {
		t.Fatal("a reading is not delivered to the monitor")
	}
	if n := s.unsent.Load(); n != 0 {
		t.Errorf("%d deliveries wait, and the writer has not run", n)
	}
}

// A write of all that mochi gathers at once leaves the rest of the queue where it
// was.
func TestFullWriteDoesNotEmptyTheQueue(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	s := &session{tls: tls.Server(server, &tls.Config{}), ended: make(chan struct{})}
	for _, test := range []struct {
		bytes int
		want  int32
	}{{writeBuffer, maxPending}, {writeBuffer + 1, maxPending}, {writeBuffer - 1, 0}} {
		s.unsent.Store(maxPending)
		server.Close()
		_, _ = s.Write(make([]byte, test.bytes))
		if n := s.unsent.Load(); n != test.want {
			t.Errorf("after %d bytes %d deliveries wait", test.bytes, n)
		}
	}
}

// A writer that has ended holds no publisher up.
func TestMakingWayEnds(t *testing.T) {
	s := &session{}
	for range 2 * maxPending {
		s.makeWay()
	}
}

// The keep-alive's deadline follows every packet, by steps that it is late.
func TestDeadlineFollowsInSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		defer server.Close()
		s := &session{out: newOutbox(server, 1<<20, time.Second, new(sync.WaitGroup), func(error) {})}
		start := time.Now()
		for range 99 {
			if err := s.SetDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(deadlineStep / 10)
		}
		last := time.Now().Add(-deadlineStep / 10)
		_, err := s.out.Conn.Read(make([]byte, 1))
		ended := time.Now()
		if early := last.Add(time.Second).Sub(ended); !errors.Is(err, os.ErrDeadlineExceeded) || early < 0 || early > deadlineStep {
			t.Errorf("%v, %s early, %s after the start", err, early, ended.Sub(start))
		}
		sooner := time.Now().Add(time.Second)
		if err := errors.Join(s.SetDeadline(time.Now().Add(time.Hour)), s.SetDeadline(sooner)); err != nil || !s.deadline.Equal(sooner) {
			t.Errorf("a deadline that comes sooner is left out: %s, %v", s.deadline, err)
		}
	})
}
