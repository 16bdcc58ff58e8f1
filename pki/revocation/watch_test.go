package revocation

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// running runs a Set until the test ends it.
func running(s *Set) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(done) })
	return func() { close(done); wg.Wait() }
}

func TestStaleListRaisesAnAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, time.Now())
		p := newPart(t, b)
		s := p.open(t, time.Now())
		stop := running(s)
		defer stop()
		issuer := b.issue(issuer1, time.Now())
		publish := func() {
			t.Helper()
			apply(t, s, b.sign(issuer, topic, payload(1, time.Now()), time.Now()), time.Now())
		}
		lines := func(text string) int { synctest.Wait(); return strings.Count(p.log.String(), text) }
		for range 10 {
			publish()
			time.Sleep(time.Minute)
		}
		if age, stale := s.Stale(time.Now()); stale || age != time.Minute || lines("level=") != 0 {
			t.Fatalf("%s old, stale = %v:\n%s", age, stale, p.log)
		}
		time.Sleep(4 * time.Minute) // five since the last
		if _, stale := s.Stale(time.Now()); stale || lines("are stale") != 0 {
			t.Error("stale after five minutes")
		}
		time.Sleep(check)
		if _, stale := s.Stale(time.Now()); !stale || lines("level=ERROR") != 1 || lines("are stale") != 1 || lines("number=1") != 1 {
			t.Errorf("not reported:\n%s", p.log)
		}
		time.Sleep(reminder)
		if lines("are stale") != 2 {
			t.Errorf("not reported again:\n%s", p.log)
		}
		publish()
		time.Sleep(check)
		if _, stale := s.Stale(time.Now()); stale || lines("fresh again") != 1 {
			t.Errorf("its end was not reported:\n%s", p.log)
		}
		time.Sleep(time.Minute)
		if lines("fresh again") != 1 {
			t.Error("its end was reported twice")
		}
	})
}

// A part that was off has an old list, and hears of the next within a minute.
func TestOldListAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, time.Now())
		p := newPart(t, b)
		s := p.open(t, time.Now())
		apply(t, s, b.sign(b.issue(issuer1, time.Now()), topic, payload(1, time.Now(), revoke(web1, time.Now())), time.Now()), time.Now())
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		web := b.issue(web1, time.Now())
		time.Sleep(24 * time.Hour)
		s = p.open(t, time.Now())
		defer running(s)()
		if _, stale := s.Stale(time.Now()); !stale || !s.Revoked(web1, web.leaf) {
			t.Error("a list of yesterday is fresh, or not in force")
		}
		time.Sleep(patience - time.Second)
		synctest.Wait()
		if strings.Contains(p.log.String(), "stale") {
			t.Error("reported at once")
		}
		time.Sleep(check + time.Second)
		synctest.Wait()
		if !strings.Contains(p.log.String(), "are stale") || !s.Revoked(web1, web.leaf) {
			t.Errorf("not reported, or not in force any more:\n%s", p.log)
		}
	})
}

func TestNoListAtAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, newBank(t, time.Now()))
		s := p.open(t, time.Now())
		defer running(s)()
		time.Sleep(time.Hour)
		synctest.Wait()
		if age, stale := s.Stale(time.Now()); !stale || age != time.Hour {
			t.Errorf("%s old, stale = %v", age, stale)
		}
		if n := strings.Count(p.log.String(), "level="); n != 1 || !strings.Contains(p.log.String(), "has ever come") {
			t.Errorf("%d lines:\n%s", n, p.log)
		}
	})
}

// A clock that is wrong, ours or the issuer's, hides behind no young age.
func TestListFromTheFutureIsStale(t *testing.T) {
	b := newBank(t, noon)
	s := newPart(t, b).open(t, noon)
	apply(t, s, b.sign(b.issue(issuer1, noon), topic, payload(1, noon), noon), noon)
	if _, stale := s.Stale(noon.Add(-skew)); stale {
		t.Error("stale within the skew")
	}
	if age, stale := s.Stale(noon.Add(-skew - time.Second)); !stale || age >= 0 {
		t.Errorf("%s old, stale = %v", age, stale)
	}
}

// Each list is kept as soon as it is in force, and the last at the latest when
// Run returns. A disk that fails stops no revocation.
func TestRunKeepsTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, time.Now())
		p := newPart(t, b)
		p.config.File = filepath.Join(filepath.Dir(p.config.File), "state", FileName)
		s := p.open(t, time.Now())
		stop := running(s)
		issuer, web := b.issue(issuer1, time.Now()), b.issue(web1, time.Now())
		apply(t, s, b.sign(issuer, topic, payload(1, time.Now(), revoke(web1, time.Now())), time.Now()), time.Now())
		synctest.Wait()
		if !s.Revoked(web1, web.leaf) || !strings.Contains(p.log.String(), "not kept") {
			t.Errorf("not revoked, or nobody knows that it is not kept:\n%s", p.log)
		}
		if err := os.Mkdir(filepath.Dir(p.config.File), 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(check)
		synctest.Wait()
		if got := p.open(t, time.Now()).Number(); got != 1 {
			t.Errorf("kept number %d", got)
		}
		apply(t, s, b.sign(issuer, topic, payload(2, time.Now()), time.Now()), time.Now())
		synctest.Wait()
		if got := p.open(t, time.Now()).Number(); got != 2 {
			t.Errorf("kept number %d", got)
		}
		s.current.Store(&list{raw: b.sign(issuer, topic, payload(3, time.Now()), time.Now()), number: 3}) // Run is not told
		stop()
		if got := p.open(t, time.Now()).Number(); got != 3 {
			t.Errorf("kept number %d at the end", got)
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	b := newBank(t, noon)
	p := newPart(t, b)
	s := p.open(t, noon)
	issuer, web := b.issue(issuer1, noon), b.issue(web1, noon)
	var lists [][]byte
	for n := range 40 {
		lists = append(lists, b.sign(issuer, topic, payload(uint64(n+1), noon, revoke(web1, noon)), noon))
	}
	apply(t, s, lists[0], noon)
	done := make(chan struct{})
	var asking, applying sync.WaitGroup
	for range 2 {
		asking.Go(func() {
			var last uint64
			for {
				changed := s.Changed()
				if n := s.Number(); n < last || !s.Revoked(web1, web.leaf) {
					t.Errorf("number %d after %d, or not revoked", n, last)
				} else {
					last = n
				}
				if err := s.Sync(); err != nil {
					t.Error(err)
				}
				select {
				case <-changed:
				case <-done:
					return
				}
			}
		})
		applying.Go(func() {
			for _, raw := range lists {
				_, _ = s.Apply(raw, noon) // the other may be ahead
			}
		})
	}
	applying.Wait()
	close(done)
	asking.Wait()
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if s.Number() != 40 || p.open(t, noon).Number() != 40 {
		t.Errorf("number %d, kept %d", s.Number(), p.open(t, noon).Number())
	}
}
