package siem

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"
)

const (
	maxAgain  = 1024      // lines that are kept to be written again
	maxHeard  = 64 << 10  // bytes that a receiver may say: syslog has no answers
	sendQueue = 128 << 10 // bytes that the kernel takes before the receiver does, so that one that is stuck is noticed
)

// connect sends over one connection until ctx ends and everything is sent (nil),
// or life ends, or the connection does.
func (s *Sender) connect(ctx, life context.Context) error {
	conn, err := s.dial(life)
	if err != nil {
		return err
	}
	defer conn.Close()
	// Whatever waits for the network does not outlive life.
	defer context.AfterFunc(life, func() { conn.NetConn().Close() })()
	gone := make(chan error, 1)
	go func() { gone <- listen(conn) }()
	s.connected.Store(true)
	s.config.Log.Info("the SIEM is connected", slog.String("address", s.config.Settings.Address))
	err = s.serve(ctx, conn, gone)
	s.connected.Store(false)
	if err == nil {
		// The receiver has everything once it ends the connection as well.
		if err := conn.CloseWrite(); err == nil {
			select {
			case <-gone:
				return nil
			case <-life.Done():
			}
		}
		conn.Close()
		<-gone
		return nil
	}
	stuck := errors.Is(err, os.ErrDeadlineExceeded)
	if !errors.Is(err, errGone) {
		select {
		case why := <-gone: // it says more than that nobody reads what we write
			err = why
		default:
			conn.NetConn().Close() // without a word: a receiver that is stuck would hold it up
			<-gone
		}
	}
	s.forget(time.Now(), stuck)
	return err
}

// dial connects. Nothing is sent before the receiver has shown who it is.
func (s *Sender) dial(ctx context.Context) (*tls.Conn, error) {
	c, err := s.config.Settings.tls()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.pace.connect)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", s.config.Settings.Address)
	if err != nil {
		return nil, err
	}
	if err := raw.(*net.TCPConn).SetWriteBuffer(sendQueue); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	conn := tls.Client(raw, c)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return conn, nil
}

// errGone says that the receiver ended the connection.
var errGone = errors.New("the receiver ended the connection")

// listen returns when the receiver ends the connection. It reads, or a session
// ticket that nobody reads would make the kernel reset the connection at its end.
func listen(conn *tls.Conn) error {
	n, err := io.Copy(io.Discard, io.LimitReader(conn, maxHeard))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errGone, err)
	case n == maxHeard:
		return fmt.Errorf("%w: it talks, and is no receiver of syslog", errGone)
	}
	return errGone
}

// serve writes lines until ctx ends and none is left.
func (s *Sender) serve(ctx context.Context, conn *tls.Conn, gone <-chan error) error {
	for i := 0; i < len(s.again); i += maxBatch { // in the order of before
		if err := s.write(conn, s.again[i:min(i+maxBatch, len(s.again))]); err != nil {
			return err
		}
	}
	for {
		select {
		case err := <-gone:
			return err
		default:
		}
		if lines := s.next(); len(lines) > 0 {
			at := len(s.again)
			s.again = append(s.again, lines...)
			if err := s.write(conn, s.again[at:]); err != nil {
				return err
			}
			if n := len(s.again) - maxAgain; n > 0 {
				s.again = append(s.again[:0:0], s.again[n:]...)
			}
			continue
		}
		select {
		case err := <-gone:
			return err
		case <-s.queue.wake:
		case <-ctx.Done():
			if s.queue.waiting() == 0 {
				s.again = nil
				return nil
			}
		}
	}
}

// write writes lines at once.
func (s *Sender) write(conn *tls.Conn, lines []line) error {
	var b []byte
	now := time.Now()
	for i := range lines {
		lines[i].written = now
		b = append(b, lines[i].frame...)
	}
	if err := conn.SetWriteDeadline(now.Add(s.pace.write)); err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	for i := range lines {
		if !lines[i].sent {
			lines[i].sent = true
			s.sent.Add(1)
		}
	}
	return nil
}

// forget keeps of the lines of a connection that ended those that may have been
// lost with it: the newest, and all where the receiver was stuck, because nobody
// knows for how long.
func (s *Sender) forget(now time.Time, stuck bool) {
	if stuck {
		return
	}
	i := 0
	for i < len(s.again) && now.Sub(s.again[i].written) > s.pace.repeat {
		i++
	}
	s.again = append(s.again[:0:0], s.again[i:]...)
}
