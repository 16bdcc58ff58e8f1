package measure

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// maxFile bounds what is read of one file, in bytes. The largest that is read
// whole, net/netstat, has about 5,000.
const maxFile = 64 << 10

// statHead is how much is read of stat: its first line is all that counts,
// while the line of interrupts grows with the machine.
const statHead = 4 << 10

// The parsers below are our own rather than those of github.com/prometheus/procfs
// because that library reads a short or absent "cpu" line as zeros and accepts
// "NaN" and "-3" as counters: here each of these is an error.

// readFile reads a whole file of at most maxFile bytes.
func readFile(path string) ([]byte, error) {
	data, err := readHead(path, maxFile+1)
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("reading %s: longer than %d bytes", path, maxFile)
	}
	return data, nil
}

// readHead reads at most limit bytes.
func readHead(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return data, nil
}

// number reads a counter: decimal digits alone, no sign.
func number(field []byte) (uint64, error) {
	v, err := strconv.ParseUint(string(field), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading a counter: %w", err)
	}
	return v, nil
}

// The fields of the "cpu" line (proc_stat(5)) in their order. The two that
// follow, guest and guest_nice, are contained in user and nice.
const (
	cpuIdle   = 3
	cpuIOWait = 4
	cpuFields = 8 // user nice system idle iowait irq softirq steal
)

// cpuTimes are the ticks that all processors together spent, by state.
type cpuTimes [cpuFields]uint64

// parseCPU reads the head of stat.
func parseCPU(head []byte) (cpuTimes, error) {
	var t cpuTimes
	line, _, whole := bytes.Cut(head, []byte("\n"))
	fields := bytes.Fields(line)
	if !whole || len(fields) < 1+cpuFields || string(fields[0]) != "cpu" {
		return cpuTimes{}, errors.New("reading stat: no complete cpu line at its beginning")
	}
	for i := range t {
		v, err := number(fields[1+i])
		if err != nil {
			return cpuTimes{}, fmt.Errorf("reading stat, cpu field %d: %w", i+1, err)
		}
		t[i] = v
	}
	return t, nil
}

// usage returns the percentage of time between two readings that the
// processors were in use, 0 to 100. Waiting for a disk is idle; time that a
// hypervisor gave to others is in use, because this host could not have it.
func usage(before, after cpuTimes) (float64, error) {
	var busy, all float64
	for i := range after {
		// The kernel may take idle and iowait back a little
		// (proc_stat(5)): that is no time at all.
		if after[i] <= before[i] {
			continue
		}
		d := float64(after[i] - before[i])
		all += d
		if i != cpuIdle && i != cpuIOWait {
			busy += d
		}
	}
	if all == 0 {
		return 0, errors.New("comparing processor times: no tick between two readings")
	}
	return 100 * busy / all, nil
}

// parseRAM reads meminfo and returns the percentage of memory that is not
// available to new programs.
func parseRAM(file []byte) (float64, error) {
	total, err := memory(file, "MemTotal:")
	if err != nil {
		return 0, err
	}
	available, err := memory(file, "MemAvailable:")
	if err != nil {
		return 0, err
	}
	if total == 0 || available > total {
		return 0, fmt.Errorf("reading meminfo: %d kB available of %d kB", available, total)
	}
	return 100 * (float64(total-available) / float64(total)), nil
}

// memory returns the value of one line of meminfo, in kB.
func memory(file []byte, key string) (uint64, error) {
	for line := range bytes.Lines(file) {
		fields := bytes.Fields(line)
		if len(fields) == 0 || string(fields[0]) != key {
			continue
		}
		if len(fields) != 3 || string(fields[2]) != "kB" {
			return 0, fmt.Errorf("reading meminfo: %s has no value in kB", key)
		}
		v, err := number(fields[1])
		if err != nil {
			return 0, fmt.Errorf("reading meminfo, %s %w", key, err)
		}
		return v, nil
	}
	return 0, fmt.Errorf("reading meminfo: %s is missing", key)
}

// wanted names one counter and where its value goes.
type wanted struct {
	name  string
	value *uint64
}

// parseCounters reads from net/snmp or net/netstat the wanted counters of one
// group, for example "Tcp". A group is a line of names and a line of values,
// both after the group's own name.
func parseCounters(file []byte, group string, all []wanted) error {
	prefix := []byte(group + ":")
	var names [][]byte
	for line := range bytes.Lines(file) {
		fields := bytes.Fields(line)
		if len(fields) == 0 || !bytes.Equal(fields[0], prefix) {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		return pick(names, fields, all)
	}
	return errors.New("the group is missing")
}

func pick(names, values [][]byte, all []wanted) error {
	if len(names) != len(values) {
		return fmt.Errorf("%d names and %d values", len(names), len(values))
	}
	for _, w := range all {
		at := slices.IndexFunc(names, func(name []byte) bool { return string(name) == w.name })
		if at < 0 {
			return fmt.Errorf("%s is missing", w.name)
		}
		v, err := number(values[at])
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		*w.value = v
	}
	return nil
}

// tcpCounters is the state of TCP at one moment. All but the two levels only
// ever grow.
type tcpCounters struct {
	established     uint64 // level; includes CLOSE_WAIT, as the kernel counts
	halfOpen        uint64 // level; in SYN_RECV
	passiveOpens    uint64 // handshakes that clients began and completed
	listenDrops     uint64 // SYNs and handshakes dropped at a listener
	listenOverflows uint64 // of these: the accept queue was full
	syncookiesSent  uint64
}

// readTCP reads everything but halfOpen.
func readTCP(root string) (tcpCounters, error) {
	var c tcpCounters
	for _, source := range []struct {
		file, group string
		wanted      []wanted
	}{
		{"snmp", "Tcp", []wanted{
			{"CurrEstab", &c.established},
			{"PassiveOpens", &c.passiveOpens},
		}},
		{"netstat", "TcpExt", []wanted{
			{"ListenDrops", &c.listenDrops},
			{"ListenOverflows", &c.listenOverflows},
			{"SyncookiesSent", &c.syncookiesSent},
		}},
	} {
		path := filepath.Join(root, "net", source.file)
		file, err := readFile(path)
		if err != nil {
			return tcpCounters{}, err
		}
		if err := parseCounters(file, source.group, source.wanted); err != nil {
			return tcpCounters{}, fmt.Errorf("reading %s, group %s: %w", path, source.group, err)
		}
	}
	// The kernel adds up what each processor counted, one after the other, and
	// prints the sum unsigned: a connection that moves meanwhile can make a
	// level of none look like -1.
	if c.established > math.MaxInt64 {
		c.established = 0
	}
	return c, nil
}

// grew reports whether no counter of c is below that of before.
func (c tcpCounters) grew(before tcpCounters) bool {
	return c.passiveOpens >= before.passiveOpens && c.listenDrops >= before.listenDrops &&
		c.listenOverflows >= before.listenOverflows && c.syncookiesSent >= before.syncookiesSent
}

// tableHalfOpen counts the sockets in SYN_RECV by reading the tables net/tcp
// and net/tcp6: about 3 ms for each 1,000 connections.
func tableHalfOpen(root string) (uint64, error) {
	var sum uint64
	for _, name := range []string{"tcp", "tcp6"} {
		path := filepath.Join(root, "net", name)
		n, err := scanFile(path)
		if name == "tcp6" && errors.Is(err, os.ErrNotExist) {
			continue // IPv6 is off
		}
		if err != nil {
			return 0, fmt.Errorf("reading %s: %w", path, err)
		}
		sum += n
	}
	return sum, nil
}

func scanFile(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return countHalfOpen(f)
}

// stateSYNRecv is TCP_SYN_RECV as the tables spell it.
const stateSYNRecv = "03"

// countHalfOpen counts the rows of one table whose fourth field, the state, is
// SYN_RECV. Lines are at most 4 KiB long.
func countHalfOpen(r io.Reader) (uint64, error) {
	lines := bufio.NewReaderSize(r, statHead)
	var n uint64
	for row := 0; ; row++ {
		line, err := lines.ReadSlice('\n')
		if err != nil && !(errors.Is(err, io.EOF) && len(line) == 0) {
			return 0, fmt.Errorf("row %d: %w", row, err)
		}
		if err != nil {
			if row == 0 {
				return 0, errors.New("the heading is missing")
			}
			return n, nil
		}
		fields := bytes.Fields(line)
		if len(fields) < 4 {
			return 0, fmt.Errorf("row %d is incomplete", row)
		}
		if row > 0 && string(fields[3]) == stateSYNRecv {
			n++
		}
	}
}
