package notable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/issuance"
	"levee/internal/session"
	"levee/internal/siem"
	"levee/internal/translog"
	"levee/internal/translog/leaf"
	"levee/internal/translog/witness"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
	"levee/services/recorder/ledger"
)

var noon = time.UnixMilli(1729697327822)

// told collects events.
type told struct {
	mu     sync.Mutex
	events []siem.Event
}

func (r *told) Tell(e siem.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// take returns what was told since it was asked last, a line for each.
func (r *told) take() (lines []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		lines = append(lines, fmt.Sprintf("%s %d %s|%s|%s|%s|%s|%d", e.ID, e.Severity, e.Sender, e.Action, e.Outcome, e.Reason, e.Message, e.Count))
	}
	r.events = nil
	return lines
}

func want(t *testing.T, r *told, lines ...string) {
	t.Helper()
	if got := r.take(); !slices.Equal(got, lines) {
		t.Errorf("told\n%s\ninstead of\n%s", strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
}

// entry is a message as the log holds it.
func entry(t *testing.T, topic wire.Topic, payload any, verdict string) []byte {
	t.Helper()
	body, ok := payload.([]byte)
	if !ok {
		var err error
		if body, err = wire.Encode(payload); err != nil {
			t.Fatal(err)
		}
	}
	key, err := envelope.NewKey(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := envelope.Append(nil, envelope.Header{KeyID: envelope.KeyID{Site: topic.Site, Role: topic.Role, Name: topic.Name, Generation: 1}, Time: noon.UnixMilli() - 5,
		Nonce: envelope.Nonce{Boot: 1, Seq: 1}, Topic: topic.String()}, body, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return logged(t, leaf.KindMessage, raw, verdict)
}

func logged(t *testing.T, kind leaf.Kind, data []byte, verdict string) []byte {
	t.Helper()
	b, err := leaf.Leaf{Received: noon.UnixMilli(), Verdict: verdict, Kind: kind, Data: data}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func topic(kind wire.Kind, role pki.Role, name string) wire.Topic {
	return wire.Topic{Kind: kind, Site: "melb", Role: string(role), Name: name}
}

// What is no event, or cannot be read, is passed over, and what is repeated is
// told once.
func TestNotTold(t *testing.T) {
	t.Parallel()
	r := new(told)
	e := New("melb", r)
	command := wire.Command{ID: wire.ID{1}, Command: wire.EnableRateLimiting, Controller: "lb-1", Server: "web-1", TTL: 60}
	e.Logged([][]byte{
		[]byte("no leaf"),
		logged(t, leaf.KindMessage, []byte("no envelope"), "accepted"),
		logged(t, leaf.KindIssuance, []byte("{}"), "accepted"),
		logged(t, leaf.KindGrant, []byte("[]"), "accepted"),
		logged(t, leaf.KindRevocation, []byte("{}"), "accepted"),
		entry(t, topic(wire.KindDigest, pki.RoleSensor, "web-1"), wire.Digest{Dropped: []wire.Drop{}}, "accepted"),
		entry(t, topic(wire.KindAlert, pki.RoleMonitor, "mon-1"), []byte(`{"alert":1}`), "accepted"),
		entry(t, topic(wire.KindAlert, pki.RoleMonitor, "mon-1"), wire.Alert{State: "other"}, "accepted"),
		entry(t, topic(wire.KindCommand, pki.RoleMonitor, "mon-1"), []byte(`{"id":1}`), "accepted"),
		entry(t, topic(wire.KindScaling, pki.RoleController, "lb-1"), []byte(`{"more":1}`), "accepted"),
		entry(t, topic(wire.KindPresence, pki.RoleBroker, "b1"), []byte(`{"changes":1}`), "accepted"),
	})
	want(t, r)
	for range 3 {
		e.Logged([][]byte{entry(t, topic(wire.KindCommand, pki.RoleMonitor, "mon-1"), command, "accepted")})
	}
	want(t, r, "command_issued 0 melb/monitor/mon-1|enable_rate_limiting||automatic|enable_rate_limiting for web-1 of lb-1, 60 s: automatic|0")
}

func TestMessages(t *testing.T) {
	t.Parallel()
	r := new(told)
	e := New("melb", r)
	id := wire.ID{15}
	alerts, commands, granted := topic(wire.KindAlert, pki.RoleMonitor, "mon-1"), topic(wire.KindCommand, pki.RoleMonitor, "mon-1"), topic(wire.KindCommand, pki.RoleApprover, "app-1")
	statuses, presences := topic(wire.KindRateLimiting, pki.RoleController, "lb-1"), topic(wire.KindPresence, pki.RoleBroker, "broker-1")
	alert := wire.Alert{Alert: wire.AlertSYN, State: wire.StateRaised, Incident: id, Server: "web-1", Metric: "syn_packet_count", Value: 812, Threshold: 500}
	ended := alert
	ended.State = wire.StateEnded
	e.Logged([][]byte{entry(t, alerts, alert, "accepted"), entry(t, alerts, ended, "late")})
	first, second := r.events[0], r.events[1]
	if first.Object != id.String() || first.Server != "web-1" || first.Metric != "syn_packet_count" || first.Value != 812 || first.Limit != 500 || first.Late || !second.Late ||
		first.Time.UnixMilli() != noon.UnixMilli()-5 || !first.Received.Equal(noon) || first.Topic != alerts.String() {
		t.Errorf("%+v, %+v", first, second)
	}
	want(t, r, "alert_raised 0 melb/monitor/mon-1||||SYN packet count exceeded threshold: 812 over 500|0", "alert_ended 0 melb/monitor/mon-1||||SYN packet count exceeded threshold: ended|0")

	command := wire.Command{ID: id, Command: wire.ScaleUpServers, Controller: "lb-1", Server: "*", TTL: 90, Cause: "cpu_usage"}
	other := command
	other.ID, other.Cause = wire.ID{16}, ""
	e.Logged([][]byte{entry(t, commands, command, "accepted"), entry(t, granted, other, "accepted")})
	want(t, r, "command_issued 0 melb/monitor/mon-1|scale_up_servers||automatic|scale_up_servers for * of lb-1, 90 s: automatic, because of cpu_usage|0",
		"command_issued 0 melb/approver/app-1|scale_up_servers||granted|scale_up_servers for * of lb-1, 90 s: granted|0")

	status := wire.Status{ID: id, Command: wire.ScaleUpServers, Status: wire.StatusSuccess, State: wire.StateActive, Server: "*"}
	refused, failed := status, status
	refused.Status, refused.State, refused.Reason = wire.StatusFailure, wire.StateRefused, "cool-down"
	failed.Status, failed.State = wire.StatusFailure, wire.StateFailed
	for range 2 {
		e.Logged([][]byte{entry(t, statuses, status, "accepted"), entry(t, statuses, refused, "accepted"), entry(t, statuses, failed, "accepted")})
	}
	want(t, r, "command_status 0 melb/controller/lb-1|scale_up_servers|success|active|scale_up_servers for *: active|0",
		"command_status 3 melb/controller/lb-1|scale_up_servers|failure|refused: cool-down|scale_up_servers for *: refused|0",
		"command_status 4 melb/controller/lb-1|scale_up_servers|failure|failed|scale_up_servers for *: failed|0")

	presence := wire.Presence{Machines: 1, Changes: []wire.PresenceChange{{Machine: "sensor/web-1", State: wire.StateGone, Since: 7, Reason: wire.EndLost},
		{Machine: "sensor/web-2", State: wire.StatePresent, Since: 8}, {Machine: "sensor/web-3", State: wire.StateGone, Since: 9, Reason: wire.EndLeft}}}
	for range 2 {
		e.Logged([][]byte{entry(t, presences, presence, "accepted")})
	}
	want(t, r, "machine_gone 0 melb/sensor/web-1|||lost|sensor/web-1 is gone from broker-1: lost|0", "machine_gone 2 melb/sensor/web-3|||left|sensor/web-3 is gone from broker-1: left|0")
}

// orders returns lines of a journal, each with an order of the people's authority.
func orders(t *testing.T, all ...issuance.Order) (lines [][]byte) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	key, err := ca.NewRootKey()
	must(err)
	root, err := ca.NewRoot(key, "bank.example", ca.RootOptions{Lifetime: 24 * time.Hour * 365}, now)
	must(err)
	verifier, err := pki.NewVerifier(pki.VerifierConfig{Root: root.Certificate, TrustDomain: "bank.example"})
	must(err)
	authority, err := ca.NewAuthorityKey()
	must(err)
	people, err := ca.IssueAuthority(root, pki.Authority{TrustDomain: "bank.example", Site: "melb", Class: pki.ClassPerson}, authority.Public(), ca.Zones{}, 24*time.Hour*300, now)
	must(err)
	path := filepath.Join(t.TempDir(), "journal")
	must(issuance.Create(path))
	journal, err := issuance.Open(issuance.Config{Path: path, Name: issuance.Deployer, Key: authority, Issuer: people, Root: root.Certificate, Verifier: verifier}, nil, now)
	must(err)
	defer journal.Close()
	signer, err := envelope.NewSigner(authority, people, root.Certificate)
	must(err)
	for i, o := range all {
		kind, record := issuance.Revoke, issuance.Record{Kind: issuance.Revocation, Number: uint64(i + 1)}
		if o.All || o.Reason == "readmit" {
			kind, record.Kind = issuance.Readmit, issuance.Readmission
		}
		o.ID, o.Expires = wire.ID{byte(i + 1)}, now.Add(time.Minute).UnixMilli()
		record.Order, err = issuance.SignOrder(kind, o, "melb/ca/people", signer, now)
		must(err)
		e, err := journal.Append(record, now)
		must(err)
		lines = append(lines, e.Raw)
	}
	return lines
}

func TestOrders(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("melb/sensor/web-%d", i))
	}
	r := new(told)
	e := New("melb", r)
	for _, line := range orders(t, issuance.Order{Targets: []string{"melb/sensor/web-1"}, Reason: "stolen"}, issuance.Order{Serials: []string{strings.Repeat("0a", 16)}, Reason: "lost"},
		issuance.Order{Targets: many, Reason: "all of them"}, issuance.Order{All: true, Reason: "readmit"}) {
		e.Logged([][]byte{logged(t, leaf.KindRevocation, line, "accepted")})
	}
	for _, event := range r.events {
		if event.Actor != "melb/ca/people" || event.Object == "" {
			t.Errorf("%+v", event)
		}
	}
	named := strings.Join(many[:maxTargets], ", ") + ", and more"
	want(t, r, "access_revoked 0 melb/sensor/web-1|||stolen|revoked: melb/sensor/web-1|1",
		"access_revoked 0 certificate "+strings.Repeat("0a", 16)+"|||lost|revoked: certificate "+strings.Repeat("0a", 16)+"|1",
		"access_revoked 0 "+named+"|||all of them|revoked: "+named+"|20",
		"access_restored 0 every machine that is not revoked|||readmit|readmitted: every machine that is not revoked|1")
}

// Of a flood of refusals some are told, one kind does not keep the others from
// being told, and the number is.
func TestRefusals(t *testing.T) {
	t.Parallel()
	r := new(told)
	e := New("melb", r)
	refusal := session.Refusal{Name: "melb/bank_server/metrics/cpu/web-1", Raw: []byte("x"), Received: noon, Via: "broker-1"}
	refuse := func(reason envelope.Reason, n int) {
		for range n {
			refusal.Reason = reason
			e.Refused(refusal)
		}
	}
	refuse(envelope.BadMAC, 1000)
	refuse(envelope.Redelivered, 10)
	refuse(envelope.NonceCollision, 1)
	mac := "message_refused 4 melb/sensor/web-1|||mac|message refused: mac|1"
	want(t, r, mac, mac, mac, mac, mac, "message_refused 5 melb/sensor/web-1|||nonce_collision|message refused: nonce_collision|1")
	e.Holes(noon.Add(window-1), nil, nil)
	want(t, r)
	e.Holes(noon.Add(window), nil, nil)
	want(t, r, "message_refused 4 |||mac|995 more within a minute were not told one by one|995")
	refusal.Received, refusal.Name = noon.Add(window), "public/x"
	refusal.Untimely = &session.Untimely{Offset: -90 * time.Second, Detail: "its clock"}
	refuse(envelope.Future, 7)
	future := "message_refused 2 |||future|message refused: future by -1m30s: its clock|1"
	want(t, r, future, future, future, future, future)
	e.Stopped(noon.Add(window), nil) // nobody counts on
	want(t, r, "message_refused 2 |||future|2 more within a minute were not told one by one|2", "recorder_stopped 0 ||success||the recorder of melb stopped|0")
	for _, reason := range envelope.Reasons() {
		if _, ok := refusals[reason.String()]; !ok && reason != envelope.Redelivered {
			t.Errorf("%s has no severity", reason)
		}
	}
}

// A captured machine can say as many different things as it likes: it is bounded.
func TestFloodOfAlerts(t *testing.T) {
	t.Parallel()
	r := new(told)
	e := New("melb", r)
	command := topic(wire.KindCommand, pki.RoleMonitor, "mon-1")
	for i := range maxRecent + 10 {
		e.Logged([][]byte{entry(t, command, wire.Command{ID: wire.ID{byte(i), byte(i >> 8), 1}, Command: wire.HoldAutomation}, "accepted")})
	}
	if n := len(r.take()); n != mostOfOne {
		t.Errorf("%d were told", n)
	}
	if len(e.seen.known) != maxRecent {
		t.Errorf("%d are remembered", len(e.seen.known))
	}
}

// Errors in the recorder's log are told, other lines are not, and all go on to
// the log.
func TestErrors(t *testing.T) {
	t.Parallel()
	r := new(told)
	e := New("melb", r)
	var text strings.Builder
	log := slog.New(e.Handler(slog.NewTextHandler(&text, nil))).With(slog.String("part", "recorder"))
	log.Info("fine")
	log.Warn("hm")
	log.Error("segments were not deleted", slog.Any("error", errors.New("no space left on device")), slog.Any("key", secret{}))
	want(t, r, "recorder_error 0 |||part=recorder error=no space left on device key=redacted|segments were not deleted|1")
	if strings.Count(text.String(), "part=recorder") != 3 || strings.Contains(text.String(), "hunter2") {
		t.Error(text.String())
	}
	deaf := slog.New(e.Handler(slog.DiscardHandler))
	for range 10 {
		deaf.Error("again")
	}
	if n := len(r.take()); n != mostAlike || deaf.Enabled(context.Background(), slog.LevelWarn) {
		t.Errorf("%d were told", n)
	}
}

type secret struct{}

func (secret) LogValue() slog.Value { return slog.StringValue("redacted") }
func (secret) String() string       { return "hunter2" }

// How a recorder ends is told, and what that says of its log.
func TestStopped(t *testing.T) {
	t.Parallel()
	r := new(told)
	e := New("melb", r)
	e.Started(noon)
	e.Stopped(noon, nil)
	want(t, r, "recorder_started 0 ||||the recorder of melb started|0", "recorder_stopped 0 ||success||the recorder of melb stopped|0")
	for err, name := range map[error]string{
		translog.ErrFork: "fork", translog.ErrRollback: "rollback", translog.ErrLostState: "lost_state", translog.ErrNotCreated: "lost_state", translog.ErrDamaged: "damaged",
		&witness.Contradiction{}: "witness",
	} {
		err = fmt.Errorf("opening: %w", err)
		e.Stopped(noon, err)
		if len(r.events) != 2 || r.events[0].ID != siem.LogContradicted || r.events[0].Reason != name || r.events[1].Outcome != siem.Failure || r.events[1].Severity != siem.High {
			t.Errorf("%s: %+v", name, r.events)
		}
		r.events = nil
	}
	e.Stopped(noon, io.ErrShortWrite)
	want(t, r, "recorder_stopped 4 ||failure|short write|the recorder of melb stopped|0")
}

// A gap is told when it stands for long, once, and what became of it.
func TestGaps(t *testing.T) {
	t.Parallel()
	r := new(told)
	e := New("melb", r)
	l := ledger.New()
	take := func(sender string, boot uint64, numbers ...uint64) {
		for _, n := range numbers {
			l.Take(ledger.Message{Sender: []byte(sender), Boot: boot, Seq: n})
		}
	}
	look := func(after time.Duration) { e.Holes(noon.Add(after), l.Holes(10), l.Fate) }
	const a, b, c = "melb/sensor/a", "melb/sensor/b", "melb/sensor/c"
	take(a, 1, 1, 2, 6)
	take(b, 1, 3)
	take(c, 1, 9)
	look(0)
	take(b, 1, 1, 2) // a backfill in time
	look(GapAfter - 1)
	want(t, r)
	look(GapAfter)
	found := r.take()
	slices.Sort(found)
	if want := []string{"gap_found 0 melb/sensor/a||||messages 3 to 5 of melb/sensor/a: are missing|3", "gap_found 0 melb/sensor/c||||messages 1 to 8 of melb/sensor/c: are missing|8"}; !slices.Equal(found, want) {
		t.Errorf("%q", found)
	}
	take(a, 1, 3) // it is filled from below
	look(2 * GapAfter)
	want(t, r)
	take(a, 1, 4, 5)
	take(c, 2, 1) // and this sender begins anew
	look(3 * GapAfter)
	want(t, r, "gap_closed 0 melb/sensor/a|||arrived|messages 3 to 5 of melb/sensor/a: arrived|3")
	take(b, 1, 7)
	look(3 * GapAfter)
	look(4 * GapAfter)
	if object := r.events[0].Object; object != "melb/sensor/b 00000000001-4" {
		t.Error(object)
	}
	r.take()
	l.GiveUp([]byte(b), 1, 4, 6)
	look(4 * GapAfter)
	want(t, r, "gap_closed 3 melb/sensor/b|||given_up|messages 4 to 6 of melb/sensor/b: given_up|3")
	look(9 * GapAfter)
	want(t, r)
}
