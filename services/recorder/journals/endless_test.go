package journals

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/issuance"
	"levee/internal/records"
	"levee/pki"
)

// endless is a captured issuer: it writes as fast as it is read.
type endless struct {
	j     *writer
	pages int
}

func (e *endless) Journal(_ context.Context, _ string, from uint64) ([][]byte, error) {
	e.pages++
	for uint64(len(e.j.lines)) < from+2 {
		e.j.issue(identity("melb", pki.RoleSensor, "web-1"))
	}
	return e.j.lines[from:], nil
}

// A captured issuer that writes without end fills neither the log at once, nor
// keeps the importer from the deployer's journals and from the alarm.
func TestAnIssuerThatWritesWithoutEnd(t *testing.T) {
	w := newWorld(t)
	p := w.place()
	deployers := w.write(machines, issuance.Deployer).issue(identity("melb", pki.RoleIssuer, "iss-1"))
	p.put(records.FileMachines, text(deployers.lines))
	e := &endless{j: w.write(machines, "iss-1")}
	p.issuer = e
	i := p.start()
	if said := i.round(); e.pages != maxPages || !strings.Contains(said, "ERROR a journal is not imported journal=issuer") || !strings.Contains(said, "goes on after") {
		t.Errorf("one round asked %d times, and said %q", e.pages, said)
	}
	taken := len(e.j.lines)
	i.want(deployers.lines, e.j.lines)
	p.put(records.FileMachines, text(deployers.sensors(1).lines))
	if said := i.round(); e.pages != 2*maxPages || said != "" {
		t.Errorf("two rounds asked %d times, and the second said %q", e.pages, said)
	}
	i.want(deployers.lines[:1], e.j.lines[:taken], deployers.lines[1:], e.j.lines[taken:])
}

func TestAnIssuerThatWritesWithoutEndIsOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.place()
		p.put(records.FileMachines, text(w.write(machines, issuance.Deployer).issue(identity("melb", pki.RoleIssuer, "iss-1")).lines))
		p.issuer = &endless{j: w.write(machines, "iss-1")}
		i, err := New(p.config())
		w.must(err)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { i.Run(ctx, new(memory)); close(done) }()
		time.Sleep(records.ImportOverdue + time.Minute)
		if said := p.said.take(); strings.Count(said, "what was issued is overdue") != 1 {
			t.Errorf("said %q", said)
		}
		stop()
		<-done
	})
}

// A long journal takes several rounds, and one that ends with a round's last
// answer is no alarm.
func TestALongJournalTakesSeveralRounds(t *testing.T) {
	w := newWorld(t)
	p := w.place()
	deployers := w.write(machines, issuance.Deployer).issue(identity("melb", pki.RoleIssuer, "iss-1"))
	p.put(records.FileMachines, text(deployers.lines))
	j := w.write(machines, "iss-1").sensors(maxPages - 1)
	a := &answers{lines: j.lines}
	p.issuer = a
	i := p.start()
	if said := i.round(); strings.Contains(said, "not imported") {
		t.Errorf("said %q", said)
	}
	a.lines = j.sensors(maxPages + 5).lines
	if said := i.round(); !strings.Contains(said, "goes on after") {
		t.Errorf("said %q", said)
	}
	if said := i.round(); said != "INFO the journal is imported again journal=issuer" {
		t.Errorf("said %q", said)
	}
	i.want(deployers.lines, j.lines)
}
