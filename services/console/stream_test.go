package console

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee/envelope"
	"levee/internal/session"
)

// A browser is told everything there is, then what comes; and when it comes
// back, what it has missed.
func TestStream(t *testing.T) {
	s := serve(t, new(linked))
	now := time.Now()
	s.hub.deliver(cpu(t, "web-1", 1, 12.5, now))
	stream := s.events(t, "")
	if kind := stream.response.Header.Get("Content-Type"); kind != "text/event-stream; charset=utf-8" {
		t.Errorf("the stream is %s", kind)
	}
	first := stream.next(t, "snapshot")
	snapshot := decode[sent](t, first.data)
	if !snapshot.Reset || snapshot.Site != "melb" || len(snapshot.Servers) != 1 || len(snapshot.Servers[0].Points["cpu"]) != 1 {
		t.Errorf("the snapshot is %s", first.data)
	}
	if b := decode[beat](t, stream.next(t, "beat").data); b.Now == 0 {
		t.Errorf("the beat is %+v", b)
	}
	s.hub.deliver(cpu(t, "web-1", 2, 13.5, now))
	second := stream.next(t, "update")
	u := decode[sent](t, second.data)
	if len(u.Readings) != 1 || u.Readings[0].Server != "web-1" || u.Readings[0].Kind != "cpu" || u.Readings[0].Point[3] != 13.5 {
		t.Errorf("the update is %s", second.data)
	}
	s.hub.deliver(cpu(t, "web-1", 3, 14.5, now))
	third := stream.next(t, "update")

	for _, test := range []struct{ name, after, want string }{
		{"after the first", first.id, second.id},
		{"after the second", second.id, third.id},
	} {
		if got := s.events(t, test.after).next(t, "update"); got.id != test.want {
			t.Errorf("%s comes %s, not %s", test.name, got.id, test.want)
		}
	}
	for name, after := range map[string]string{"another run": "1-1", "the future": strings.Replace(third.id, "-", "-f", 1), "rubbish": "\"><b>", "too old": strings.Split(third.id, "-")[0] + "-0"} {
		again := s.events(t, after)
		if name == "too old" {
			if again.next(t, "update").id == "" { // nothing has left the ring yet
				t.Error("an update without an id")
			}
			continue
		}
		if got := decode[sent](t, again.next(t, "snapshot").data); len(got.Servers) != 1 || len(got.Servers[0].Points["cpu"]) != 3 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// What has left the ring cannot be sent again: a snapshot is.
func TestRingIsBounded(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	for i := range uint64(ringLength + 10) {
		h.deliver(cpu(t, "web-1", i+1, 1, began.Add(time.Duration(i)*time.Second)))
		h.mu.Lock()
		h.flush(began)
		h.mu.Unlock()
	}
	if len(h.ring) != ringLength || h.held > ringBytes {
		t.Errorf("the ring holds %d events, %d bytes", len(h.ring), h.held)
	}
	r, ok := h.join(eventID{epoch: h.id.epoch, seq: 1}, began)
	if !ok || !strings.Contains(string(<-r.events), "event: snapshot") {
		t.Error("no snapshot for a reader that was away too long")
	}
	r, ok = h.join(eventID{epoch: h.id.epoch, seq: h.id.seq - 5}, began)
	if !ok || len(r.events) != 6 || strings.Contains(string(<-r.events), "event: snapshot") {
		t.Error("a reader that was away for 5 events is not sent them")
	}
	for range 50 { // large events
		h.mu.Lock()
		h.ring, h.held = append(h.ring, make([]byte, ringBytes/10)), h.held+ringBytes/10
		h.board.public.fresh = []message{{}}
		h.flush(began)
		h.mu.Unlock()
		if h.held > ringBytes {
			t.Fatalf("the ring holds %d bytes", h.held)
		}
	}
	if len(h.ring) >= queueLength {
		t.Fatalf("%d large events are held", len(h.ring))
	}
	r, ok = h.join(eventID{epoch: h.id.epoch, seq: h.id.seq - queueLength + 1}, began)
	if !ok || !strings.Contains(string(<-r.events), "event: snapshot") {
		t.Error("no snapshot for a reader that missed more than is held")
	}
}

// A reader that does not keep up is let go, and holds up nobody.
func TestSlowReaderIsLetGo(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	slow, _ := h.join(eventID{}, began)
	quick, _ := h.join(eventID{}, began)
	<-quick.events
	<-quick.events
	for i := range uint64(queueLength + 1) {
		h.deliver(cpu(t, "web-1", i+1, 1, began.Add(time.Duration(i)*time.Second)))
		h.mu.Lock()
		h.flush(began)
		h.mu.Unlock()
		<-quick.events
	}
	if len(h.readers) != 1 {
		t.Fatalf("%d readers are left", len(h.readers))
	}
	n := 0
	for range slow.events {
		n++
	}
	if n != queueLength {
		t.Errorf("%d events waited", n)
	}
	h.leave(slow) // as its handler does
	h.leave(quick)
	h.leave(quick)
}

// A client that does not read is dropped by the deadline of each write, even
// while the operating system still takes what fits.
func TestStalledConnectionEnds(t *testing.T) {
	s := serve(t, new(linked))
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetReadBuffer(4096)
	if _, err := conn.Write([]byte("GET /events HTTP/1.1\r\nHost: " + s.address + "\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	await(t, "the reader has joined", func() bool { return s.readers() == 1 })
	big := strings.Repeat("x", maxText)
	for i := 0; s.readers() == 1; i++ {
		if i > 20_000 {
			t.Fatal("a client that reads nothing is still there")
		}
		s.hub.mu.Lock()
		s.hub.board.public.fresh = append(s.hub.board.public.fresh, make([]message, 200)...)
		s.hub.board.public.fresh[0].Text = big
		s.hub.flush(time.Now())
		s.hub.mu.Unlock()
	}
}

func (s *desk) readers() int {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return len(s.hub.readers)
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func TestTooManyStreams(t *testing.T) {
	s := serve(t, new(linked))
	for range maxReaders {
		s.events(t, "").next(t, "snapshot")
	}
	response, text := s.ask(t, http.MethodGet, "/events", nil)
	if response.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "too many streams") {
		t.Errorf("one stream too many is answered %d %q", response.StatusCode, text)
	}
	if response, _ := s.ask(t, http.MethodGet, "/", nil); response.StatusCode != http.StatusOK {
		t.Errorf("and the page %d", response.StatusCode)
	}
	if response, _ := s.ask(t, http.MethodHead, "/events", nil); response.StatusCode != http.StatusOK {
		t.Errorf("and HEAD, which holds nothing, %d", response.StatusCode)
	}
}

func TestTooManyConnections(t *testing.T) {
	s := serve(t, new(linked))
	var all []net.Conn
	for range maxConnections {
		conn, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		all = append(all, conn)
	}
	await(t, "all are accepted", func() bool { return s.page.connections.Load() >= maxConnections })
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + s.address + "/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one connection too many is answered %d", response.StatusCode)
	}
	for _, conn := range all {
		conn.Close()
	}
	await(t, "there is room again", func() bool {
		response, err := client.Get("http://" + s.address + "/")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// The page says at once when the broker goes, and each 5 s that it lives.
func TestBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub("melb", "desk-1", time.Now(), quiet())
		l := new(linked)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			h.run(ctx, l)
			close(done)
		}()
		r, _ := h.join(eventID{}, time.Now())
		<-r.events // the snapshot
		<-r.events // the beat with it
		h.refuse(session.Refusal{Name: "a", Reason: envelope.BadMAC, Received: time.Now()})
		h.refuse(session.Refusal{Name: "a", Reason: envelope.Redelivered, Received: time.Now()})
		start := time.Now()
		first := string(<-r.events)
		if !strings.Contains(first, `"online":false`) || !strings.Contains(first, `"refusals":{"mac":1}`) || !strings.Contains(first, `"lost":7`) || strings.Contains(first, "id:") {
			t.Errorf("the first beat is %q", first)
		}
		<-r.events
		if wait := time.Since(start); wait > beatEvery+flushEvery {
			t.Errorf("the second beat came after %s", wait)
		}
		l.online.Store(true)
		start = time.Now()
		if b := string(<-r.events); !strings.Contains(b, `"online":true`) || time.Since(start) > flushEvery {
			t.Errorf("after %s: %q", time.Since(start), b)
		}
		cancel()
		<-done
		if _, open := <-r.events; open {
			t.Error("a stream outlives the console")
		}
		if _, ok := h.join(eventID{}, time.Now()); ok {
			t.Error("a stream began after the end")
		}
	})
}

func FuzzLastEventID(f *testing.F) {
	for _, s := range []string{"", "19a-1", "0-0", "-", "-1-1", "+1-1", "01-1", "1-01", "1-1-1", "ffffffffffffffff-1", "7fffffffffffffff-ffffffffffffffff", "A-1", "1_0-1", " 1-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := parseEventID(s)
		if ok && id.String() != s {
			t.Errorf("%q was read as %v", s, id)
		}
		if !ok && id != (eventID{}) {
			t.Errorf("%q was refused as %v", s, id)
		}
	})
}
