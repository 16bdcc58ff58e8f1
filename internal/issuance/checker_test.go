package issuance

import (
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
)

// The key identifier and the topic of an order say the same as its signer's
// certificate: generation 1, and this site.
func TestOrdersUnderAnotherKeyIdentifier(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]struct {
		by         pki.Identity
		generation uint32
		want       bool
	}{
		"as it is":              {identity("melb", pki.RoleOperator, "ann"), 1, true},
		"generation 2":          {identity("melb", pki.RoleOperator, "ann"), 2, false},
		"another site's person": {identity("syd", pki.RoleOperator, "eve"), 1, false},
	} {
		o := Order{ID: wire.NewID(), Expires: w.now.UnixMilli() + 1000, Targets: []string{"melb/sensor/web-1"}, Serials: []string{}}
		payload, err := wire.Encode(&o)
		w.must(err)
		raw, err := envelope.AppendStatement(nil, envelope.Header{KeyID: envelope.KeyID{Site: test.by.Site, Role: string(test.by.Role), Name: test.by.Name, Generation: test.generation},
			Time: w.now.UnixMilli(), Nonce: envelope.StatementNonce(w.now.UnixMilli()), Topic: statementTopic("melb", string(Revoke))}, payload, w.signer(test.by))
		if err == nil {
			_, err = w.parse(raw)
		}
		if (err == nil) != test.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The bound is below the highest time, not below the last one: else a clock
// could be walked back, order by order.
func TestTimesOfOrdersAreHeldAgainstTheHighest(t *testing.T) {
	w := newWorld(t)
	c := NewChecker(w.root.Certificate, w.verifier, machines("melb"), "iss-1", Position{})
	step := func(at int64) error {
		o := SignedOrder{Order: Order{ID: wire.NewID(), Expires: at}}
		return c.once(&Entry{Record: Record{Kind: Readmission}, Time: at}, &o)
	}
	now, fall := w.now.UnixMilli(), MaxFall.Milliseconds()
	w.must(step(now))
	w.must(step(now - fall))
	if step(now-2*fall) == nil || step(now-fall-1) == nil {
		t.Error("walked back")
	}
}

// Where clocks were ahead, a revocation by the people's authority takes the time
// and the number of the list back; nobody else does, and no order comes again.
func TestTimeIsTakenBack(t *testing.T) {
	w := newWorld(t)
	ahead := *w
	ahead.now = w.now.Add(20 * time.Hour)
	ann := identity("melb", pki.RoleOperator, "ann")
	one, all := Order{Targets: []string{"melb/controller/lb-1"}}, Order{All: true}
	type step struct {
		kind   Kind
		order  []byte
		number uint64
		at     time.Duration
	}
	early := step{Revocation, ahead.order(Revoke, one, ann), 500, 20 * time.Hour}
	back := step{Revocation, w.order(Revoke, one, byPeople("melb")), 50, 0}
	first := step{Revocation, w.order(Revoke, one, ann), 40, 0}
	for name, test := range map[string]struct {
		steps []step
		good  bool
	}{
		"the authority":                    {[]step{early, back}, true},
		"and then everybody":               {[]step{early, back, {Readmission, w.order(Readmit, all, ann), 50, 0}, {Revocation, w.order(Revoke, one, ann), 51, 0}}, true},
		"an operator":                      {[]step{early, {Revocation, w.order(Revoke, one, ann), 501, 0}}, false},
		"a readmission":                    {[]step{early, {Readmission, w.order(Readmit, all, byPeople("melb")), 500, 0}}, false},
		"a lower number at the right time": {[]step{first, {Revocation, w.order(Revoke, one, byPeople("melb")), 39, 0}}, false},
		"a lower number afterwards":        {[]step{early, back, {Revocation, w.order(Revoke, one, ann), 49, 0}}, false},
		"an order of before again":         {[]step{first, early, back, {Revocation, first.order, 51, 0}}, false},
		"an order of then again":           {[]step{early, back, {Revocation, early.order, 51, 20 * time.Hour}}, false},
	} {
		j := w.open(w.config(w.create()), nil)
		var lines [][]byte
		for _, s := range test.steps {
			e, err := j.Append(Record{Kind: s.kind, Order: s.order, Number: s.number}, w.now.Add(s.at))
			w.must(err)
			lines = append(lines, e.Raw)
		}
		_, at, err := Verify(lines, w.root.Certificate, w.verifier, machines("melb"), "iss-1", Position{})
		if (err == nil) != test.good || !test.good && at.Lines != uint64(len(lines)-1) {
			t.Errorf("%s: %d of %d lines, %v", name, at.Lines, len(lines), err)
		}
	}
	o := &SignedOrder{Kind: Revoke, ByAuthority: true}
	if latest := w.now.UnixMilli(); o.TakesBack(latest-MaxFall.Milliseconds(), latest) || !o.TakesBack(latest-MaxFall.Milliseconds()-1, latest) {
		t.Error("how far time falls by itself")
	}
}
