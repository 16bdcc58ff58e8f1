//go:build linux

// Command attacker does its worst to a broker on loopback for a time, with valid
// certificates of guests. It guarantees that it ends at that time, and that its
// connections and messages are bounded. It is for test/bench and never shipped.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"levee/internal/site"
	"levee/pki"
	"levee/test/rawmqtt"
)

// mostDials is when an attacker gives up, whatever its time.
const mostDials = 1_000_000

func main() {
	a := &attacker{}
	flag.StringVar(&a.address, "address", "", "loopback host:port of the broker")
	flag.StringVar(&a.host, "host", "", "the site's host")
	flag.IntVar(&a.storm, "storm", 64, "connections at once that one guest's reconnect storm begins")
	flag.DurationVar(&a.length, "for", time.Second, "how long")
	flag.Parse()
	if err := a.run(flag.Args()); err != nil {
		slog.Error("attacking", slog.Any("error", err))
		os.Exit(1)
	}
}

// attacker is the whole attack.
type attacker struct {
	address, host string
	storm         int
	length        time.Duration
	end           time.Time

	dials, refused, sessions, packets atomic.Int64
}

// goesOn reports whether there is time left. A core that is this busy is late with
// its timers.
func (a *attacker) goesOn(ctx context.Context) bool {
	return ctx.Err() == nil && time.Now().Before(a.end)
}

// guest is one certificate.
type guest struct {
	*attacker
	number   int
	clientID string
	config   *tls.Config
	dialled  atomic.Int64
}

// run attacks with the guests that each of arguments names: client
// identifier, "=", and the directory of its bundle.
func (a *attacker) run(arguments []string) error {
	at, err := net.ResolveTCPAddr("tcp", a.address)
	if err != nil {
		return err
	}
	if !at.IP.IsLoopback() {
		return errors.New("not a loopback address")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, a.length)
	defer cancel()
	a.end = time.Now().Add(a.length)
	var attacking sync.WaitGroup
	for n, argument := range arguments {
		clientID, bundle, _ := strings.Cut(argument, "=")
		g := &guest{attacker: a, number: n, clientID: clientID}
		if err := g.load(bundle); err != nil {
			return err
		}
		if n >= len(scenarios) { // the first of them do everything in turn, the rest storm
			for worker := range a.storm {
				attacking.Go(func() { g.reconnect(ctx, worker) })
			}
			continue
		}
		attacking.Go(func() { g.misuse(ctx) })
	}
	attacking.Wait()
	return json.NewEncoder(os.Stdout).Encode(map[string]int64{
		"dials": a.dials.Load(), "refused": a.refused.Load(), "sessions": a.sessions.Load(), "packets": a.packets.Load(),
	})
}

func (g *guest) load(bundle string) error {
	credential, err := pki.LoadCredential(filepath.Join(bundle, site.FileKey), filepath.Join(bundle, site.FileChain))
	if err != nil {
		return err
	}
	root, err := os.ReadFile(filepath.Join(bundle, site.FileRoot))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(root) {
		return errors.New("reading the root: no certificate")
	}
	g.config = &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: g.host, Certificates: []tls.Certificate{credential.TLS()}}
	return nil
}

// dial opens a connection, up to TLS, from one of the guest's 250 addresses, so that
// no cap or ban of an address makes the attack harmless. Its reading buffer is
// small, and its close a reset, which leaves no port in use.
func (g *guest) dial(ctx context.Context) (*rawmqtt.Client, error) {
	if g.dials.Add(1) > mostDials {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	from := net.IPv4(127, 0, byte(1+g.number), byte(1+g.dialled.Add(1)%250))
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", g.address)
	if err != nil {
		g.refused.Add(1)
		return nil, err
	}
	tcp := conn.(*net.TCPConn)
	_, _ = tcp.SetReadBuffer(4096), tcp.SetLinger(0)
	secured := tls.Client(conn, g.config)
	_ = secured.SetDeadline(g.soon())
	if err := secured.Handshake(); err != nil {
		conn.Close()
		g.refused.Add(1)
		return nil, err
	}
	c := rawmqtt.New(secured)
	c.Timeout = time.Until(g.soon())
	return c, nil
}

// soon is the deadline of what should not take long.
func (a *attacker) soon() time.Time {
	if soon := time.Now().Add(10 * time.Second); soon.Before(a.end) {
		return soon
	}
	return a.end
}

// open opens a session.
func (g *guest) open(ctx context.Context) (*rawmqtt.Client, error) {
	c, err := g.dial(ctx)
	if err != nil {
		return nil, err
	}
	code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: g.clientID, KeepAlive: 120})
	if err == nil && code != rawmqtt.Accepted {
		err = fmt.Errorf("CONNACK %d", code)
	}
	if err != nil {
		g.hangUp(c)
		g.refused.Add(1)
		return nil, err
	}
	g.sessions.Add(1)
	_ = c.Conn.SetDeadline(g.end)
	return c, nil
}

// hangUp resets a connection without a word of TLS.
func (g *guest) hangUp(c *rawmqtt.Client) {
	_ = c.Conn.(*tls.Conn).NetConn().Close()
}
