package siem

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/config"
)

// logged is a log that can be read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Nothing is sent to anybody but the server that is named, and nobody says what
// to anyone in clear.
func TestNobodyElseReceives(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		receive func(t *testing.T) (*receiver, Settings)
		says    string
	}{
		"of another authority": {func(t *testing.T) (*receiver, Settings) {
			r := receive(t, "siem.example", nil)
			s := r.settings(t)
			s.CA = newAuthority(t).file(t)
			return r, s
		}, "certificate signed by unknown authority"},
		"of another name": {func(t *testing.T) (*receiver, Settings) {
			r := receive(t, "other.example", nil)
			return r, r.settings(t)
		}, "not siem.example"},
		"the address's host instead of a name": {func(t *testing.T) (*receiver, Settings) {
			r := receive(t, "siem.example", nil)
			s := r.settings(t)
			s.ServerName = ""
			return r, s
		}, "cannot validate certificate for 127.0.0.1"},
		"of TLS 1.1": {func(t *testing.T) (*receiver, Settings) {
			r := receive(t, "siem.example", nil, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
			return r, r.settings(t)
		}, "protocol version"},
		"without TLS": {func(t *testing.T) (*receiver, Settings) {
			r := receive(t, "siem.example", func(_ int, r *receiver, conn net.Conn) {
				raw := conn.(*tls.Conn).NetConn()
				io.WriteString(raw, "ready\n")
				heard, _ := io.ReadAll(raw)
				r.mu.Lock()
				defer r.mu.Unlock()
				if bytes.Contains(heard, []byte("number")) {
					r.lines = append(r.lines, string(heard))
				}
			})
			return r, r.settings(t)
		}, "does not look like a TLS handshake"},
		"that says nothing": {func(t *testing.T) (*receiver, Settings) {
			r := receive(t, "siem.example", func(_ int, r *receiver, conn net.Conn) { io.Copy(io.Discard, conn.(*tls.Conn).NetConn()) })
			return r, r.settings(t)
		}, "context deadline exceeded"},
		"that wants a certificate": {func(t *testing.T) (*receiver, Settings) {
			r := receive(t, "siem.example", nil, func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })
			return r, r.settings(t)
		}, "certificate required"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, settings := row.receive(t)
			var log logged
			s, stop := sender(t, settings, slog.New(slog.NewTextHandler(&log, nil)))
			s.Tell(numbered(1))
			await(t, "two attempts", func() bool { return r.connections() > 1 })
			await(t, "why", func() bool { return strings.Contains(log.String(), row.says) })
			stop()
			if lines := r.got(); len(lines) > 0 {
				t.Errorf("it received %q", lines)
			}
			if s.Connected() {
				t.Error("it counts as connected")
			}
		})
	}
}

// A receiver that knows us by a certificate gets it.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	clients := newAuthority(t)
	r := receive(t, "siem.example", nil, func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs, c.MaxVersion = tls.RequireAndVerifyClientCert, x509.NewCertPool(), tls.VersionTLS12
		c.ClientCAs.AddCert(clients.cert)
	})
	settings := r.settings(t)
	certificate, key := clients.issue(t, "recorder")
	settings.Certificate, settings.Key = write(t, "client.pem", certificate), write(t, "client.key", key)
	s, _ := sender(t, settings, quiet())
	s.Tell(numbered(1))
	await(t, "the event", func() bool { return len(r.got()) == 1 })
}

func TestSettingsRefusals(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	certificate, key := a.issue(t, "recorder")
	_, other := a.issue(t, "recorder")
	good := Settings{Address: "siem.example:6514", CA: a.file(t), Certificate: write(t, "client.pem", certificate), Key: write(t, "client.key", key)}
	readable := write(t, "readable.key", key)
	if err := os.Chmod(string(readable), 0o644); err != nil {
		t.Fatal(err)
	}
	try := func(change func(*Settings)) error {
		s := good
		change(&s)
		_, err := New(Config{Settings: s, Host: "melb.bank.example", Version: "1.0", Log: quiet()})
		return err
	}
	if err := try(func(*Settings) {}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Settings){
		"no address":           func(s *Settings) { s.Address = "" },
		"no port":              func(s *Settings) { s.Address = "siem.example" },
		"no host":              func(s *Settings) { s.Address = ":6514" },
		"no authority":         func(s *Settings) { s.CA = "" },
		"authority is missing": func(s *Settings) { s.CA += ".gone" },
		"authority is none":    func(s *Settings) { s.CA = s.Key },
		"no certificate":       func(s *Settings) { s.Certificate = "" },
		"no key":               func(s *Settings) { s.Key = "" },
		"another's key":        func(s *Settings) { s.Key = write(t, "other.key", other) },
		"anybody's key":        func(s *Settings) { s.Key = readable },
		"another format":       func(s *Settings) { s.Format = "leef" },
	} {
		if err := try(change); err == nil {
			t.Errorf("%s: it starts", name)
		}
	}
	for _, c := range []Config{{Settings: good, Host: "a b", Version: "1", Log: quiet()}, {Settings: good, Host: "h", Log: quiet()}, {Settings: good, Host: "h", Version: "1"}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v: it starts", c)
		}
	}
	if (Settings{}).Configured() || !(Settings{CA: config.Path("x")}).Configured() {
		t.Error("what counts as configured")
	}
}

// The receiver closes in the middle, again and again, within frames and between
// them. Every event arrives, in order of its first arrival, and no line is torn.
func TestReceiverCloses(t *testing.T) {
	t.Parallel()
	const events = 300
	r := receive(t, "siem.example", func(n int, r *receiver, conn net.Conn) {
		if n < 8 {
			r.read(conn, 7*n)
			io.CopyN(io.Discard, conn, int64(n)) // a piece of the next
			return
		}
		r.read(conn, -1)
	})
	s, stop := sender(t, r.settings(t), quiet())
	for n := range events {
		s.Tell(numbered(n))
		if n%30 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
	arrived := func() int {
		first := make(map[string]bool)
		for _, line := range r.got() {
			first[line] = true
		}
		return len(first)
	}
	await(t, "every event", func() bool { return arrived() >= events })
	stop()
	newest := -1
	for _, line := range r.got() {
		var n int
		_, text, _ := strings.Cut(line, " msg=")
		if _, err := fmt.Sscanf(text, "number %d.", &n); err != nil || !strings.HasSuffix(line, ".") || !strings.HasPrefix(line, "<83>1 ") {
			t.Fatalf("%q", line)
		}
		if n > newest+1 {
			t.Fatalf("number %d after number %d", n, newest)
		}
		newest = max(newest, n)
	}
	if s.Sent() != events || s.Dropped() != 0 {
		t.Errorf("%d sent, %d dropped", s.Sent(), s.Dropped())
	}
	if len(r.errors) > 0 {
		t.Errorf("%v", r.errors)
	}
}

// A receiver that takes nothing holds up nobody. What finds no room is counted
// and declared, and what the receiver's kernel had taken is sent again to the one
// that reads.
func TestReceiverNeverReads(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	read := sync.OnceFunc(func() { close(release) })
	r := receive(t, "siem.example", func(n int, r *receiver, conn net.Conn) {
		conn.(*tls.Conn).Handshake()
		<-release
		if n > 0 {
			r.read(conn, -1)
		}
	})
	t.Cleanup(read)
	s, err := New(Config{Settings: r.settings(t), Host: "melb.bank.example", Version: "1.0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	s.pace.first, s.pace.write, s.pace.repeat = time.Millisecond, 500*time.Millisecond, 0
	stop := begin(t, s)
	await(t, "a connection", s.Connected)
	const events = 2 * maxQueue
	for n := range events { // this does not end if it waits for anybody
		e := numbered(n)
		e.Reason = strings.Repeat("long ", 100)
		s.Tell(e)
	}
	dropped := s.Dropped()
	if dropped == 0 {
		t.Fatal("nothing was dropped")
	}
	await(t, "another connection instead of the one that is stuck", func() bool { return r.connections() > 1 })
	read()
	numbers, declarations := make(map[int]bool), make(map[string]uint64) // once each, however often they came
	await(t, "everything, or that it was dropped", func() bool {
		declared := uint64(0)
		for _, line := range r.got() {
			var n int
			_, text, _ := strings.Cut(line, " msg=")
			if _, err := fmt.Sscanf(text, "number %d.", &n); err == nil {
				numbers[n] = true
				continue
			}
			var count uint64
			_, text, _ = strings.Cut(line, " cnt=")
			if _, err := fmt.Sscanf(text, "%d ", &count); err != nil {
				t.Fatalf("%q", line)
			}
			declarations[line] = count
		}
		for _, count := range declarations {
			declared += count
		}
		return declared == dropped && uint64(len(numbers))+declared == events
	})
	stop()
}

// The bound of what waits, without anybody who takes it.
func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	q := newQueue()
	now := time.Now()
	for n := range maxQueue + 10 {
		q.put(numbered(n))
	}
	if q.waiting() != maxQueue || q.lost.Load() != 10 {
		t.Fatalf("%d wait, %d are lost", q.waiting(), q.lost.Load())
	}
	batch := q.take(now)
	q.put(numbered(-1))
	if len(batch) != maxBatch || q.waiting() != maxQueue-maxBatch+2 {
		t.Fatalf("%d taken, %d wait", len(batch), q.waiting())
	}
	var all []Event
	for batch := q.take(now); len(batch) > 0; batch = q.take(now) {
		all = append(all, batch...)
	}
	declared, last := all[len(all)-2], all[len(all)-1]
	if declared.ID != EventsDropped || declared.Count != 10 || last.Message != "number -1." {
		t.Errorf("%+v, %+v", declared, last)
	}
	if q.lost.Load() != 10 {
		t.Error("a declaration counts as dropped")
	}
}

// Lines that the receiver has had long enough are not written again: a receiver
// that ends idle connections would get them for ever.
func TestIdleReceiverGetsNothingTwice(t *testing.T) {
	t.Parallel()
	r := receive(t, "siem.example", func(n int, r *receiver, conn net.Conn) {
		r.read(conn, 1)
		if n < 3 {
			time.Sleep(300 * time.Millisecond)
			return
		}
		r.read(conn, -1)
	})
	s, err := New(Config{Settings: r.settings(t), Host: "melb.bank.example", Version: "1.0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	s.pace.first, s.pace.repeat = time.Millisecond, 100*time.Millisecond
	begin(t, s)
	for n := range 4 {
		s.Tell(numbered(n))
		await(t, "the line, and another connection", func() bool { return len(r.got()) == n+1 && (n == 3 || r.connections() == n+2) })
	}
}

// What waits when the recorder ends is sent first; but not for ever.
func TestEnd(t *testing.T) {
	t.Parallel()
	r := receive(t, "siem.example", nil)
	s, stop := sender(t, r.settings(t), quiet())
	await(t, "a connection", s.Connected)
	for n := range 500 {
		s.Tell(numbered(n))
	}
	stop()
	await(t, "everything", func() bool { return len(r.got()) == 500 })

	silent := receive(t, "siem.example", func(_ int, r *receiver, conn net.Conn) { io.Copy(io.Discard, conn.(*tls.Conn).NetConn()) })
	var log logged
	s, err := New(Config{Settings: silent.settings(t), Host: "melb.bank.example", Version: "1.0", Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	s.pace.last = 50 * time.Millisecond
	s.Tell(numbered(1))
	stop = begin(t, s)
	await(t, "a connection", func() bool { return silent.connections() > 0 })
	stop()
	if !strings.Contains(log.String(), "events were not sent before the end") {
		t.Error(log.String())
	}

	// Nor for a receiver that reads nothing and does not close.
	deaf := receive(t, "siem.example", func(_ int, _ *receiver, conn net.Conn) {
		conn.(*tls.Conn).Handshake()
		<-t.Context().Done()
	})
	s, err = New(Config{Settings: deaf.settings(t), Host: "melb.bank.example", Version: "1.0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	s.pace.last = 50 * time.Millisecond
	stop = begin(t, s)
	await(t, "a connection", s.Connected)
	s.Tell(numbered(1))
	ended := make(chan struct{})
	go func() {
		stop()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("it waits for ever")
	}
}

// An event that is none stops nobody.
func TestTellRefuses(t *testing.T) {
	t.Parallel()
	r := receive(t, "siem.example", nil)
	s, _ := sender(t, r.settings(t), quiet())
	s.Tell(Event{ID: "other", Time: time.Now()})
	s.Tell(Event{ID: AlertRaised})
	s.Tell(Event{ID: AlertRaised, Time: time.Unix(1<<60, 0)})
	s.Tell(numbered(1))
	await(t, "the event", func() bool { return len(r.got()) == 1 && strings.HasSuffix(r.got()[0], "number 1.") })
}

// A receiver that talks is none: what it says is not kept, and not read for ever.
func TestReceiverTalks(t *testing.T) {
	t.Parallel()
	r := receive(t, "siem.example", func(_ int, r *receiver, conn net.Conn) {
		for piece := make([]byte, 1<<10); ; {
			if _, err := conn.Write(piece); err != nil {
				return
			}
		}
	})
	var log logged
	sender(t, r.settings(t), slog.New(slog.NewTextHandler(&log, nil)))
	await(t, "that it is no receiver", func() bool { return strings.Contains(log.String(), "it talks") && r.connections() > 1 })
}

// A receiver that is away is asked ever more seldom, and not by everybody at once.
func TestBackOff(t *testing.T) {
	t.Parallel()
	r := receive(t, "siem.example", func(_ int, _ *receiver, conn net.Conn) { conn.(*tls.Conn).NetConn().Close() })
	var log logged
	s, err := New(Config{Settings: r.settings(t), Host: "melb.bank.example", Version: "1.0", Log: slog.New(slog.NewJSONHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	const first, most = 16 * time.Millisecond, 128 * time.Millisecond
	s.pace.first, s.pace.most = first, most
	stop := begin(t, s)
	await(t, "twelve attempts", func() bool { return strings.Count(log.String(), "again_in") >= 12 })
	stop()
	pauses := make(map[time.Duration]bool)
	longest := first
	for line := range strings.Lines(log.String()) {
		var l struct {
			Pause time.Duration `json:"again_in"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Pause < longest/2-time.Millisecond || l.Pause > longest+time.Millisecond {
			t.Fatalf("%v: %s instead of up to %s", err, line, longest)
		}
		if longest == most {
			pauses[l.Pause] = true
		}
		longest = min(2*longest, most)
	}
	if len(pauses) < 2 {
		t.Errorf("the same pauses again and again: %v", pauses)
	}
}
