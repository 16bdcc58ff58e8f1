package recorder

import (
	"sync"
	"time"

	"levee/envelope"
	"levee/internal/session"
	"levee/services/recorder/segment"
)

// What is kept of refused messages, of a flood as well: the first of each reason
// in each minute, and not more bytes of all than that.
const (
	maxSamples     = 5
	maxSampleBytes = 256 << 10
	sampleEvery    = time.Minute
)

// sampler chooses which refused messages are kept.
type sampler struct {
	samples chan session.Refusal
	state   *samplerState
}

type samplerState struct {
	sync.Mutex
	begun time.Time
	count map[envelope.Reason]int
	bytes int
}

func newSampler() sampler {
	return sampler{samples: make(chan session.Refusal, 256), state: &samplerState{count: make(map[envelope.Reason]int)}}
}

// admit reports whether a refused message of that size is to be kept. A
// redelivery never is: it is the same message again.
func (s sampler) admit(reason envelope.Reason, size int, now time.Time) bool {
	if reason == envelope.Redelivered || size == 0 || size > segment.MaxEnvelope {
		return false
	}
	st := s.state
	st.Lock()
	defer st.Unlock()
	if since := now.Sub(st.begun); since >= sampleEvery || since < 0 {
		st.begun, st.bytes = now, 0
		clear(st.count)
	}
	if st.count[reason] == maxSamples || st.bytes+size > maxSampleBytes {
		return false
	}
	st.count[reason]++
	st.bytes += size
	return true
}

// Refuse takes a message that failed a check. It does not wait; of many it keeps
// some. The session has counted and logged it.
func (r *Recorder) Refuse(refusal session.Refusal) {
	r.tellRefused(refusal)
	if !r.refused.admit(refusal.Reason, len(refusal.Raw), refusal.Received) {
		return
	}
	select {
	case r.refused.samples <- refusal:
	default:
	}
}

// keepRefused appends a refused message to the segment, under its reason.
func (r *Recorder) keepRefused(refusal session.Refusal) error {
	verdict, ok := segment.VerdictOf(refusal.Reason.String())
	if !ok || verdict.Kept() {
		return nil // a reason without a number: a test holds that there is none
	}
	return r.append(segment.Record{Received: refusal.Received.UnixMilli(), Verdict: verdict, Peer: refusal.Via, Envelope: refusal.Raw})
}
