package replay

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// TestConcurrentChecks has several goroutines deliver the same messages, as
// several brokers do. Each message is fresh for exactly one of them.
func TestConcurrentChecks(t *testing.T) {
	const workers, senders, messages = 8, 4, 900 // fewer than the window
	s := New(senders)
	var fresh [senders][messages]atomic.Int32
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range messages {
				n := i ^ w // each in another order
				if n >= messages {
					n = i
				}
				for sender := range senders {
					m := message(1, uint64(n+1), 1000)
					m.Sender = fmt.Appendf(nil, "melb/sensor/web-%d", sender)
					switch v := s.Check(m); v {
					case Fresh:
						fresh[sender][n].Add(1)
					case Redelivery, Repeat:
					default:
						t.Errorf("%s seq %d: %v", m.Sender, m.Seq, v)
					}
				}
				s.Lookup([]byte("melb/sensor/web-0"))
				s.Stats()
			}
		})
	}
	wg.Go(func() {
		for range 100 {
			s.Forget(1000) // nothing is that old
			if err := s.Sync(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	for sender := range fresh {
		for n := range fresh[sender] {
			if got := fresh[sender][n].Load(); got != 1 && n^(workers-1) < messages {
				t.Errorf("sender %d seq %d was fresh %d times", sender, n+1, got)
			}
		}
	}
}
