package ledger

// Hole is a range of numbers of a sender's newest boot, both ends included, that
// are neither held nor given up although later ones are held.
type Hole struct {
	Sender      string // site/role/name
	Boot        uint64
	First, Last uint64
}

// Holes returns the lowest hole of each sender that has one, at most as many as
// most, in no order.
func (l *Ledger) Holes(most int) (holes []Hole) {
	for _, s := range l.senders {
		if len(s.boots) == 0 || len(holes) == most {
			continue
		}
		if b := &s.boots[len(s.boots)-1]; len(b.above) > 0 {
			holes = append(holes, Hole{Sender: s.name, Boot: b.number, First: b.prefix + 1, Last: b.above[0].first - 1})
		}
	}
	return holes
}

// Fate is what became of a hole.
type Fate uint8

// The fates.
const (
	Open    Fate = iota // nothing yet, or its boot is not known any more
	Arrived             // its first number is held
	GivenUp             // its sender declared that it gave that number up
)

// Fate says what became of a hole.
func (l *Ledger) Fate(h Hole) Fate {
	if l.Holds(Message{Sender: []byte(h.Sender), Boot: h.Boot, Seq: h.First}) {
		return Arrived
	}
	if s := l.senders[h.Sender]; s != nil {
		for i := range s.boots {
			if b := &s.boots[i]; b.number == h.Boot && contains(b.missing, h.First) {
				return GivenUp
			}
		}
	}
	return Open
}
