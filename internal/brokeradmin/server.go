package brokeradmin

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"levee/internal/wire"
)

// Config is what a server needs.
type Config struct {
	Path   string // of the socket; with "" nothing listens
	Broker Broker
	Log    *slog.Logger
}

// Server answers administrators. A nil Server, which Open returns where nothing
// is to listen, does nothing.
type Server struct {
	broker Broker
	socket *socket
	log    *slog.Logger
	places chan struct{}                       // one for each connection
	peer   func(*net.UnixConn) (uint32, error) // who is there
}

// maxConnections bounds those that are answered at once.
const maxConnections = 8

// Open listens. It answers nobody before Around.
func Open(c Config) (*Server, error) {
	if c.Path == "" {
		return nil, nil
	}
	if c.Broker == nil || c.Log == nil {
		return nil, errors.New("opening the admin socket: no broker or no logger")
	}
	s, err := listen(c.Path)
	if err != nil {
		return nil, fmt.Errorf("opening the admin socket: admin_socket: %w", err)
	}
	return &Server{broker: c.Broker, socket: s, log: c.Log, places: make(chan struct{}, maxConnections), peer: peer}, nil
}

// Close releases what Open opened, for a part that will not run.
func (s *Server) Close() error {
	if s == nil {
		return nil
	}
	return s.socket.Close()
}

// Around answers from before inner begins until it has returned, and removes the
// socket then.
func (s *Server) Around(ctx context.Context, inner func(context.Context) error) error {
	if s == nil {
		return inner(ctx)
	}
	var running sync.WaitGroup
	ended := make(chan struct{})
	running.Go(func() { s.accept(&running, ended) })
	err := inner(ctx)
	close(ended)
	if closing := s.socket.Close(); closing != nil {
		s.log.Error("the admin socket is not removed", slog.Any("error", closing))
	}
	running.Wait()
	return err
}

// accept answers until the socket is closed. If it fails the broker goes on: it
// is never a reason to stop.
func (s *Server) accept(running *sync.WaitGroup, ended <-chan struct{}) {
	for {
		conn, err := s.socket.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.log.Error("the admin socket does not accept", slog.Any("error", err))
			select {
			case <-ended:
				return
			case <-time.After(time.Second):
			}
			continue
		}
		select {
		case s.places <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		running.Go(func() {
			defer func() { <-s.places }()
			defer conn.Close()
			done := make(chan struct{})
			defer close(done)
			running.Go(func() {
				select {
				case <-ended:
					_ = conn.Close()
				case <-done:
				}
			})
			s.serve(conn)
		})
	}
}

// serve answers one connection.
func (s *Server) serve(conn *net.UnixConn) {
	uid, err := s.peer(conn)
	if err != nil || uid != 0 && uint64(uid) != uint64(os.Geteuid()) {
		s.log.Warn("an administrator is refused: neither root nor the broker's own user", slog.Uint64("uid", uint64(uid)), slog.Any("error", err))
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	text, err := readLine(bufio.NewReaderSize(conn, maxRequest))
	if err != nil {
		return // nobody to answer
	}
	a := answer{conn: conn}
	var r request
	if err := wire.DecodeExact(text, &r); err != nil {
		a.write(line{Refused: "not one of the requests: " + err.Error()})
		return
	}
	s.obey(&a, r, uid)
}

// obey carries out one order.
func (s *Server) obey(a *answer, r request, uid uint32) {
	who, err := r.check()
	if err != nil {
		a.write(line{Refused: err.Error()})
		return
	}
	if r.Order == orderSessions {
		s.list(a, who.Identity)
		return
	}
	var done Done
	switch r.Order {
	case orderKick:
		if done.Ended = s.broker.Kick(who.Identity); done.Ended == 0 {
			err = fmt.Errorf("%s has no session here", who)
		}
	case orderBan:
		done.Ended, err = s.broker.Ban(who, r.length())
	case orderUnban:
		if !s.broker.Unban(who) {
			err = fmt.Errorf("%s is not banned here", who)
		}
	}
	attrs := []slog.Attr{slog.String("order", r.Order), slog.String("target", who.String()), slog.Uint64("uid", uint64(uid))}
	if r.Order == orderBan {
		attrs = append(attrs, slog.Duration("for", r.length()))
	}
	if err != nil {
		s.log.LogAttrs(context.Background(), slog.LevelWarn, "an administrator's order came to nothing", append(attrs, slog.Any("error", err))...)
		a.write(line{Refused: err.Error()})
		return
	}
	s.log.LogAttrs(context.Background(), slog.LevelWarn, "an administrator's order", append(attrs, slog.Int("sessions_ended", done.Ended))...)
	a.write(line{Done: &done})
}

// check returns whom an order is about; the zero Target is everybody.
func (r request) check() (who Target, err error) {
	if r.Order == orderSessions && r.Target == "" && r.Seconds == 0 {
		return Target{}, nil
	}
	if who, err = ParseTarget(r.Target); err != nil {
		return Target{}, err
	}
	onlyIdentities := r.Order == orderSessions || r.Order == orderKick
	switch {
	case r.Order != orderSessions && r.Order != orderKick && r.Order != orderBan && r.Order != orderUnban:
		return Target{}, fmt.Errorf("%q is no order", r.Order)
	case onlyIdentities && who.Identity == "":
		return Target{}, fmt.Errorf("%q: not SITE/ROLE/NAME", r.Target)
	case r.Order != orderBan && r.Seconds != 0:
		return Target{}, errors.New("only a ban has a length")
	case r.Order == orderBan && (r.Seconds < 1 || r.Seconds > int64(LongestBan/time.Second)):
		return Target{}, fmt.Errorf("a ban lasts from 1s to %s", LongestBan)
	}
	return who, nil
}

func (r request) length() time.Duration { return time.Duration(r.Seconds) * time.Second }

// list writes the sessions of an identity, or all, and the bans.
func (s *Server) list(a *answer, identity string) {
	sessions := s.broker.Sessions(identity)
	slices.SortFunc(sessions, func(x, y Session) int {
		return cmp.Or(cmp.Compare(x.Identity, y.Identity), cmp.Compare(x.Client, y.Client), x.Since.Compare(y.Since))
	})
	for i := range sessions {
		one := &sessions[i]
		one.Filters = append([]string{}, one.Filters[:min(len(one.Filters), maxFilters)]...) // never null
		a.write(line{Session: one})
	}
	bans := s.broker.Bans()
	slices.SortFunc(bans, func(x, y Ban) int { return cmp.Compare(x.Who, y.Who) })
	for i := range bans {
		if identity == "" || bans[i].Who == identity {
			a.write(line{Ban: &bans[i]})
		}
	}
	a.write(line{Done: &Done{}})
}

// answer is written line by line, so that a long one is nowhere whole. After an
// error it takes and drops the rest.
type answer struct {
	conn net.Conn
	err  error
}

func (a *answer) write(l line) {
	if a.err != nil {
		return
	}
	var text []byte
	if text, a.err = json.Marshal(l); a.err != nil {
		return
	}
	_ = a.conn.SetWriteDeadline(time.Now().Add(patience))
	_, a.err = a.conn.Write(append(text, '\n'))
}

// readLine returns the next line without its end. The reader's buffer bounds it.
func readLine(r *bufio.Reader) ([]byte, error) {
	text, err := r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	return text[:len(text)-1], nil
}
