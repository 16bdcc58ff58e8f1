package session

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

var (
	connackPacket  = []byte{0x20, 2, 0, 0}
	subackPacket   = []byte{0x90, 3, 0, 1, 0x80}
	pubackPacket   = []byte{0x40, 2, 0, 1}
	pingrespPacket = []byte{0xd0, 0}
)

func TestGuardLetsInWhatABrokerMaySay(t *testing.T) {
	good := slices.Concat(connackPacket, subackPacket, publish("a/b", []byte("x")), packet(0x30, []byte("\x00\x01a")),
		packet(0x3b, []byte("\x00\x01a\x00\x07{}")), pubackPacket, pingrespPacket,
		packet(0x30, make([]byte, maxPacket)), []byte{0xd0, 0x80, 0x80, 0x80, 0}, pingrespPacket)
	for _, size := range []int{1, 2, 3, 4, 5, 7, 100, len(good)} {
		g := guard(nil)
		for chunk := range slices.Chunk(good, size) {
			if !g.follow(chunk) {
				t.Fatalf("in pieces of %d: refused", size)
			}
		}
	}
}

// A captured broker must not make the library allocate, keep or panic.
func TestPaho11GuardRefuses(t *testing.T) {
	for name, bad := range map[string][]byte{
		"a byte too long":                        {0x30, 0x81, 0x88, 0x04}, // 66,561
		"256 MiB":                                {0x30, 0xff, 0xff, 0xff, 0x7f},
		"a length of five bytes":                 {0x30, 0x82, 0x80, 0x80, 0x80, 0x00},
		"five bytes for nothing":                 {0xd0, 0x80, 0x80, 0x80, 0x80, 0x00},
		"a length without end":                   {0xd0, 0x80, 0x80, 0x80, 0x80, 0x80},
		"QoS 2, which the library would keep":    packet(0x34, []byte("\x00\x01a\x00\x01{}")),
		"QoS 3":                                  packet(0x36, []byte("\x00\x01a\x00\x01{}")),
		"a PUBLISH without a topic":              {0x30, 1, 0},
		"two codes in a SUBACK: a panic":         {0x90, 4, 0, 1, 1, 1},
		"no code in a SUBACK":                    {0x90, 2, 0, 1},
		"a long CONNACK":                         {0x20, 3, 0, 0, 0},
		"a short PUBACK":                         {0x40, 1, 0},
		"a long PUBACK":                          {0x40, 3, 0, 1, 0},
		"PUBREC":                                 {0x50, 2, 0, 1},
		"PUBREL":                                 {0x62, 2, 0, 1},
		"PUBCOMP":                                {0x70, 2, 0, 1},
		"UNSUBACK":                               {0xb0, 2, 0, 1},
		"PINGREQ":                                {0xc0, 0},
		"a PINGRESP with something in it":        {0xd0, 1, 0},
		"DISCONNECT":                             {0xe0, 0},
		"CONNECT":                                {0x10, 0},
		"SUBSCRIBE":                              {0x82, 5, 0, 1, 0, 1, 'a'},
		"type 0":                                 {0x00, 0},
		"type 15":                                {0xf0, 0},
		"flags where there are none":             {0x41, 2, 0, 1},
		"something bad after a packet that ends": append(slices.Clone(connackPacket), 0xf0),
	} {
		for _, size := range []int{1, 2, len(bad)} {
			g := guard(nil)
			if !slices.ContainsFunc(slices.Collect(slices.Chunk(bad, size)), func(chunk []byte) bool { return !g.follow(chunk) }) {
				t.Errorf("%s, in pieces of %d: let in", name, size)
			}
		}
	}
}

func TestGuardClosesOnARefusal(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	g := guard(ours)
	go theirs.Write(append(slices.Clone(connackPacket), 0xf0, 0)) //nolint:errcheck // the pipe may be closed
	buffer := make([]byte, 100)
	if n, err := g.Read(buffer); n != 0 || !errors.Is(err, errPacket) {
		t.Errorf("read %d bytes, %v: nothing of a bad read may be handed on", n, err)
	}
	if n, err := g.Read(buffer); n != 0 || !errors.Is(err, errPacket) {
		t.Errorf("read %d bytes, %v after it", n, err)
	}
	select {
	case <-g.closed:
	default:
		t.Error("it is still open")
	}
	if _, err := ours.Write(nil); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the connection below is still open: %v", err)
	}
}

// A peer that does not read costs one deadline, whoever writes: the library
// sets none for PINGREQ, SUBSCRIBE and acknowledgements, and takes its own back.
func TestPaho7GuardWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		g := guard(ours)
		go func() { // the library, while another of its goroutines writes
			time.Sleep(time.Second)
			if err := errors.Join(g.SetWriteDeadline(time.Time{}), g.SetDeadline(time.Time{})); err != nil {
				t.Error(err)
			}
		}()
		began := time.Now()
		if _, err := g.Write([]byte("x")); err == nil {
			t.Error("written to nobody")
		}
		if took := time.Since(began); took != writeTimeout {
			t.Errorf("took %v", took)
		}
		select {
		case <-g.closed:
		default:
			t.Error("it is still open")
		}
		if _, err := g.Write([]byte("x")); err == nil || time.Since(began) != writeTimeout {
			t.Errorf("a second write: %v after %v", err, time.Since(began))
		}
	})
}

func TestGuardReadDeadlineIsTheLibrarys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		g := guard(ours)
		defer g.Close()
		if err := g.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := g.Read(make([]byte, 1)); err == nil || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// Whatever bytes come, in whatever pieces: the verdict is the same, and what is
// let in the library reads without panic and within the bound.
func FuzzGuard(f *testing.F) {
	f.Add(slices.Concat(connackPacket, subackPacket, publish("a/b", []byte("x")), pubackPacket, pingrespPacket), 3)
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0x7f}, 1)
	f.Add([]byte{0x90, 4, 0, 1, 1, 1}, 2)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		whole := guard(nil).follow(b)
		if size > 0 {
			g := guard(nil)
			pieces := true
			for chunk := range slices.Chunk(b, size) {
				pieces = pieces && g.follow(chunk)
			}
			if pieces != whole {
				t.Fatalf("%v whole, %v in pieces of %d", whole, pieces, size)
			}
		}
		if !whole {
			return
		}
		for r := bytes.NewReader(b); ; {
			p, err := packets.ReadPacket(r)
			if err != nil {
				return
			}
			switch p := p.(type) {
			case *packets.PublishPacket:
				if p.Qos > 1 || len(p.Payload) > maxPacket {
					t.Fatalf("let in: %v", p)
				}
			case *packets.SubackPacket:
				if len(p.ReturnCodes) != 1 {
					t.Fatalf("let in: %v", p)
				}
			case *packets.ConnackPacket, *packets.PubackPacket, *packets.PingrespPacket:
			default:
				t.Fatalf("let in: %v", p)
			}
		}
	})
}

func TestPaho12BackOff(t *testing.T) {
	for _, crowd := range []bool{false, true} {
		testBackOff(t, backOff{crowd: crowd})
	}
	if few, many := new(backOff).first(), (&backOff{crowd: true}).first(); many < 4*few {
		t.Error("those who are many may be back before those who judge")
	}
}

func testBackOff(t *testing.T, b backOff) {
	t.Helper()
	firstBackOff := b.first()
	bound := firstBackOff
	seen := make(map[time.Duration]bool)
	for range 40 {
		wait := b.after(0, lastBackOff)
		if wait < bound/4 || wait >= bound+bound/4 {
			t.Errorf("waits %v where the bound is %v", wait, bound)
		}
		seen[wait] = true
		bound = min(2*bound, lastBackOff)
	}
	var shortest, longest = lastBackOff, time.Duration(0)
	for wait := range seen {
		if wait > lastBackOff/4 {
			shortest, longest = min(shortest, wait), max(longest, wait)
		}
	}
	if len(seen) < 30 || longest-shortest < lastBackOff/4 {
		t.Errorf("%d different waits of 40, from %v to %v: clients would come back together", len(seen), shortest, longest)
	}
	const promised = 10 * time.Second // docs/deploying.md
	above := 0
	for range 1000 {
		wait := b.after(0, lastBackOff)
		if wait > promised {
			t.Fatalf("waits %v", wait)
		}
		if wait > lastBackOff {
			above++
		}
	}
	if above == 0 || promised >= replayAge {
		t.Errorf("%d waits of 1000 are above %v", above, lastBackOff)
	}
	if b.after(lastBackOff, lastBackOff) < lastBackOff/4 {
		t.Error("a connection that broke soon was taken for a good one")
	}
	if wait := b.after(lastBackOff+1, lastBackOff); wait >= firstBackOff+firstBackOff/4 {
		t.Errorf("waits %v after a good connection", wait)
	}
	for range 3 {
		b.after(0, lastBackOff)
	}
	if wait := b.after(16*firstBackOff+1, lastBackOff); wait >= firstBackOff+firstBackOff/4 { // a broker that dies each few seconds
		t.Errorf("waits %v after a connection that was up for longer", wait)
	}
}

// Who must hear every broker looks for one that is not there more often, but
// does not storm one that is, and that bans who connects more than 30 times a
// minute.
func TestReadersComeBackSoon(t *testing.T) {
	b := melbBroker(t)
	b.listener.Close()
	monitor, sensor := monitorTo(t, new(logBuffer), new(recorder), b).lines[0], sensorTo(t, new(logBuffer), b).lines[0]
	_, unreached := dial(t.Context(), b.listener.Addr().String(), monitor.session.tlsConfig())
	for _, test := range []struct {
		line *line
		err  error
		want time.Duration
	}{{monitor, unreached, unreachedBackOff}, {monitor, fmt.Errorf("dialling: %w", busy{io.EOF}), busyBackOff}, {sensor, busy{io.EOF}, lastBackOff}, {monitor, io.EOF, lastBackOff}, {monitor, errClosed, lastBackOff}, {monitor, &net.OpError{Op: "remote error", Err: errClosed}, lastBackOff}, {monitor, nil, lastBackOff}, {sensor, unreached, lastBackOff}} {
		if got := test.line.mostAfter([]error{test.err}); got != test.want {
			t.Errorf("%v: %s", test.err, got)
		}
	}
	for range 100 {
		if wait := monitor.pause.after(0, unreachedBackOff); wait > unreachedBackOff*5/4 {
			t.Fatalf("waits %s", wait)
		}
	}
	if monitor.pause.crowd || !sensor.pause.crowd {
		t.Error("sensors are many, monitors are not")
	}
}

// A broker that is busy hangs up before TLS is completed, which is told from one that
// lets nobody in and from one that is gone.
func TestBusyBrokerIsTold(t *testing.T) {
	for name, hangUp := range map[string]func(net.Conn){
		"without a word": func(c net.Conn) { c.Close() },
		"by a reset":     func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); c.Close() },
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		b := melbBroker(t)
		l := monitorTo(t, new(logBuffer), new(recorder), b).lines[0]
		go func() {
			if conn, err := listener.Accept(); err == nil {
				hangUp(conn)
			}
		}()
		at := l.brokers[0]
		at.Address = listener.Addr().String()
		_, err = l.establish(t.Context(), at, l.session.clientID)
		if got := l.mostAfter([]error{err}); got != busyBackOff {
			t.Errorf("%s: %v: %s", name, err, got)
		}
		listener.Close()
	}
}
