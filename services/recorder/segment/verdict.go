package segment

// Verdict is what the recorder found of an envelope.
type Verdict uint8

// The verdicts of what counts as said.
const (
	// Accepted: it passed every check when it was received.
	Accepted Verdict = 0
	// Late: it came by backfill, and passed every check but those of freshness
	// and replay.
	Late Verdict = 1
)

// verdicts are the labels by number. A number never changes: files outlive
// programs.
var verdicts = [...]string{
	Accepted: "accepted", Late: "late",
	16: "size", 17: "kid", 18: "unknown_key", 19: "mac", 20: "grammar", 21: "payload", 22: "topic", 23: "sender", 24: "unsigned",
	25: "signature", 26: "revoked", 27: "pin", 28: "stale", 29: "future", 30: "redelivered", 31: "replayed", 32: "nonce_collision",
	33: "cloned", 34: "windows_full", 35: "windows_failed", 36: "before_start", 37: "content",
}

// String returns the label, "" of a verdict that there is not.
func (v Verdict) String() string {
	if int(v) >= len(verdicts) {
		return ""
	}
	return verdicts[v]
}

// Kept reports whether the envelope counts as said by its sender.
func (v Verdict) Kept() bool { return v == Accepted || v == Late }

// VerdictOf returns the verdict of a label. ok is false for labels that are none.
func VerdictOf(label string) (v Verdict, ok bool) {
	for i, l := range verdicts {
		if l == label && label != "" {
			return Verdict(i), true
		}
	}
	return 0, false
}
