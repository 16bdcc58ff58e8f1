package console

// row is what a table holds.
type row interface {
	// over reports whether nothing more will become of it at now (ms since
	// the epoch).
	over(now int64) bool
	// from is who made it: a sender, or whoever else can make many.
	from() string
}

// table holds rows by key, at most so many. Where there is no room, a row that
// is over gives its place, the oldest first. If none is, the sender of most
// rows loses its oldest: a flood crowds out itself, and no other's open row.
type table[R any, P interface {
	*R
	row
}] struct {
	limit   int
	rows    map[string]P
	order   []string        // keys, oldest first
	dirty   map[string]bool // changed since changed was asked
	untold  map[string]bool // and made since
	gone    []string        // keys that lost their place since
	crowded uint64          // rows that lost it and were not over
}

func newTable[R any, P interface {
	*R
	row
}](limit int) table[R, P] {
	return table[R, P]{limit: limit, rows: make(map[string]P), dirty: make(map[string]bool), untold: make(map[string]bool)}
}

// touch says that the row of a key has changed.
func (t *table[R, P]) touch(key string) { t.dirty[key] = true }

// row returns the row of a key, which counts as changed.
func (t *table[R, P]) row(key string, now int64) P {
	t.touch(key)
	if row := t.rows[key]; row != nil {
		return row
	}
	if len(t.order) >= t.limit {
		t.evict(now)
	}
	row := P(new(R))
	t.rows[key] = row
	t.order = append(t.order, key)
	t.untold[key] = true
	return row
}

func (t *table[R, P]) evict(now int64) {
	victim, most := -1, 0
	count := make(map[string]int)
	for i, key := range t.order {
		if t.rows[key].over(now) {
			victim = i
			break
		}
		count[t.rows[key].from()]++
	}
	if victim < 0 {
		t.crowded++
		for _, n := range count {
			most = max(most, n)
		}
		for i, key := range t.order {
			if count[t.rows[key].from()] == most {
				victim = i
				break
			}
		}
	}
	key := t.order[victim]
	t.order = append(t.order[:victim], t.order[victim+1:]...)
	if !t.untold[key] { // who reads has it
		t.gone = append(t.gone, key)
	}
	delete(t.rows, key)
	delete(t.dirty, key)
	delete(t.untold, key)
}

func (t *table[R, P]) all() []R {
	all := make([]R, 0, len(t.order))
	for _, key := range t.order {
		all = append(all, *t.rows[key])
	}
	return all
}

// changed returns what has changed since it was asked last, and the keys of the
// rows that lost their place.
func (t *table[R, P]) changed() (changed []R, gone []string) {
	if len(t.dirty) > 0 {
		for _, key := range t.order {
			if t.dirty[key] {
				changed = append(changed, *t.rows[key])
			}
		}
	}
	gone, t.gone = t.gone, nil
	clear(t.dirty)
	clear(t.untold)
	return changed, gone
}
