package controller

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"levee/services/controller/journal"
)

// Bounds of what one sender may say. A monitor repeats each unanswered command
// once a second, so this is room for twenty of them.
const (
	senderRate  = 20 // messages a second
	senderBurst = 100
	maxSenders  = 64
)

// admission keeps one sender from taking the queue and the journal from the
// others. Senders beyond maxSenders share one allowance.
type admission struct {
	mu      sync.Mutex
	senders map[string]*rate.Limiter
}

func (a *admission) admits(sender string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.senders == nil {
		a.senders = make(map[string]*rate.Limiter)
	}
	bucket, ok := a.senders[sender]
	if !ok && len(a.senders) >= maxSenders {
		sender = "" // no sender is called so
		bucket, ok = a.senders[sender]
	}
	if !ok {
		bucket = rate.NewLimiter(senderRate, senderBurst)
		a.senders[sender] = bucket
	}
	return bucket.AllowN(now, 1)
}

// maxAnswers bounds how many ids are answered within repeatEvery.
const maxAnswers = 1024

// answers limits answers to repeats: one for each id within repeatEvery.
type answers struct {
	last map[journal.Key]time.Time
}

func (a *answers) due(key journal.Key, now time.Time) bool {
	if last, ok := a.last[key]; ok && now.Sub(last) < repeatEvery {
		return false
	}
	if len(a.last) >= maxAnswers {
		for k, last := range a.last {
			if now.Sub(last) >= repeatEvery {
				delete(a.last, k)
			}
		}
		if len(a.last) >= maxAnswers {
			return false
		}
	}
	if a.last == nil {
		a.last = make(map[journal.Key]time.Time)
	}
	a.last[key] = now
	return true
}
