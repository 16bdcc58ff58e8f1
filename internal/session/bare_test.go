package session

import (
	"bufio"
	"bytes"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"levee/pki"
)

// The tests called Bare show the pitfalls of the library alone, under the numbers
// that our own tests carry. One that fails after an upgrade is good news: the
// pitfall is gone, and what we do about it may go too.

// barePaho returns a client whose n-th connection, from 1, is served by serve.
// change sets the options.
func barePaho(t *testing.T, serve func(n int, r *bufio.Reader, c net.Conn), change func(*mqtt.ClientOptions)) mqtt.Client {
	t.Helper()
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		conns   []net.Conn
		over    bool
	)
	o := mqtt.NewClientOptions().AddBroker("tcp://bare").SetClientID("bare").SetMaxReconnectInterval(10 * time.Millisecond)
	o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if over { // it goes on trying for a moment
			return nil, net.ErrClosed
		}
		ours, theirs := net.Pipe()
		conns = append(conns, theirs)
		n := len(conns)
		running.Go(func() {
			defer theirs.Close()
			serve(n, bufio.NewReader(theirs), theirs)
		})
		return ours, nil
	})
	change(o)
	c := mqtt.NewClient(o)
	t.Cleanup(func() {
		c.Disconnect(0)
		mu.Lock()
		over = true
		for _, conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return c
}

func connected(t *testing.T, c mqtt.Client) {
	t.Helper()
	if token := c.Connect(); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		t.Fatalf("connecting: %v", token.Error())
	}
}

// greet reads CONNECT and accepts.
func greet(r *bufio.Reader, c net.Conn) bool {
	if _, _, err := readPacket(r); err != nil {
		return false
	}
	_, err := c.Write(connackPacket)
	return err == nil
}

// drain reads until the end.
func drain(r *bufio.Reader) {
	for {
		if _, _, err := readPacket(r); err != nil {
			return
		}
	}
}

func gone(t *testing.T, pitfall string) {
	t.Helper()
	t.Errorf("paho no longer does this, so its guard may go: %s", pitfall)
}

func TestPaho1BareSuccessIsNoAcknowledgement(t *testing.T) {
	c := barePaho(t, func(n int, r *bufio.Reader, conn net.Conn) {
		if !greet(r, conn) {
			return
		}
		if n == 1 {
			_, _, _ = readPacket(r) // the message; and the connection ends
			return
		}
		drain(r) // acknowledges nothing
	}, func(o *mqtt.ClientOptions) { o.SetCleanSession(false) })
	connected(t, c)
	if token := c.Publish("a", 1, false, "x"); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		gone(t, "a token succeeds without an acknowledgement")
	}
}

func TestPaho2BareForgetsQoS0WhileReconnecting(t *testing.T) {
	away := make(chan struct{})
	c := barePaho(t, func(n int, r *bufio.Reader, conn net.Conn) {
		if n == 1 {
			greet(r, conn)
			<-away
			return
		}
		drain(r) // answers nothing: it stays away
	}, func(o *mqtt.ClientOptions) { o.SetConnectTimeout(time.Minute) })
	connected(t, c)
	close(away)
	eventually(t, "it notices", func() bool { return !c.IsConnectionOpen() })
	eventually(t, "a message to nobody is a success; if paho no longer does this, its guard may go", func() bool {
		token := c.Publish("a", 0, false, "x")
		return token.WaitTimeout(100*time.Millisecond) && token.Error() == nil
	})
}

func TestPaho3BareRefusedSubscriptionIsNoError(t *testing.T) {
	c := barePaho(t, func(_ int, r *bufio.Reader, conn net.Conn) {
		if greet(r, conn) {
			_, body, err := readPacket(r)
			if err == nil {
				_, _ = conn.Write([]byte{0x90, 3, body[0], body[1], 0x80})
			}
			drain(r)
		}
	}, func(*mqtt.ClientOptions) {})
	connected(t, c)
	if token := c.Subscribe("a", 1, nil); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		gone(t, "a refused subscription is a success")
	}
}

func TestPaho4BareDoesNotSubscribeAgain(t *testing.T) {
	first := make(chan byte, 1)
	c := barePaho(t, func(n int, r *bufio.Reader, conn net.Conn) {
		if !greet(r, conn) {
			return
		}
		head, body, err := readPacket(r)
		if err != nil {
			return
		}
		if n == 1 {
			_, _ = conn.Write([]byte{0x90, 3, body[0], body[1], 1})
			return // and it is gone
		}
		select {
		case first <- head >> 4:
		default:
		}
		drain(r)
	}, func(o *mqtt.ClientOptions) {
		var n atomic.Int32
		o.SetOnConnectHandler(func(c mqtt.Client) {
			if n.Add(1) > 1 {
				c.Publish("a", 0, false, "x")
			}
		})
	})
	connected(t, c)
	if token := c.Subscribe("a", 1, nil); !token.WaitTimeout(10 * time.Second) {
		t.Fatal("no answer")
	}
	if kind := <-first; kind != 3 {
		gone(t, "a new connection has no subscriptions")
	}
}

func TestPaho5BareStartsAGoroutineForEachMessage(t *testing.T) {
	const sent = 500
	release, entered := make(chan struct{}), new(atomic.Int32)
	c := barePaho(t, func(_ int, r *bufio.Reader, conn net.Conn) {
		if !greet(r, conn) {
			return
		}
		for range sent {
			if _, err := conn.Write(packet(0x30, []byte("\x00\x01ax"))); err != nil {
				return
			}
		}
		drain(r)
	}, func(o *mqtt.ClientOptions) {
		o.SetOrderMatters(false).SetDefaultPublishHandler(func(mqtt.Client, mqtt.Message) { entered.Add(1); <-release })
	})
	connected(t, c)
	defer close(release)
	for range 1000 {
		if entered.Load() == sent {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	gone(t, "handlers out of order have no bound")
}

func TestPaho8BareFallsBackToAnOlderVersion(t *testing.T) {
	var levels []byte
	var mu sync.Mutex
	c := barePaho(t, func(_ int, r *bufio.Reader, conn net.Conn) {
		if _, body, err := readPacket(r); err == nil {
			mu.Lock()
			levels = append(levels, body[2+body[1]])
			mu.Unlock()
			_, _ = conn.Write([]byte{0x20, 2, 0, 5})
		}
	}, func(*mqtt.ClientOptions) {})
	c.Connect().WaitTimeout(10 * time.Second)
	mu.Lock()
	defer mu.Unlock()
	if !bytes.Equal(levels, []byte{4, 3}) {
		gone(t, "who is refused comes back with MQTT 3.1")
	}
}

func TestPaho9BareTakesPlaintextForGranted(t *testing.T) {
	if servers := mqtt.NewClientOptions().AddBroker("broker:8883").Servers; len(servers) != 1 || servers[0].Scheme != "tcp" {
		gone(t, "an address without a scheme is plaintext")
	}
}

func TestPaho11BareBelievesAnyLength(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _ = packets.ReadPacket(bytes.NewReader([]byte{0x30, 0xff, 0xff, 0xff, 0x7f}))
	runtime.ReadMemStats(&after)
	if after.TotalAlloc-before.TotalAlloc < 200<<20 {
		gone(t, "five bytes allocate 256 MiB")
	}
}

func TestPaho12BareWaitsTenMinutes(t *testing.T) {
	if mqtt.NewClientOptions().MaxReconnectInterval != 10*time.Minute {
		gone(t, "the longest wait is ten minutes")
	}
}

func TestPaho13BareFileStorePanics(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			gone(t, "a disk that fails is a panic")
		}
	}()
	mqtt.NewFileStore(filepath.Join(file, "store")).Open()
}

// A new connection has its subscriptions, because we ask for them each time.
func TestPaho4SubscribesOnEachConnection(t *testing.T) {
	b := melbBroker(t)
	b.start()
	s := monitorTo(t, new(logBuffer), new(recorder), b)
	run(t, s)
	<-s.Ready()
	filters := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.filters)
	}
	first := filters()
	b.kick()
	eventually(t, "all are asked for again", func() bool { return filters() == 2*first })
	if first == 0 || len(b.seen()) != 2 {
		t.Errorf("%d filters, %d connections", first, len(b.seen()))
	}
}

// Who is refused for its version does not come back with an older one: that would
// be two attempts for each, and a ban.
func TestPaho8NoVersionFallback(t *testing.T) {
	b := melbBroker(t)
	b.connack = func(conn int) byte { return byte(2 / (conn + 1)) } // the first: unacceptable version
	b.start()
	s := sensorTo(t, new(logBuffer), b)
	run(t, s)
	<-s.Ready()
	seen := b.seen()
	if len(seen) != 2 {
		t.Errorf("%d attempts", len(seen))
	}
	for _, c := range seen {
		if c.level != 4 {
			t.Errorf("level %d", c.level)
		}
	}
	if v := s.lines[0].options(nil, nil, "").ProtocolVersion; v != 4 { // else it is a matter of what was dialled
		t.Errorf("the library is told version %d", v)
	}
}

// Nothing but TLS goes to a broker's address.
func TestPaho9PlaintextIsNeverSpoken(t *testing.T) {
	b := melbBroker(t) // for its address alone
	b.listener.Close()
	plain, err := net.Listen("tcp", b.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	first := make(chan byte, 1)
	go func() {
		conn, err := plain.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var head [1]byte
		_, _ = conn.Read(head[:])
		first <- head[0]
	}()
	run(t, sensorTo(t, new(logBuffer), b))
	if got := <-first; got != 0x16 { // a handshake (RFC 8446, section 5.1)
		t.Errorf("it began with %#x", got)
	}
}

// A proxy in the environment is not asked.
func TestPaho10NoProxyFromTheEnvironment(t *testing.T) {
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	for _, name := range []string{"all_proxy", "ALL_PROXY", "https_proxy", "HTTPS_PROXY"} {
		t.Setenv(name, "socks5://"+proxy.Addr().String())
	}
	b := melbBroker(t)
	b.start()
	s := sensorTo(t, new(logBuffer), b)
	run(t, s)
	<-s.Ready()
	_ = proxy.(*net.TCPListener).SetDeadline(time.Now())
	if conn, err := proxy.Accept(); err == nil {
		conn.Close()
		t.Error("the proxy was asked")
	}
}

// What the library would keep, resend, retry or reorder by itself is switched off,
// and it dials nothing.
func TestPaho13StoreIsMemory(t *testing.T) {
	b := melbBroker(t)
	s := openSession(t, identity("melb", pki.RoleMonitor, "m1"), func(c *Config) { toward(c, b) })
	o := s.lines[0].options(nil, make(chan error, 1), "melb_monitor_m1")
	if _, ok := o.Store.(*mqtt.OrderedMemoryStore); !ok {
		t.Errorf("the store is a %T", o.Store)
	}
	if o.AutoReconnect || o.ConnectRetry || o.ResumeSubs || !o.CleanSession || !o.Order || o.CustomOpenConnectionFn == nil || o.WillEnabled {
		t.Errorf("%+v", o)
	}
}
