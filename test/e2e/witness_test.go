package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/rawmqtt"
)

// steadyPorts returns free addresses that stay free while their owners are
// dead: below the ports that the kernel gives to outgoing connections.
func steadyPorts(t *testing.T, n int) []string {
	t.Helper()
	var addresses []string
	for range 100 * n {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 12_000+rand.IntN(18_000)))
		if err != nil {
			continue
		}
		defer l.Close() // not before there are n: they are different
		if addresses = append(addresses, l.Addr().String()); len(addresses) == n {
			return addresses
		}
	}
	t.Fatal("no free ports")
	return nil
}

// screen is a running `levee watch`, of which only the newest reading of each
// sender is kept.
type screen struct {
	mu    sync.Mutex
	shown map[string]int64 // ts
}

func (b *bank) screen(t *testing.T) *screen {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "levee"), "watch", "--json", "--bundle", b.layout.Bundle(b.ids[pki.RoleOperator]))
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &screen{shown: make(map[string]int64)}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			var line struct {
				Verification string `json:"verification"`
				Sender       string `json:"sender"`
				Time         int64  `json:"ts"`
			}
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Verification == "unconfirmed" {
				s.mu.Lock()
				s.shown[line.Sender] = max(s.shown[line.Sender], line.Time)
				s.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		reading.Wait()
		if err := cmd.Wait(); err != nil {
			t.Errorf("levee watch ended with %v", err)
		}
	})
	return s
}

func (s *screen) newest(sender string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown[sender]
}

// heard is a command or a status as it was published.
type heard struct {
	topic   string
	raw     []byte
	nonce   envelope.Nonce
	ts      int64
	command *wire.Command
	status  *wire.Status
	times   int // delivered
}

// hear reads an envelope, if it is of a command or a status.
func hear(raw []byte) (m heard, ok bool) {
	e, err := envelope.Parse(raw, envelope.MaxMessage)
	if err != nil {
		return m, false
	}
	topic, err := wire.ParseTopic(string(e.Topic))
	if err != nil {
		return m, false
	}
	m = heard{topic: string(e.Topic), raw: slices.Clone(raw), nonce: e.Nonce, ts: e.Time, times: 1}
	switch topic.Kind {
	case wire.KindCommand:
		m.command = new(wire.Command)
		err = wire.DecodeExact(e.Payload, m.command)
	case wire.KindRateLimiting, wire.KindScaling:
		m.status = new(wire.Status)
		err = wire.DecodeExact(e.Payload, m.status)
	default:
		return m, false
	}
	return m, err == nil
}

// ear is the operator's second session, which hears commands and statuses and
// is opened again whenever the broker has died.
type ear struct {
	mu    sync.Mutex
	heard []heard
	index map[string]int // by the bytes
}

func (b *bank) listen(t *testing.T) *ear {
	t.Helper()
	alice := b.steal(t, pki.RoleOperator, "alice")
	e := &ear{index: make(map[string]int)}
	b.again(t, alice, func(ctx context.Context, c *rawmqtt.Client) {
		c.Timeout = 10 * time.Minute
		if codes, err := c.Subscribe(1, 0, "melb/bank_server/control/command/+/+", "melb/bank_server/status/rate_limiting/+",
			"melb/bank_server/status/scaling/+"); err != nil || slices.Contains(codes, rawmqtt.Refused) {
			return
		}
		for {
			packet, err := c.Read()
			if err != nil {
				return
			}
			if published, err := packet.Message(); err == nil {
				e.note(published.Payload)
			}
		}
	})
	return e
}

func (e *ear) note(raw []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i, ok := e.index[string(raw)]; ok {
		e.heard[i].times++
		return
	}
	if m, ok := hear(raw); ok {
		e.index[string(raw)] = len(e.heard)
		e.heard = append(e.heard, m)
	}
}

// matching returns what was heard, in the order in which it was.
func (e *ear) matching(want func(m heard) bool) []heard {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(e.heard), func(m heard) bool { return !want(m) })
}

func aCommand(m heard) bool { return m.command != nil }

func aStatus(m heard) bool { return m.status != nil }

// commands returns each command once, however often it was said.
func (e *ear) commands() []wire.Command {
	var commands []wire.Command
	known := make(map[wire.ID]bool)
	for _, m := range e.matching(aCommand) {
		if !known[m.command.ID] {
			known[m.command.ID] = true
			commands = append(commands, *m.command)
		}
	}
	return commands
}

// active reports whether a status has said that a command is in force.
func (e *ear) active(id wire.ID) bool {
	return slices.ContainsFunc(e.matching(aStatus), func(m heard) bool { return m.status.ID == id && m.status.State == wire.StateActive })
}

// answered reports whether a status of a command was said since then.
func (e *ear) answered(id wire.ID, since time.Time) bool {
	return slices.ContainsFunc(e.matching(aStatus), func(m heard) bool { return m.status.ID == id && m.ts >= since.UnixMilli() })
}

// until returns when the last of what is in force for a server ends, as
// statuses have said.
func (e *ear) until(server string) time.Time {
	var until int64
	for _, m := range e.matching(aStatus) {
		if m.status.Server == server && m.status.State == wire.StateActive {
			until = max(until, m.status.Until)
		}
	}
	return time.UnixMilli(until)
}

// again holds a session of p with the broker and opens another one whenever it
// has ended, until the test does. with ends when its session does.
func (b *bank) again(t *testing.T, p *party, with func(ctx context.Context, c *rawmqtt.Client)) {
	t.Helper()
	config, client := b.tlsConfig(t, p.cert), p.id.ClientID()
	if p.id.Role == pki.RoleOperator {
		client += "_1" // levee watch has the first
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			if c, err := rawmqtt.Dial(b.broker, config); err == nil {
				stop := context.AfterFunc(ctx, func() { c.Close() })
				if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: client, KeepAlive: 120}); err == nil && code == rawmqtt.Accepted {
					with(ctx, c)
				}
				stop()
				c.Close()
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// load is what other servers say all the while, each with the bundle of a
// sensor of its own.
type load struct {
	victim       atomic.Pointer[string] // whose readings are those of an attack
	acknowledged atomic.Int64           // readings, by the broker
}

// What each server says: no faster than policy lets a sensor, and not for ever.
const (
	speakEvery = 65 * time.Millisecond
	maxSpoken  = 10_000
)

func (b *bank) speak(t *testing.T, names []string) *load {
	t.Helper()
	l := new(load)
	for _, name := range names {
		p := b.steal(t, pki.RoleSensor, name)
		spoken := 0
		b.again(t, p, func(ctx context.Context, c *rawmqtt.Client) {
			tick := time.NewTicker(speakEvery)
			defer tick.Stop()
			for ; spoken < maxSpoken; spoken++ {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
				topic := p.topic(wire.KindNetwork)
				raw := p.seal(t, p.header(topic), l.network(name))
				if c.Send(rawmqtt.Publish(rawmqtt.Message{Topic: topic, Payload: raw, QoS: 1, ID: 1})) != nil {
					return
				}
				if _, err := c.Expect(rawmqtt.TypePuback); err != nil {
					return
				}
				l.acknowledged.Add(1)
			}
		})
	}
	return l
}

// attacked returns the server that is attacked, "" for none.
func (l *load) attacked() string {
	if p := l.victim.Load(); p != nil {
		return *p
	}
	return ""
}

func (l *load) network(server string) *wire.Network {
	n := &wire.Network{Timestamp: unixSeconds(time.Now()), Server: server, Interval: 5, ActiveTCPConnections: 5, SYNPacketCount: 7, SYNMethod: wire.SYNPacket}
	if server == l.attacked() {
		n.ActiveTCPConnections = 5000
	}
	return n
}
