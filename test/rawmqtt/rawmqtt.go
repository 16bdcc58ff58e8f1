// Package rawmqtt is a small MQTT 3.1.1 client for tests. It sends whatever
// bytes a test gives it, well-formed or not, and never retries, answers or
// interprets on its own, so that a test sees exactly what a broker does.
//
// It is for tests only and guarantees nothing else.
package rawmqtt

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Packet types (MQTT 3.1.1, section 2.2.1).
const (
	TypeConnect     = 1
	TypeConnack     = 2
	TypePublish     = 3
	TypePuback      = 4
	TypePubrec      = 5
	TypePubrel      = 6
	TypePubcomp     = 7
	TypeSubscribe   = 8
	TypeSuback      = 9
	TypeUnsubscribe = 10
	TypeUnsuback    = 11
	TypePingreq     = 12
	TypePingresp    = 13
	TypeDisconnect  = 14
)

// Return codes of CONNACK (section 3.2.2.3).
const (
	Accepted      = 0
	BadVersion    = 1
	BadIdentifier = 2
	Unavailable   = 3
	BadCredential = 4
	NotAuthorized = 5
)

// Refused is the SUBACK code of a filter that is not granted (section 3.9.3).
const Refused = 0x80

// ErrNotClosed reports that the other side kept the connection.
var ErrNotClosed = errors.New("the connection is still open")

// Packet is one received packet.
type Packet struct {
	Type  byte
	Flags byte
	Body  []byte
}

// Client is one connection. Its fields may be used directly.
type Client struct {
	Conn    net.Conn
	Timeout time.Duration // of each read and write
	r       *bufio.Reader
}

// New wraps a connection.
func New(conn net.Conn) *Client {
	return &Client{Conn: conn, Timeout: 30 * time.Second, r: bufio.NewReader(conn)}
}

// Dial opens a TLS connection and completes the handshake. Under TLS 1.3 a
// server that refuses the client's certificate is seen by the first read.
func Dial(address string, config *tls.Config) (*Client, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", address, config)
	if err != nil {
		return nil, fmt.Errorf("dialling: %w", err)
	}
	return New(conn), nil
}

// Close closes the connection without DISCONNECT.
func (c *Client) Close() error { return c.Conn.Close() }

// Send writes bytes as they are.
func (c *Client) Send(b ...[]byte) error {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.Timeout)); err != nil {
		return err
	}
	for _, p := range b {
		if _, err := c.Conn.Write(p); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
	}
	return nil
}

// Read returns the next packet.
func (c *Client) Read() (Packet, error) {
	if err := c.Conn.SetReadDeadline(time.Now().Add(c.Timeout)); err != nil {
		return Packet{}, err
	}
	first, err := c.r.ReadByte()
	if err != nil {
		return Packet{}, fmt.Errorf("reading a packet: %w", err)
	}
	length, err := binary.ReadUvarint(c.r) // the same encoding, for what fits
	if err != nil || length > 1<<28-1 {
		return Packet{}, fmt.Errorf("reading a packet's length: %w", err)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(c.r, body); err != nil {
		return Packet{}, fmt.Errorf("reading a packet's body: %w", err)
	}
	return Packet{Type: first >> 4, Flags: first & 0xf, Body: body}, nil
}

// Expect returns the next packet if it is of type t.
func (c *Client) Expect(t byte) (Packet, error) {
	p, err := c.Read()
	if err != nil {
		return Packet{}, fmt.Errorf("expecting packet type %d: %w", t, err)
	}
	if p.Type != t {
		return Packet{}, fmt.Errorf("expecting packet type %d: got type %d, body %x", t, p.Type, p.Body)
	}
	return p, nil
}

// Closed waits until the other side closes, skipping whatever it still sends.
// It returns ErrNotClosed if it has not within d.
func (c *Client) Closed(d time.Duration) error {
	if err := c.Conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return nil // closed on our side already
	}
	_, err := io.Copy(io.Discard, c.r)
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return ErrNotClosed
	}
	return nil
}

// Connect sends CONNECT and returns the code of CONNACK.
func (c *Client) Connect(o ConnectOptions) (code byte, err error) {
	if err := c.Send(Connect(o)); err != nil {
		return 0, err
	}
	p, err := c.Expect(TypeConnack)
	if err != nil {
		return 0, err
	}
	if len(p.Body) != 2 {
		return 0, fmt.Errorf("reading CONNACK: body %x", p.Body)
	}
	return p.Body[1], nil
}

// Subscribe sends SUBSCRIBE and returns the codes of SUBACK, skipping messages
// that arrive before it.
func (c *Client) Subscribe(id uint16, qos byte, filters ...string) ([]byte, error) {
	if err := c.Send(Subscribe(id, qos, filters...)); err != nil {
		return nil, err
	}
	for {
		p, err := c.Read()
		if err != nil {
			return nil, err
		}
		if p.Type == TypeSuback && len(p.Body) >= 2 && binary.BigEndian.Uint16(p.Body) == id {
			return p.Body[2:], nil
		}
	}
}

// Ping sends PINGREQ and waits for PINGRESP, so that everything sent before
// has been processed. It fails on any other packet.
func (c *Client) Ping() error {
	if err := c.Send(Pingreq()); err != nil {
		return err
	}
	_, err := c.Expect(TypePingresp)
	return err
}
