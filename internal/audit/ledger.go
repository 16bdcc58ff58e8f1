package audit

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"levee/envelope"
	"levee/internal/confirm"
	"levee/internal/wire"
)

// ledger gathers what was kept of each sender, and what each sender signed for.
// Log and segments are read one after the other, so nothing can be settled
// before both have been.
type ledger struct {
	seen    map[source]map[uint64][sha256.Size]byte
	digests []signed
}

// source is one boot of one sender.
type source struct {
	sender string
	boot   uint64
}

// signed is a digest and where it stands.
type signed struct {
	sender string
	digest wire.Digest
	index  int64
}

// settled is what a digest says of what was kept.
type settled struct {
	confirm.Result
	sender string
	index  int64
}

func newLedger() *ledger { return &ledger{seen: make(map[source]map[uint64][sha256.Size]byte)} }

func (l *ledger) add(sender string, nonce envelope.Nonce, raw []byte) {
	from := source{strings.Clone(sender), nonce.Boot}
	if l.seen[from] == nil {
		l.seen[from] = make(map[uint64][sha256.Size]byte)
	}
	l.seen[from][nonce.Seq] = sha256.Sum256(raw)
}

func (l *ledger) digest(sender string, d wire.Digest, index int64) {
	l.digests = append(l.digests, signed{sender, d, index})
}

// settle holds every digest against what was kept, and forgets what digests
// cover.
func (l *ledger) settle() []settled {
	slices.SortStableFunc(l.digests, func(a, b signed) int {
		return cmp.Or(cmp.Compare(a.sender, b.sender), cmp.Compare(a.digest.Boot, b.digest.Boot), cmp.Compare(a.digest.First, b.digest.First))
	})
	var all []settled
	for _, s := range l.digests {
		boot, _ := envelope.ParseBoot(s.digest.Boot)
		seen := l.seen[source{s.sender, boot}]
		r := confirm.Check(s.digest, func(seq uint64) ([sha256.Size]byte, bool) {
			sum, ok := seen[seq]
			return sum, ok
		})
		all = append(all, settled{r, s.sender, s.index})
	}
	for _, s := range all {
		seen := l.seen[source{s.sender, s.Boot}]
		if s.Outcome == confirm.Malformed {
			continue
		}
		for seq := s.First; seq <= s.Last; seq++ {
			delete(seen, seq)
		}
	}
	return all
}

// pending counts what no digest covers.
func (l *ledger) pending() int {
	n := 0
	for _, seen := range l.seen {
		n += len(seen)
	}
	return n
}

// originOf returns the name of the log that a verifier key belongs to (C2SP
// signed-note: name+hash+key).
func originOf(vkey string) (string, error) {
	name, _, ok := strings.Cut(vkey, "+")
	if !ok || name == "" {
		return "", fmt.Errorf("the log key %q is none", vkey)
	}
	return name, nil
}
