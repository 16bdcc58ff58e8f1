//go:build linux

package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"time"

	"levee/test/rawmqtt"
)

// scenarios are what a session is opened for. Each goes on until the broker
// ends it.
var scenarios = []func(*guest, context.Context, *rawmqtt.Client){
	(*guest).publishUnacknowledged, (*guest).publishAcknowledged, (*guest).subscribe, (*guest).neverRead, (*guest).deepTopics, (*guest).hugePackets,
}

// misuse does everything in turn. Whenever the broker ends one thing the guest
// comes back at once for the next, banned or not.
func (g *guest) misuse(ctx context.Context) {
	for round := g.number; g.goesOn(ctx); round++ {
		c, err := g.open(ctx)
		if err != nil {
			continue
		}
		scenarios[round%len(scenarios)](g, ctx, c)
		g.hangUp(c)
	}
}

// reconnect connects and leaves: after CONNACK, after TLS, in the middle of
// CONNECT, with a packet of 256 MiB in its place; now and then it says nothing
// until the broker ends that.
func (g *guest) reconnect(ctx context.Context, worker int) {
	for n := worker; g.goesOn(ctx); n++ {
		c, err := g.dial(ctx)
		if err != nil {
			continue
		}
		switch connect := rawmqtt.Connect(rawmqtt.ConnectOptions{ClientID: g.clientID, KeepAlive: 60}); {
		case n%64 == 63:
			_ = c.Closed(time.Until(g.soon()))
		case n%4 == 0:
			if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: g.clientID, KeepAlive: 60}); err != nil || code != rawmqtt.Accepted {
				g.refused.Add(1)
			} else {
				g.sessions.Add(1)
			}
		case n%4 == 1:
			_ = c.Send(connect[:len(connect)/2])
		case n%4 == 2:
			_ = c.Send(huge)
		}
		g.hangUp(c)
	}
}

// flood writes the same packets over and over, reads whatever comes, and
// acknowledges nothing.
func (g *guest) flood(c *rawmqtt.Client, batch []byte, count int64) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, c.Conn)
		g.hangUp(c)
	}()
	for {
		if _, err := c.Conn.Write(batch); err != nil {
			break
		}
		g.packets.Add(count)
	}
	g.hangUp(c)
	<-ended
}

func (g *guest) publishUnacknowledged(_ context.Context, c *rawmqtt.Client) {
	g.flood(c, bytes.Repeat(rawmqtt.Publish(rawmqtt.Message{Topic: "public/worst", Payload: []byte("x")}), 256), 256)
}

func (g *guest) publishAcknowledged(_ context.Context, c *rawmqtt.Client) {
	payload := bytes.Repeat([]byte("x"), 4000)
	g.flood(c, bytes.Repeat(rawmqtt.Publish(rawmqtt.Message{Topic: "public/worst/large", Payload: payload, QoS: 1, ID: 7}), 4), 4)
}

// subscribe subscribes to as many filters of as many levels as are allowed at
// once, and takes that back.
func (g *guest) subscribe(_ context.Context, c *rawmqtt.Client) {
	var filters []string
	for level := range 8 {
		f := strings.Split("public/+/+/+/+/+/+/+", "/")
		if level > 0 {
			f[level] = "worst"
		}
		filters = append(filters, strings.Join(f, "/"))
	}
	g.flood(c, append(rawmqtt.Subscribe(1, 1, filters...), rawmqtt.Unsubscribe(2, filters...)...), 2)
}

// neverRead subscribes to all that it may, and reads none of it. What it sends
// is within its rates, so that the broker has no other reason to end it.
func (g *guest) neverRead(ctx context.Context, c *rawmqtt.Client) {
	if c.Send(rawmqtt.Subscribe(1, 1, "public/#", "melb/bank_server/revocations/+")) != nil {
		return
	}
	large := rawmqtt.Publish(rawmqtt.Message{Topic: "public/worst/large", Payload: bytes.Repeat([]byte("x"), 3900)})
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if c.Send(large) != nil {
				return
			}
			g.packets.Add(1)
		case <-ctx.Done():
			return
		}
	}
}

// deepTopics publishes to, or subscribes to, a topic of 32,000 levels.
func (g *guest) deepTopics(_ context.Context, c *rawmqtt.Client) {
	deep := "public" + strings.Repeat("/a", 32_000)
	packet := rawmqtt.Publish(rawmqtt.Message{Topic: deep, Payload: []byte("x")})
	if g.dialled.Load()%2 == 0 {
		packet = rawmqtt.Subscribe(1, 1, "public"+strings.Repeat("/+", 32_000))
	}
	g.flood(c, packet, 1)
}

// huge is the header of the longest PUBLISH that there is, 256 MiB.
var huge = []byte{rawmqtt.TypePublish << 4, 0xff, 0xff, 0xff, 0x7f}

// hugePackets begins one and goes on with its body.
func (g *guest) hugePackets(_ context.Context, c *rawmqtt.Client) {
	if c.Send(huge) == nil {
		g.flood(c, make([]byte, 64<<10), 0)
	}
}
