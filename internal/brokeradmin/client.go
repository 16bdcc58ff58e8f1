package brokeradmin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"

	"levee/internal/wire"
)

// Client gives orders at a socket.
type Client struct {
	Path string // of the socket
}

// Refused is an order that the broker would not or could not carry out.
type Refused struct{ Reason string }

// Error says what the broker said.
func (r *Refused) Error() string { return "the broker refuses: " + r.Reason }

// Sessions returns the sessions of an identity, or with "" all of them, and the
// bans likewise, in order.
func (c Client) Sessions(ctx context.Context, identity string) ([]Session, []Ban, error) {
	sessions, bans := []Session{}, []Ban{} // none is a list, too, in JSON
	_, err := c.ask(ctx, request{Order: orderSessions, Target: identity}, func(l line) error {
		switch {
		case l.Session != nil:
			sessions = append(sessions, *l.Session)
		case l.Ban != nil:
			bans = append(bans, *l.Ban)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return sessions, bans, nil
}

// Kick ends the sessions of an identity and returns how many there were.
func (c Client) Kick(ctx context.Context, identity string) (ended int, err error) {
	return c.order(ctx, request{Order: orderKick, Target: identity})
}

// Ban keeps somebody away for a time, in whole seconds, and returns how many
// sessions that ended.
func (c Client) Ban(ctx context.Context, who Target, length time.Duration) (ended int, err error) {
	return c.order(ctx, request{Order: orderBan, Target: who.String(), Seconds: int64(length / time.Second)})
}

// Unban ends a ban.
func (c Client) Unban(ctx context.Context, who Target) error {
	_, err := c.order(ctx, request{Order: orderUnban, Target: who.String()})
	return err
}

func (c Client) order(ctx context.Context, r request) (ended int, err error) {
	done, err := c.ask(ctx, r, func(line) error { return errAnswer })
	return done.Ended, err
}

var errAnswer = errors.New("the broker's answer is none of this protocol")

// ask sends a request and gives each line of the answer but the last.
func (c Client) ask(ctx context.Context, r request, each func(line) error) (Done, error) {
	done, err := c.exchange(ctx, r, each)
	if err != nil {
		return Done{}, fmt.Errorf("asking the broker at %s: %w", c.Path, err)
	}
	return done, nil
}

func (c Client) exchange(ctx context.Context, r request, each func(line) error) (Done, error) {
	conn, err := dial(ctx, c.Path)
	if err != nil {
		return Done{}, unreached(err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	text, err := json.Marshal(r)
	if err != nil {
		return Done{}, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(append(text, '\n')); err != nil {
		return Done{}, unanswered(err)
	}
	return readAnswer(bufio.NewReaderSize(conn, maxLine), conn, each)
}

// unreached leaves out the address that was dialled, which says nothing to people:
// the socket's directory is one of our descriptors.
func unreached(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("the broker is not running: %w", err)
	}
	return err
}

func unanswered(err error) error {
	return fmt.Errorf("no whole answer (is this user root, or the broker's own?): %w", err)
}

// readAnswer reads an answer to its end.
func readAnswer(r *bufio.Reader, conn net.Conn, each func(line) error) (Done, error) {
	for range maxLines {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		text, err := readLine(r)
		if err != nil {
			return Done{}, unanswered(err)
		}
		l, err := parseLine(text)
		switch {
		case err != nil:
			return Done{}, err
		case l.Refused != "":
			return Done{}, &Refused{Reason: l.Refused}
		case l.Done != nil:
			return *l.Done, nil
		}
		if err := each(l); err != nil {
			return Done{}, err
		}
	}
	return Done{}, errAnswer
}

// parseLine reads one line of an answer.
func parseLine(text []byte) (line, error) {
	var l line
	if err := wire.DecodeExact(text, &l); err != nil {
		return line{}, fmt.Errorf("%w: %w", errAnswer, err)
	}
	members := 0
	for _, there := range []bool{l.Session != nil, l.Ban != nil, l.Done != nil, l.Refused != ""} {
		if there {
			members++
		}
	}
	if members != 1 {
		return line{}, errAnswer
	}
	return l, nil
}
