package measure

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fixtures are files that a Linux 6.18 wrote: two processors, a network
// namespaces of their own with 13 established and 5 half-open connections, and
// (net/netstat) with an overflowing listener.
const fixtures = "testdata/proc"

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixtures, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseCPU(t *testing.T) {
	got, err := parseCPU(fixture(t, "stat"))
	if want := (cpuTimes{22748, 0, 9319, 293207, 1339, 0, 172, 3831}); err != nil || got != want {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if got, err := parseCPU([]byte("cpu  1 2 3 4 5 6 7 8\n")); err != nil || got != (cpuTimes{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("without guest times: %v, %v", got, err)
	}
	for name, head := range map[string]string{
		"empty":               "",
		"blank line":          "\ncpu 1 2 3 4 5 6 7 8\n",
		"cut off":             "cpu  1 2 3 4 5 6 7 8",
		"short":               "cpu  1 2 3 4 5 6 7\n",
		"one processor":       "cpu0 1 2 3 4 5 6 7 8\n",
		"another file":        "intr 1 2 3 4 5 6 7 8 9\n",
		"negative":            "cpu  1 2 3 -4 5 6 7 8\n",
		"not a number":        "cpu  1 2 3 NaN 5 6 7 8\n",
		"fraction":            "cpu  1 2 3 4.5 5 6 7 8\n",
		"longer than 64 bits": "cpu  1 2 3 18446744073709551616 5 6 7 8\n",
	} {
		if got, err := parseCPU([]byte(head)); err == nil {
			t.Errorf("%s: accepted as %v", name, got)
		}
	}
}

func TestUsage(t *testing.T) {
	start := cpuTimes{100, 100, 100, 100, 100, 100, 100, 100}
	for _, c := range []struct {
		name string
		add  cpuTimes
		want float64
	}{
		{"idle", cpuTimes{cpuIdle: 50}, 0},
		{"waiting for a disk is idle", cpuTimes{cpuIOWait: 50}, 0},
		{"all in use", cpuTimes{0: 40, 2: 10}, 100},
		{"a quarter", cpuTimes{0: 10, 1: 5, 2: 4, 3: 70, 4: 5, 5: 1, 6: 2, 7: 3}, 25},
		{"stolen by the hypervisor is in use", cpuTimes{cpuIdle: 50, 7: 50}, 50},
	} {
		after := start
		for i := range after {
			after[i] += c.add[i]
		}
		if got, err := usage(start, after); err != nil || got != c.want {
			t.Errorf("%s: %v, %v, want %v", c.name, got, err, c.want)
		}
	}
	back := start
	back[0], back[cpuIdle], back[cpuIOWait] = 110, 130, 50
	if got, err := usage(start, back); err != nil || got != 25 {
		t.Errorf("iowait taken back: %v, %v, want 25", got, err)
	}
	if got, err := usage(start, start); err == nil {
		t.Errorf("no time has passed, yet %v", got)
	}
}

func TestParseRAM(t *testing.T) {
	got, err := parseRAM(fixture(t, "meminfo"))
	if want := 100 * float64(24684092-24338040) / 24684092; err != nil || math.Abs(got-want) > 1e-9 {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	for name, c := range map[string]struct {
		file string
		want float64
	}{
		"all":  {"MemTotal: 8 kB\nMemAvailable: 0 kB\n", 100},
		"none": {"MemAvailable: 8 kB\nMemTotal: 8 kB\n", 0},
	} {
		if got, err := parseRAM([]byte(c.file)); err != nil || got != c.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}
	for name, file := range map[string]string{
		"empty":             "",
		"no total":          "MemAvailable: 1 kB\n",
		"no available":      "MemTotal: 1 kB\nMemFree: 1 kB\n", // before Linux 3.14
		"total of nothing":  "MemTotal: 0 kB\nMemAvailable: 0 kB\n",
		"more than all":     "MemTotal: 1 kB\nMemAvailable: 2 kB\n",
		"another unit":      "MemTotal: 8 MB\nMemAvailable: 1 MB\n",
		"no unit":           "MemTotal: 8\nMemAvailable: 1\n",
		"negative":          "MemTotal: 8 kB\nMemAvailable: -1 kB\n",
		"no value":          "MemTotal:\nMemAvailable: 1 kB\n",
		"key of other case": "memtotal: 8 kB\nMemAvailable: 1 kB\n",
	} {
		if got, err := parseRAM([]byte(file)); err == nil {
			t.Errorf("%s: accepted as %v", name, got)
		}
	}
}

func TestParseCounters(t *testing.T) {
	for name, file := range map[string]string{
		"empty":                  "",
		"blank lines":            "\n\n",
		"no such group":          "TcpX: A B\nTcpX: 1 2\n",
		"names without values":   "Tcp: A B\n",
		"one value short":        "Tcp: A B\nTcp: 1\n",
		"one value more":         "Tcp: A B\nTcp: 1 2 3\n",
		"name missing":           "Tcp: A C\nTcp: 1 2\n",
		"negative":               "Tcp: A B\nTcp: 1 -2\n",
		"not a number":           "Tcp: A B\nTcp: 1 NaN\n",
		"hexadecimal":            "Tcp: A B\nTcp: 1 0x2\n",
		"names twice, no values": "Tcp: A B\nTcp: A B\n",
	} {
		var a, b uint64
		if err := parseCounters([]byte(file), "Tcp", []wanted{{"A", &a}, {"B", &b}}); err == nil {
			t.Errorf("%s: accepted as %d, %d", name, a, b)
		}
	}
	var b uint64
	file := "Ip: B\nIp: 7\nTcp: MaxConn B\n\nTcp: -1 18446744073709551615"
	if err := parseCounters([]byte(file), "Tcp", []wanted{{"B", &b}}); err != nil || b != math.MaxUint64 {
		t.Errorf("%d, %v", b, err)
	}
}

func TestReadTCP(t *testing.T) {
	got, err := readTCP(fixtures)
	if want := (tcpCounters{established: 13, passiveOpens: 4, listenDrops: 37, listenOverflows: 7, syncookiesSent: 9}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if _, err := readTCP(t.TempDir()); err == nil {
		t.Error("read from an empty directory")
	}
	root := procWith(t, map[string]string{"net/snmp": "Tcp: CurrEstab PassiveOpens\nTcp: 18446744073709551615 4\n"})
	if got, err := readTCP(root); err != nil || got.established != 0 {
		t.Errorf("a level of -1: %+v, %v, want 0", got, err)
	}
	root = procWith(t, map[string]string{"net/netstat": "TcpExt: ListenDrops SyncookiesSent\nTcpExt: 1 2\n"})
	if _, err := readTCP(root); err == nil || !strings.Contains(err.Error(), "ListenOverflows is missing") {
		t.Errorf("without ListenOverflows: %v", err)
	}
	root = procWith(t, map[string]string{"net/snmp": strings.Repeat("x", maxFile+1)})
	if _, err := readTCP(root); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("an endless file: %v", err)
	}
}

// procWith copies the fixtures and replaces some of them; empty removes.
func procWith(t testing.TB, replaced map[string]string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(fixtures)); err != nil {
		t.Fatal(err)
	}
	for name, content := range replaced {
		write(t, root, name, content)
	}
	return root
}

func write(t testing.TB, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, name)
	if content == "" {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTableHalfOpen(t *testing.T) {
	if n, err := tableHalfOpen(fixtures); n != 5 || err != nil {
		t.Errorf("%d, %v, want 5", n, err)
	}
	if n, err := tableHalfOpen(procWith(t, map[string]string{"net/tcp6": ""})); n != 3 || err != nil {
		t.Errorf("without IPv6: %d, %v, want 3", n, err)
	}
	if n, err := tableHalfOpen(procWith(t, map[string]string{"net/tcp": ""})); err == nil {
		t.Errorf("without the table: %d", n)
	}
	for name, table := range map[string]string{
		"no heading":  "",
		"cut off":     "sl local rem st\n0: a b 03",
		"incomplete":  "sl local rem st\n0: a b\n",
		"blank":       "sl local rem st\n\n",
		"endless row": "sl local rem st\n" + strings.Repeat("x", statHead+1) + "\n",
	} {
		if n, err := countHalfOpen(strings.NewReader(table)); err == nil {
			t.Errorf("%s: accepted as %d", name, n)
		}
	}
}

// No parser panics, and none returns a value with an error.
func FuzzParsers(f *testing.F) {
	for _, name := range []string{"stat", "meminfo", "net/snmp", "net/netstat", "net/tcp", "net/tcp6"} {
		f.Add(fixture(f, name))
	}
	for _, s := range []string{"", "\n", "cpu", "cpu  \n", "Tcp:", "Tcp:\nTcp:\n", "MemTotal:\n", " 03\n", "a b c 03\na b c 03\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if times, err := parseCPU(file); err != nil && times != (cpuTimes{}) {
			t.Errorf("parseCPU returned %v with %v", times, err)
		} else if percent, err := usage(cpuTimes{}, times); err == nil && !(percent >= 0 && percent <= 100) {
			t.Errorf("usage is %v", percent)
		}
		if percent, err := parseRAM(file); !(percent >= 0 && percent <= 100) || err != nil && percent != 0 {
			t.Errorf("parseRAM returned %v with %v", percent, err)
		}
		var v uint64
		if err := parseCounters(file, "Tcp", []wanted{{"PassiveOpens", &v}}); err == nil && !bytes.Contains(file, []byte("PassiveOpens")) {
			t.Errorf("parseCounters found %d in a file that does not name it", v)
		}
		if n, err := countHalfOpen(bytes.NewReader(file)); n > uint64(bytes.Count(file, []byte("03"))) || err != nil && n != 0 {
			t.Errorf("countHalfOpen returned %d with %v", n, err)
		}
	})
}
