package issuance

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
)

func TestOrders(t *testing.T) {
	w := newWorld(t)
	ann := identity("melb", pki.RoleOperator, "ann")
	spki := SPKIText([]byte("a key"))
	serial := strings.Repeat("0a", 16)
	for name, test := range map[string]struct {
		kind  OrderKind
		order Order
		by    pki.Identity
	}{
		"an operator revokes machines":       {Revoke, Order{Targets: []string{"melb/sensor/web-1", "melb/monitor/m1"}, Reason: "stolen"}, ann},
		"an operator revokes a serial":       {Revoke, Order{Serials: []string{serial}}, ann},
		"with a generation":                  {Revoke, Order{Targets: []string{"melb/sensor/web-1"}, Generation: 2}, ann},
		"the authority's generation":         {Revoke, Order{Targets: []string{"melb/sensor/web-1"}, Generation: MaxGeneration}, byPeople("melb")},
		"an operator's generation":           {Revoke, Order{Targets: []string{"melb/sensor/web-1"}, Generation: MaxOperatorGeneration}, ann},
		"an operator lets a console join":    {Join, Order{Targets: []string{"melb/console/c9"}, SPKI: spki}, ann},
		"an operator lets a guest join":      {Join, Order{Targets: []string{"melb/guest/g9"}, SPKI: spki}, ann},
		"the authority lets an issuer join":  {Join, Order{Targets: []string{"melb/issuer/iss-2"}, SPKI: spki}, byPeople("melb")},
		"the authority revokes a person":     {Revoke, Order{Targets: []string{"melb/operator/ann"}}, byPeople("melb")},
		"an operator readmits all":           {Readmit, Order{All: true}, ann},
		"the authority readmits one":         {Readmit, Order{Targets: []string{"melb/sensor/web-1"}}, byPeople("melb")},
		"an operator lets a machine join":    {Join, Order{Targets: []string{"melb/sensor/web-9"}, SPKI: spki}, ann},
		"the authority lets a machine join":  {Join, Order{Targets: []string{"melb/broker/b1"}, SPKI: spki}, byPeople("melb")},
		"the authority revokes all it names": {Revoke, Order{Targets: []string{"melb/viewer/bob"}, Serials: []string{serial}}, byPeople("melb")},
	} {
		raw := w.order(test.kind, test.order, test.by)
		o, err := w.parse(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if o.Kind != test.kind || !slices.Equal(o.Targets, append([]string{}, test.order.Targets...)) || o.All != test.order.All ||
			o.SPKI != test.order.SPKI || o.Generation != test.order.Generation || o.Time != w.now.UnixMilli() || !bytes.Equal(o.Raw, raw) {
			t.Errorf("%s: %+v", name, o)
		}
		if len(o.Identities) != len(o.Targets) || len(o.Identities) > 0 && o.Identities[0].Sender() != o.Targets[0] {
			t.Errorf("%s: identities %v", name, o.Identities)
		}
		want := test.by.Sender()
		if o.ByAuthority == (test.by == ann) {
			t.Errorf("%s: by the authority: %t", name, o.ByAuthority)
		}
		if read, err := ReadOrder(raw, machines("melb")); err != nil || read.ByAuthority != o.ByAuthority {
			t.Errorf("%s: read again, %v", name, err)
		}
		if o.Signer("melb") != want || (test.by == ann) != (o.Leaf != nil) || (test.by == ann) != (o.Person == ann) {
			t.Errorf("%s: signed by %q, want %q", name, o.Signer("melb"), want)
		}
		if err := o.Fresh(w.now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOrdersRefused(t *testing.T) {
	w := newWorld(t)
	ann, eve := identity("melb", pki.RoleOperator, "ann"), identity("syd", pki.RoleOperator, "eve")
	spki := SPKIText([]byte("a key"))
	one := []string{"melb/sensor/web-1"}
	many := func(n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf("melb/sensor/web-%d", i))
		}
		return list
	}
	serial := strings.Repeat("0a", 16)
	for name, test := range map[string]struct {
		kind  OrderKind
		order Order
		by    pki.Identity
	}{
		// Who.
		"an operator about a person":               {Revoke, Order{Targets: []string{"melb/viewer/bob"}}, ann},
		"an operator about a machine and a person": {Revoke, Order{Targets: []string{"melb/sensor/web-1", "melb/operator/ann"}}, ann},
		"an operator of another site":              {Revoke, Order{Targets: one}, eve},
		"the authority of another site":            {Revoke, Order{Targets: one}, byPeople("syd")},
		"a viewer":                                 {Revoke, Order{Targets: one}, identity("melb", pki.RoleViewer, "bob")},
		"an auditor":                               {Readmit, Order{All: true}, identity("melb", pki.RoleAuditor, "bob")},
		"a machine":                                {Revoke, Order{Targets: one}, identity("melb", pki.RoleConsole, "c1")},
		"the issuer itself":                        {Join, Order{Targets: one, SPKI: spki}, identity("melb", pki.RoleIssuer, "iss-1")},
		// Whom.
		"another site's machine":          {Revoke, Order{Targets: []string{"syd/sensor/web-1"}}, byPeople("melb")},
		"a role that is none":             {Revoke, Order{Targets: []string{"melb/king/web-1"}}, byPeople("melb")},
		"an authority":                    {Revoke, Order{Targets: []string{"melb/ca/machine"}}, byPeople("melb")},
		"a name outside the grammar":      {Revoke, Order{Targets: []string{"melb/sensor/Web-1"}}, byPeople("melb")},
		"a generation in a target":        {Revoke, Order{Targets: []string{"melb/sensor/web-1/1"}}, byPeople("melb")},
		"an empty target":                 {Revoke, Order{Targets: []string{""}}, byPeople("melb")},
		"one target twice":                {Revoke, Order{Targets: []string{one[0], one[0]}}, byPeople("melb")},
		"65 targets":                      {Revoke, Order{Targets: many(65)}, byPeople("melb")},
		"one serial number twice":         {Revoke, Order{Serials: []string{serial, serial}}, byPeople("melb")},
		"a serial number in upper case":   {Revoke, Order{Serials: []string{strings.ToUpper(serial)}}, byPeople("melb")},
		"a short serial number":           {Revoke, Order{Serials: []string{"0a"}}, byPeople("melb")},
		"a person readmitted":             {Readmit, Order{Targets: []string{"melb/operator/ann"}}, byPeople("melb")},
		"a person's token":                {Join, Order{Targets: []string{"melb/operator/ann"}, SPKI: spki}, byPeople("melb")},
		"a revocation of nobody":          {Revoke, Order{}, byPeople("melb")},
		"a revocation of all":             {Revoke, Order{All: true}, byPeople("melb")},
		"a revocation with a key":         {Revoke, Order{Targets: one, SPKI: spki}, byPeople("melb")},
		"a generation of a serial":        {Revoke, Order{Serials: []string{serial}, Generation: 2}, byPeople("melb")},
		"a readmission of nobody":         {Readmit, Order{}, byPeople("melb")},
		"a readmission of one and all":    {Readmit, Order{Targets: one, All: true}, byPeople("melb")},
		"a readmission of a serial":       {Readmit, Order{Targets: one, Serials: []string{serial}}, byPeople("melb")},
		"a readmission with a key":        {Readmit, Order{All: true, SPKI: spki}, byPeople("melb")},
		"a token for two":                 {Join, Order{Targets: many(2), SPKI: spki}, byPeople("melb")},
		"a token for nobody":              {Join, Order{SPKI: spki}, byPeople("melb")},
		"a token for all":                 {Join, Order{Targets: one, SPKI: spki, All: true}, byPeople("melb")},
		"a token for no key":              {Join, Order{Targets: one}, byPeople("melb")},
		"a token for half a key":          {Join, Order{Targets: one, SPKI: spki[:22]}, byPeople("melb")},
		"a key spelt another way":         {Join, Order{Targets: one, SPKI: spki[:42] + "B"}, byPeople("melb")},
		"a reason without an end":         {Revoke, Order{Targets: one, Reason: strings.Repeat("x", 201)}, byPeople("melb")},
		"a kind that is none":             {"promote", Order{Targets: one}, byPeople("melb")},
		"the kind of a journal's entry":   {OrderKind(Revocation), Order{Targets: one}, byPeople("melb")},
		"the kind of the site document":   {"site", Order{Targets: one}, byPeople("melb")},
		"a revocation called a token":     {Join, Order{Targets: one, Generation: 1, SPKI: spki}, byPeople("melb")},
		"a generation above the bound":    {Revoke, Order{Targets: one, Generation: MaxGeneration + 1}, byPeople("melb")},
		"an operator's high generation":   {Revoke, Order{Targets: one, Generation: MaxOperatorGeneration + 1}, ann},
		"an operator's issuer":            {Join, Order{Targets: []string{"melb/issuer/zz"}, SPKI: spki}, ann},
		"an operator's broker":            {Join, Order{Targets: []string{"melb/broker/zz"}, SPKI: spki}, ann},
		"an operator's recorder":          {Join, Order{Targets: []string{"melb/recorder/zz"}, SPKI: spki}, ann},
		"an operator's monitor":           {Join, Order{Targets: []string{"melb/monitor/zz"}, SPKI: spki}, ann},
		"an operator's approver":          {Join, Order{Targets: []string{"melb/approver/zz"}, SPKI: spki}, ann},
		"an operator's controller":        {Join, Order{Targets: []string{"melb/controller/zz"}, SPKI: spki}, ann},
		"an operator's readmitted person": {Readmit, Order{Targets: []string{"melb/viewer/bob"}}, ann},
	} {
		if o, err := w.parse(w.order(test.kind, test.order, test.by)); err == nil || o != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What is signed by the right one and says another thing at some byte.
func TestOrdersForged(t *testing.T) {
	w := newWorld(t)
	ann := identity("melb", pki.RoleOperator, "ann")
	sign := func(sender string, by pki.Identity) []byte {
		raw, err := SignOrder(Revoke, Order{ID: wire.NewID(), Expires: w.now.Add(time.Minute).UnixMilli(), Targets: []string{"melb/sensor/web-1"}}, sender, w.signer(by), w.now)
		w.must(err)
		return raw
	}
	for name, raw := range map[string][]byte{
		"ann as another":             sign("melb/operator/bob", ann),
		"ann as the authority":       sign("melb/ca/people", ann),
		"the authority as ann":       sign("melb/operator/ann", byPeople("melb")),
		"as the machines' authority": sign("melb/ca/machine", byPeople("melb")),
		"empty":                      nil,
		"large":                      bytes.Repeat([]byte("x"), MaxOrder+1),
	} {
		if _, err := w.parse(raw); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, good := range [][]byte{sign("melb/operator/ann", ann), sign("melb/ca/people", byPeople("melb"))} {
		if _, err := w.parse(good); err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(good); i += 3 {
			bad := bytes.Clone(good)
			bad[i] ^= 1
			if _, err := w.parse(bad); err == nil {
				t.Errorf("byte %d changed: accepted", i)
			}
			if i%60 == 0 {
				if _, err := w.parse(good[:i]); err == nil {
					t.Errorf("cut at %d: accepted", i)
				}
			}
		}
	}
	// The machines' authority is below the same root, and orders nothing.
	a := w.issuers[machines("melb")]
	signer, err := envelope.NewSigner(a.Signer, a.Certificate, w.root.Certificate)
	w.must(err)
	for _, sender := range []string{"melb/ca/machine", "melb/ca/people"} {
		raw, err := SignOrder(Readmit, Order{ID: wire.NewID(), Expires: w.now.Add(time.Minute).UnixMilli(), All: true}, sender, signer, w.now)
		w.must(err)
		if _, err := w.parse(raw); err == nil {
			t.Errorf("the machines' authority as %s: accepted", sender)
		}
	}
}

func TestFresh(t *testing.T) {
	signed := time.UnixMilli(1_700_000_000_000)
	for name, test := range map[string]struct {
		life, at time.Duration
		fresh    bool
	}{
		"at once":                 {time.Minute, 0, true},
		"at its end":              {time.Minute, time.Minute, true},
		"after its end":           {time.Minute, time.Minute + time.Millisecond, false},
		"of the longest life":     {15 * time.Minute, 15 * time.Minute, true},
		"of a longer life":        {15*time.Minute + time.Millisecond, 0, false},
		"of no life":              {0, 0, false},
		"of less":                 {-time.Minute, -2 * time.Minute, false},
		"by a clock 30 s behind":  {time.Minute, -30 * time.Second, true},
		"by a clock further back": {time.Minute, -30*time.Second - time.Millisecond, false},
	} {
		o := SignedOrder{Order: Order{Expires: signed.Add(test.life).UnixMilli()}, Time: signed.UnixMilli()}
		if err := o.Fresh(signed.Add(test.at)); (err == nil) != test.fresh {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An auditor finds what an issuer wrote that its orders do not say.
func TestCheckerRefuses(t *testing.T) {
	w := newWorld(t)
	ann := identity("melb", pki.RoleOperator, "ann")
	cert, _ := w.leaf(identity("melb", pki.RoleSensor, "web-1"))
	other, _ := w.leaf(identity("melb", pki.RoleSensor, "web-2"))
	person, _ := w.leaf(ann)
	elsewhere, _ := w.leaf(identity("syd", pki.RoleSensor, "web-1"))
	revoke := w.order(Revoke, Order{Targets: []string{"melb/sensor/web-1"}}, ann)
	readmit := w.order(Readmit, Order{All: true}, ann)
	token := w.order(Join, Order{Targets: []string{"melb/sensor/web-1"}, SPKI: SPKIText(cert.RawSubjectPublicKeyInfo)}, ann)
	late := w.order(Revoke, Order{Targets: []string{"melb/sensor/web-1"}, Expires: w.now.Add(-time.Millisecond).UnixMilli()}, ann)
	c := w.config("")
	a, err := newAuthor("iss-1", c.Key, c.Issuer, c.Root, c.Verifier, w.now)
	w.must(err)
	for name, test := range map[string]struct {
		r    Record
		good bool
	}{
		"a renewal":                          {Record{Kind: Issuance, Certificate: cert, Cause: CauseRenewal}, true},
		"a join":                             {Record{Kind: Issuance, Certificate: cert, Cause: CauseJoin, Order: token}, true},
		"a revocation":                       {Record{Kind: Revocation, Order: revoke, Number: 1}, true},
		"a readmission":                      {Record{Kind: Readmission, Order: readmit}, true},
		"a person's certificate":             {Record{Kind: Issuance, Certificate: person, Cause: CauseRenewal}, false},
		"another site's certificate":         {Record{Kind: Issuance, Certificate: elsewhere, Cause: CauseRenewal}, false},
		"the authority itself":               {Record{Kind: Issuance, Certificate: c.Issuer, Cause: CauseRenewal}, false},
		"a join of another":                  {Record{Kind: Issuance, Certificate: other, Cause: CauseJoin, Order: token}, false},
		"a join by a revocation":             {Record{Kind: Issuance, Certificate: cert, Cause: CauseJoin, Order: revoke}, false},
		"a revocation by a readmission":      {Record{Kind: Revocation, Order: readmit, Number: 1}, false},
		"a readmission by a token":           {Record{Kind: Readmission, Order: token}, false},
		"a revocation that was not fresh":    {Record{Kind: Revocation, Order: late, Number: 1}, false},
		"a revocation by a changed order":    {Record{Kind: Revocation, Order: bytes.Replace(revoke, []byte("web-1"), []byte("web-2"), 1), Number: 1}, false},
		"a revocation by no order":           {Record{Kind: Revocation, Order: []byte("hello"), Number: 1}, false},
		"a revocation that another signed":   {Record{Kind: Revocation, Order: w.order(Revoke, Order{Targets: []string{"melb/sensor/web-1"}}, identity("syd", pki.RoleOperator, "eve")), Number: 1}, false},
		"a revocation that a machine signed": {Record{Kind: Revocation, Order: w.order(Revoke, Order{Targets: []string{"melb/sensor/web-1"}}, identity("melb", pki.RoleMonitor, "m1")), Number: 1}, false},
	} {
		e, err := a.line(test.r, Position{}, w.now)
		w.must(err)
		check := NewChecker(w.root.Certificate, w.verifier, machines("melb"), "iss-1", Position{})
		if _, err := check.Next(e.Raw); (err == nil) != test.good || (check.Position().Lines == 1) != test.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	good, err := a.line(Record{Kind: Issuance, Certificate: cert, Cause: CauseRenewal}, Position{}, w.now)
	w.must(err)
	for name, check := range map[string]*Checker{
		"as another site's":  NewChecker(w.root.Certificate, w.verifier, machines("syd"), "iss-1", Position{}),
		"as the people's":    NewChecker(w.root.Certificate, w.verifier, people("melb"), "iss-1", Position{}),
		"as another journal": NewChecker(w.root.Certificate, w.verifier, machines("melb"), Deployer, Position{}),
		"elsewhere":          NewChecker(w.root.Certificate, w.verifier, machines("melb"), "iss-1", Position{Lines: 1, Last: ""}),
		"below another root": func() *Checker {
			x := newWorld(t)
			return NewChecker(x.root.Certificate, x.verifier, machines("melb"), "iss-1", Position{})
		}(),
	} {
		if _, err := check.Next(good.Raw); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for i := 0; i < len(good.Raw); i += 7 {
		bad := bytes.Clone(good.Raw)
		bad[i] ^= 1
		if _, err := NewChecker(w.root.Certificate, w.verifier, machines("melb"), "iss-1", Position{}).Next(bad); err == nil {
			t.Errorf("byte %d changed: accepted", i)
		}
	}
}

// An auditor finds an order that is followed twice, a number of the list that does
// not rise, and a time before that of an earlier order.
func TestCheckerRemembersOrders(t *testing.T) {
	w := newWorld(t)
	ann := identity("melb", pki.RoleOperator, "ann")
	one := Order{Targets: []string{"melb/controller/lb-1"}}
	cert, _ := w.leaf(identity("melb", pki.RoleSensor, "web-9"))
	token := w.order(Join, Order{Targets: []string{"melb/sensor/web-9"}, SPKI: SPKIText(cert.RawSubjectPublicKeyInfo)}, ann)
	joined := Record{Kind: Issuance, Certificate: cert, Cause: CauseJoin, Order: token}
	first, all := w.order(Revoke, one, ann), w.order(Readmit, Order{All: true}, byPeople("melb"))
	later := *w
	later.now = w.now.Add(MaxFall)
	much := *w
	much.now = w.now.Add(20 * time.Hour)
	type step struct {
		r  Record
		at time.Duration
	}
	revoke := func(order []byte, number uint64, at time.Duration) step {
		return step{Record{Kind: Revocation, Order: order, Number: number}, at}
	}
	readmit := func(order []byte, number uint64, at time.Duration) step {
		return step{Record{Kind: Readmission, Order: order, Number: number}, at}
	}
	for name, test := range map[string]struct {
		steps []step
		good  bool
	}{
		"another order, a higher number":    {[]step{revoke(first, 5, 0), revoke(w.order(Revoke, one, ann), 6, 0)}, true},
		"a readmission keeps the number":    {[]step{revoke(first, 5, 0), readmit(all, 5, 0)}, true},
		"the first revocation after it":     {[]step{readmit(all, 1, 0), revoke(first, 1, 0)}, true},
		"a clock that fell a little":        {[]step{revoke(later.order(Revoke, one, ann), 5, MaxFall), readmit(all, 5, 0)}, true},
		"issuances have their own times":    {[]step{{w.issuance("web-1"), 20 * time.Hour}, revoke(first, 5, 0)}, true},
		"a revocation again":                {[]step{revoke(first, 5, 0), revoke(first, 6, time.Second)}, false},
		"a readmission again":               {[]step{readmit(all, 1, 0), readmit(all, 1, 0)}, false},
		"a token again":                     {[]step{{joined, 0}, {joined, time.Second}}, false},
		"again, as of then":                 {[]step{revoke(first, 5, 0), {w.issuance("web-1"), 20 * time.Hour}, revoke(first, 6, 0)}, false},
		"again, at the longest fall":        {[]step{revoke(first, 5, 0), revoke(later.order(Revoke, one, ann), 6, MaxFall), revoke(first, 7, 0)}, false},
		"again, once it was forgotten":      {[]step{revoke(first, 5, 0), revoke(much.order(Revoke, one, ann), 6, 20*time.Hour), revoke(first, 7, 0)}, false},
		"the same number":                   {[]step{revoke(first, 5, 0), revoke(w.order(Revoke, one, ann), 5, 0)}, false},
		"a number that falls":               {[]step{revoke(first, 5, 0), readmit(all, 4, 0)}, false},
		"a time far before another order's": {[]step{revoke(later.order(Revoke, one, ann), 5, MaxFall+time.Millisecond), readmit(all, 5, 0)}, false},
	} {
		j := w.open(w.config(w.create()), nil)
		var lines [][]byte
		for _, s := range test.steps {
			e, err := j.Append(s.r, w.now.Add(s.at))
			w.must(err)
			lines = append(lines, e.Raw)
		}
		_, at, err := Verify(lines, w.root.Certificate, w.verifier, machines("melb"), "iss-1", Position{})
		if (err == nil) != test.good || !test.good && at.Lines != uint64(len(lines)-1) {
			t.Errorf("%s: %d of %d lines, %v", name, at.Lines, len(lines), err)
		}
	}
	// It forgets none: the people's authority can take time back to when one was fresh.
	c := NewChecker(w.root.Certificate, w.verifier, machines("melb"), "iss-1", Position{})
	for i := range 100 {
		at := w.now.Add(time.Duration(i) * time.Hour).UnixMilli()
		o := SignedOrder{Order: Order{ID: wire.NewID(), Expires: at}}
		w.must(c.once(&Entry{Record: Record{Kind: Revocation, Number: uint64(i) + 1}, Time: at}, &o))
	}
	if len(c.orders) != 100 {
		t.Errorf("%d orders are remembered", len(c.orders))
	}
}

// What is read has one spelling, and nothing of what is refused comes back.
func FuzzReadEntry(f *testing.F) {
	w := newWorld(f)
	_, entries := filled(w, 1)
	for _, e := range entries {
		f.Add(e.Raw)
		if e.Order != nil {
			f.Add(e.Order)
		}
	}
	f.Add([]byte(`{"v":1,"kid":"melb/ca/machine/1"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := ReadEntry(b); err != nil && (e.Raw != nil || e.Kind != "" || e.Certificate != nil) {
			t.Errorf("an error, and %+v", e)
		} else if err == nil {
			if err := e.check(); err != nil || !bytes.Equal(e.Raw, b) {
				t.Errorf("read, and %v", err)
			}
		}
		o, err := ReadOrder(b, machines("melb"))
		if (o == nil) == (err == nil) {
			t.Errorf("%v, and %v", o, err)
		}
		if err == nil {
			if err := o.Order.check(o.Kind); err != nil || len(o.Identities) != len(o.Targets) || !bytes.Equal(o.Raw, b) {
				t.Errorf("read, and %v", err)
			}
		}
	})
}
