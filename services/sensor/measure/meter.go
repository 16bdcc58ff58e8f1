package measure

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"levee/internal/wire"
	"levee/pki"
)

// DefaultProc is where Linux mounts proc.
const DefaultProc = "/proc"

// baseline is how long Open measures before the first reading, so that this
// has an interval to speak of: 20 ticks of each processor.
const baseline = 200 * time.Millisecond

// quiet is the least time between two log lines about the same trouble.
const quiet = time.Minute

// Config says what to measure. The zero value of what has a default is safe.
type Config struct {
	// Site and Name are the sensor's. The kernel's table is called by them, so
	// that several sensors of one host do not disturb each other.
	Site, Name string
	// SYN is the method of counting SYN packets: Auto, wire.SYNNFTables,
	// wire.SYNPacket or wire.SYNEstimate. Any but Auto must work, or Open
	// returns an error.
	SYN string
	// Proc is the root of the proc file system, DefaultProc when empty. Its
	// net must be that of this process's network namespace.
	Proc string
	// Log takes the choice of method, and each change of it afterwards.
	Log *slog.Logger
}

func (c *Config) validate() error {
	if !pki.ValidSite(c.Site) || !pki.ValidName(c.Name) {
		return fmt.Errorf("configuring the measurement: %q/%q is no sensor", c.Site, c.Name)
	}
	if c.Log == nil {
		return errors.New("configuring the measurement: no logger")
	}
	if c.Proc == "" {
		c.Proc = DefaultProc
	}
	return nil
}

// Meter measures one host. Each reading covers the time since the one before
// it; a reading that fails leaves that time to the next, unless a counter of
// the kernel went backwards. It is not safe for concurrent use.
type Meter struct {
	root     string
	log      *slog.Logger
	halfOpen *level

	choice  Choice
	method  opener               // of the kernel counter chosen; none for the estimate
	counter Counter              // nil while SYN packets are estimated
	counted uint64               // its value at the last reading
	said    map[string]time.Time // when each message about it was last logged

	cpu   cpuTimes
	cpuAt time.Time
	tcp   tcpCounters
	tcpAt time.Time
}

// start takes the first counters, waits for the baseline, and returns a Meter
// that is ready to read. It closes counters on error.
func start(ctx context.Context, config Config, methods []opener, halfOpen *level) (*Meter, error) {
	m := &Meter{root: config.Proc, log: config.Log, halfOpen: halfOpen, said: make(map[string]time.Time)}
	if err := m.choose(methods, config.SYN); err != nil {
		return nil, err
	}
	if err := m.prime(ctx, config.SYN); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if m.counter == nil && m.choice.Exact() {
		return m, nil // it was lost meanwhile, and that was said
	}
	severity := slog.LevelInfo
	if !m.choice.Exact() {
		severity = slog.LevelWarn
	}
	m.log.Log(ctx, severity, m.choice.String(), slog.String("syn_method", m.choice.Method))
	return m, nil
}

// choose opens the first of the methods, best first, that works; without one,
// SYN packets are estimated. A method that is asked for by name must work.
func (m *Meter) choose(methods []opener, wanted string) error {
	m.choice.Method = wire.SYNEstimate
	if wanted == wire.SYNEstimate {
		return nil
	}
	for _, method := range methods {
		if wanted != Auto && wanted != method.name {
			continue
		}
		counter, err := method.open()
		if err == nil {
			m.counter, m.method, m.choice.Method = counter, method, counter.Method()
			return nil
		}
		if wanted != Auto {
			return fmt.Errorf("counting SYN packets by %s, as configured: %w", wanted, err)
		}
		m.choice.Refused = append(m.choice.Refused, Refusal{method.name, err})
	}
	if wanted != Auto {
		return fmt.Errorf("counting SYN packets: %q is no method", wanted)
	}
	return nil
}

// prime takes the first counters and waits for the baseline.
func (m *Meter) prime(ctx context.Context, wanted string) error {
	var err error
	if m.cpu, err = m.readCPU(); err != nil {
		return err
	}
	m.cpuAt = time.Now()
	if m.tcp, err = m.readNetwork(); err != nil {
		return err
	}
	m.tcpAt = time.Now()
	if m.counter != nil {
		if m.counted, err = m.counter.Read(); err != nil && wanted != Auto {
			return err
		} else if err != nil { // another program flushed all rules just now
			m.lose(m.tcpAt, err)
		}
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(baseline):
		return nil
	}
}

// Close removes what Open put into the kernel.
func (m *Meter) Close() error {
	if m.counter == nil {
		return nil
	}
	err := m.counter.Close()
	m.counter, m.method = nil, opener{}
	return err
}

// SYN returns what Open chose.
func (m *Meter) SYN() Choice { return m.choice }

// CPU returns the payload of metrics/cpu but for its timestamp and server.
func (m *Meter) CPU() (wire.CPU, error) {
	after, err := m.readCPU()
	if err != nil {
		return wire.CPU{}, err
	}
	now := time.Now()
	percent, err := usage(m.cpu, after)
	if err != nil {
		return wire.CPU{}, err
	}
	reading := wire.CPU{Interval: now.Sub(m.cpuAt).Seconds(), CPUUsage: percent}
	m.cpu, m.cpuAt = after, now
	return reading, nil
}

func (m *Meter) readCPU() (cpuTimes, error) {
	head, err := readHead(filepath.Join(m.root, "stat"), statHead)
	if err != nil {
		return cpuTimes{}, err
	}
	return parseCPU(head)
}

// RAM returns the payload of metrics/ram but for its timestamp and server.
func (m *Meter) RAM() (wire.RAM, error) {
	file, err := readFile(filepath.Join(m.root, "meminfo"))
	if err != nil {
		return wire.RAM{}, err
	}
	percent, err := parseRAM(file)
	if err != nil {
		return wire.RAM{}, err
	}
	return wire.RAM{RAMUsage: percent}, nil
}

// Network returns the payload of metrics/network but for its timestamp and
// server. When the kernel counter of SYN packets is lost, the reading carries
// the estimate and says so, and the counter is opened anew.
func (m *Meter) Network() (wire.Network, error) {
	after, err := m.readNetwork()
	if err != nil {
		return wire.Network{}, err
	}
	now := time.Now()
	before, elapsed := m.tcp, now.Sub(m.tcpAt)
	m.tcp, m.tcpAt = after, now
	syn, method := m.countSYN(before, after, now)
	if !after.grew(before) {
		return wire.Network{}, errors.New("comparing TCP counters: one went backwards")
	}
	return wire.Network{
		Interval:             elapsed.Seconds(),
		ActiveTCPConnections: after.established,
		SYNPacketCount:       syn,
		SYNMethod:            method,
		ListenDrops:          after.listenDrops - before.listenDrops,
		ListenOverflows:      after.listenOverflows - before.listenOverflows,
		SyncookiesSent:       after.syncookiesSent - before.syncookiesSent,
		HalfOpen:             after.halfOpen,
	}, nil
}

func (m *Meter) readNetwork() (tcpCounters, error) {
	c, err := readTCP(m.root)
	if err != nil {
		return tcpCounters{}, err
	}
	if c.halfOpen, err = m.halfOpen.read(); err != nil {
		return tcpCounters{}, err
	}
	return c, nil
}

// countSYN returns the SYN packets since the last reading, and by which method
// they were counted.
func (m *Meter) countSYN(before, after tcpCounters, now time.Time) (uint64, string) {
	if m.counter != nil {
		total, err := m.counter.Read()
		if err == nil && total < m.counted {
			err = errors.New("the counter went backwards")
		}
		if err == nil {
			n := total - m.counted
			m.counted = total
			return n, m.counter.Method()
		}
		m.lose(now, err)
	}
	if m.method.open != nil {
		m.reopen(now)
	}
	return estimate(before, after), wire.SYNEstimate
}

// lose gives up a counter that cannot be read.
func (m *Meter) lose(now time.Time, err error) {
	m.say(now, slog.LevelWarn, "SYN counter lost, its count is an estimate until it is open again", err)
	if err := m.counter.Close(); err != nil {
		m.say(now, slog.LevelWarn, "closing the lost SYN counter", err)
	}
	m.counter = nil
}

// reopen opens the lost counter anew, for the readings to come. The usual
// cause is another program that flushes all of nftables' rules.
func (m *Meter) reopen(now time.Time) {
	counter, err := m.method.open()
	if err != nil {
		m.say(now, slog.LevelWarn, "opening the SYN counter again", err)
		return
	}
	if m.counted, err = counter.Read(); err != nil {
		m.say(now, slog.LevelWarn, "reading the SYN counter again", errors.Join(err, counter.Close()))
		return
	}
	m.counter = counter
	m.say(now, slog.LevelInfo, "SYN counter is open again", nil)
}

// say logs one message about the counter, unless the same was logged within a
// while.
func (m *Meter) say(now time.Time, severity slog.Level, message string, err error) {
	if last, ok := m.said[message]; ok && now.Sub(last) < quiet {
		return
	}
	m.said[message] = now
	attributes := []slog.Attr{slog.String("syn_method", m.method.name)}
	if err != nil {
		attributes = append(attributes, slog.Any("error", err))
	}
	m.log.LogAttrs(context.Background(), severity, message, attributes...)
}

// share bounds the time spent on walking the kernel's connections: after a
// walk, none follows for share times as long.
const share = 200

// level reads how many connections are half-open. The kernel keeps no such
// number: every way to it walks all connections, 15 to 19 ms at 100,000 by
// inet_diag. So read returns the last number again where walking would cost
// more than half a percent of one processor.
type level struct {
	walk func() (uint64, error)
	last uint64
	next time.Time // when walking is affordable again
}

func (l *level) read() (uint64, error) {
	began := time.Now()
	if began.Before(l.next) {
		return l.last, nil
	}
	n, err := l.walk()
	if err != nil {
		return 0, fmt.Errorf("counting half-open connections: %w", err)
	}
	ended := time.Now()
	l.last, l.next = n, ended.Add(share*ended.Sub(began))
	return n, nil
}
