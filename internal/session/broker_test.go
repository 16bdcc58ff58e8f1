package session

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"levee/internal/site"
	"levee/pki"
)

// fakeBroker is a broker for tests: MQTT 3.1.1 over the mTLS that a real one
// speaks, and whatever else a captured one might say.
type fakeBroker struct {
	t        testing.TB
	listener net.Listener
	running  sync.WaitGroup

	// The answers, which a test may change before the first connection. conn
	// counts connections from 1.
	connack   func(conn int) byte
	suback    func(conn int, filter string) []byte // return codes
	puback    func(conn int, p published) bool
	connected func(conn int, c *fakeConn) // after CONNACK

	mu       sync.Mutex
	conns    []*fakeConn
	connects []connect
	filters  []string
	messages []published
	goodbyes int
}

type fakeConn struct {
	net.Conn
	mu sync.Mutex
}

// send writes packets as they are.
func (c *fakeConn) send(packets ...[]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range packets {
		if _, err := c.Write(p); err != nil {
			return
		}
	}
}

type connect struct {
	at         time.Time
	id         string
	level      byte
	flags      byte
	keepAlive  uint16
	serverName string
	peer       string
}

type published struct {
	conn  int
	topic string
	raw   []byte
	flags byte
}

// newBroker starts a broker with the credential of id.
func newBroker(t testing.TB, credentials *pki.Store, v *pki.Verifier) *fakeBroker {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", pki.ServerConfig(credentials, v))
	if err != nil {
		t.Fatal(err)
	}
	b := &fakeBroker{t: t, listener: listener,
		connack:   func(int) byte { return 0 },
		suback:    func(int, string) []byte { return []byte{1} },
		puback:    func(int, published) bool { return true },
		connected: func(int, *fakeConn) {}}
	t.Cleanup(b.close)
	return b
}

func melbBroker(t testing.TB) *fakeBroker {
	t.Helper()
	b := openBundle(t, identity("melb", pki.RoleBroker, "b1"))
	return newBroker(t, b.Credentials, b.Verifier)
}

func (b *fakeBroker) start() {
	b.running.Go(func() {
		for {
			conn, err := b.listener.Accept()
			if err != nil {
				return
			}
			c := &fakeConn{Conn: conn}
			b.mu.Lock()
			b.conns = append(b.conns, c)
			n := len(b.conns)
			b.mu.Unlock()
			b.running.Go(func() {
				defer conn.Close()
				b.serve(n, c)
			})
		}
	})
}

func (b *fakeBroker) close() {
	b.listener.Close()
	b.kick()
	b.running.Wait()
}

// kick closes every connection.
func (b *fakeBroker) kick() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		c.Close()
	}
}

func (b *fakeBroker) serve(n int, c *fakeConn) {
	r := bufio.NewReader(c)
	for {
		head, body, err := readPacket(r)
		if err != nil {
			return
		}
		switch head >> 4 {
		case 1: // CONNECT
			tlsConn, _ := c.Conn.(*tls.Conn)
			state := tlsConn.ConnectionState()
			name := int(binary.BigEndian.Uint16(body))
			rest := body[2+name:]
			b.mu.Lock()
			b.connects = append(b.connects, connect{at: time.Now(), level: rest[0], flags: rest[1], keepAlive: binary.BigEndian.Uint16(rest[2:]),
				id: string(rest[6:]), serverName: state.ServerName, peer: state.PeerCertificates[0].Subject.CommonName})
			b.mu.Unlock()
			code := b.connack(n)
			c.send([]byte{0x20, 2, 0, code})
			if code != 0 {
				return
			}
			b.connected(n, c)
		case 3: // PUBLISH, QoS 1
			name := int(binary.BigEndian.Uint16(body))
			p := published{conn: n, topic: string(body[2 : 2+name]), flags: head & 0xf, raw: slices.Clone(body[4+name:])}
			b.mu.Lock()
			b.messages = append(b.messages, p)
			b.mu.Unlock()
			if b.puback(n, p) {
				c.send([]byte{0x40, 2, body[2+name], body[3+name]})
			}
		case 8: // SUBSCRIBE
			length := int(binary.BigEndian.Uint16(body[2:]))
			filter := string(body[4 : 4+length])
			if len(body) != 5+length {
				b.t.Errorf("a SUBSCRIBE of several filters: %q", body)
			}
			b.mu.Lock()
			b.filters = append(b.filters, filter)
			b.mu.Unlock()
			codes := b.suback(n, filter)
			c.send(append([]byte{0x90, byte(2 + len(codes)), body[0], body[1]}, codes...))
		case 12: // PINGREQ
			c.send([]byte{0xd0, 0})
		case 14: // DISCONNECT
			b.mu.Lock()
			b.goodbyes++
			b.mu.Unlock()
			return
		}
	}
}

func readPacket(r *bufio.Reader) (head byte, body []byte, err error) {
	if head, err = r.ReadByte(); err != nil {
		return 0, nil, err
	}
	length, err := binary.ReadUvarint(r)
	if err != nil || length > 1<<20 {
		return 0, nil, errors.Join(err, errors.New("too long"))
	}
	body = make([]byte, length)
	_, err = io.ReadFull(r, body)
	return head, body, err
}

// publish encodes a PUBLISH to a subscriber.
func publish(topic string, raw []byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(topic)))
	body = append(body, topic...)
	body = binary.BigEndian.AppendUint16(body, 7) // QoS 1: a packet identifier
	return packet(0x32, append(body, raw...))
}

func packet(head byte, body []byte) []byte {
	return append(binary.AppendUvarint([]byte{head}, uint64(len(body))), body...)
}

// got returns what was published so far.
func (b *fakeBroker) got() []published {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.messages)
}

func (b *fakeBroker) seen() []connect {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.connects)
}

// toward makes a session's bundle lead to the brokers.
func toward(c *Config, brokers ...*fakeBroker) {
	bundle := *c.Bundle
	document := *c.Bundle.Document
	document.Brokers = nil
	for i, b := range brokers {
		document.Brokers = append(document.Brokers, site.Broker{Name: fmt.Sprint("b", i+1), Address: b.listener.Addr().String()})
	}
	bundle.Document = &document
	c.Bundle = &bundle
}

// eventually waits until done says so, or fails the test. It is a bound on a
// hang, not on a speed.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for range 3000 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("it never came to this: %s", what)
}
