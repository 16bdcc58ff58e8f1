package measure

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// counters opens both kernel counters. This kernel must offer them.
func counters(t *testing.T) []Counter {
	t.Helper()
	nft, err := openNFT("levee_sensor_test_counters")
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Skipf("nftables: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	packet, err := openPacket()
	if err != nil {
		t.Fatal(err)
	}
	all := []Counter{nft, packet}
	t.Cleanup(func() {
		for _, c := range all {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return all
}

func wantCount(t *testing.T, c Counter, want uint64) {
	t.Helper()
	got, err := c.Read()
	if err != nil {
		t.Fatalf("%s: %v", c.Method(), err)
	}
	if got != want {
		t.Errorf("%s counted %d SYN packets, sent were %d", c.Method(), got, want)
	}
}

func kernelState(t *testing.T) tcpCounters {
	t.Helper()
	c, err := readTCP(DefaultProc)
	if err != nil {
		t.Fatal(err)
	}
	if c.halfOpen, err = walker(DefaultProc)(); err != nil {
		t.Fatal(err)
	}
	return c
}

// Each SYN is counted once, although on loopback it also leaves, and neither
// its answer nor anything that follows is counted.
func TestKernelCountersAreExact(t *testing.T) {
	isolated(t, func(t *testing.T) {
		all := counters(t)
		before := kernelState(t)
		for _, c := range all {
			wantCount(t, c, 0)
		}
		connect(t, "tcp4", listen(t, "tcp4", "127.0.0.1:0"), 150)
		for _, c := range all {
			wantCount(t, c, 150)
		}
		connect(t, "tcp6", listen(t, "tcp6", "[::1]:0"), 130)
		knock(t, 20)
		for _, c := range all {
			wantCount(t, c, 300)
			wantCount(t, c, 300) // reading changes nothing
		}
		after := kernelState(t)
		if got := after.passiveOpens - before.passiveOpens; got != 280 {
			t.Errorf("%d handshakes, want 280", got)
		}
		if got := estimate(before, after); got < 280 || got > 300 {
			t.Errorf("the estimate is %d, for 280 handshakes of 300 SYN packets", got)
		}
		if after.established != 2*280 {
			t.Errorf("%d established, want both ends of 280", after.established)
		}
	})
}

func TestHalfOpen(t *testing.T) {
	isolated(t, func(t *testing.T) {
		all := counters(t)
		before := kernelState(t)
		connect(t, "tcp4", listenSilent(t, "tcp4", "127.0.0.1:0"), 40)
		connect(t, "tcp6", listenSilent(t, "tcp6", "[::1]:0"), 20)
		connect(t, "tcp4", listen(t, "tcp4", "127.0.0.1:0"), 10)
		after := kernelState(t)
		if after.halfOpen != 60 {
			t.Errorf("sock_diag lists %d half-open connections, want 60", after.halfOpen)
		}
		if n, err := tableHalfOpen(DefaultProc); n != 60 || err != nil {
			t.Errorf("the tables list %d half-open connections and %v, want 60", n, err)
		}
		withCapabilities(t, func() error {
			if n, err := diagHalfOpen(make([]byte, diagBuffer)); n != 60 || err != nil {
				return fmt.Errorf("without privilege sock_diag lists %d half-open connections and %w, want 60", n, err)
			}
			return nil
		})
		for _, c := range all {
			wantCount(t, c, 70)
		}
		if got := estimate(before, after); got != 70 {
			t.Errorf("the estimate is %d, want 70", got)
		}
	})
}

// In overload the estimate is as good as the count.
func TestEstimateInOverload(t *testing.T) {
	isolated(t, func(t *testing.T) {
		for name, value := range map[string]string{"tcp_syncookies": "0", "tcp_max_syn_backlog": "16"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
				t.Skipf("setting %s: %v", name, err)
			}
		}
		all := counters(t)
		before := kernelState(t)
		flood(t, 200)
		after := kernelState(t)
		if dropped := after.listenDrops - before.listenDrops; dropped < 150 {
			t.Fatalf("%d SYN packets dropped of 200, this is no overload", dropped)
		}
		for _, c := range all {
			wantCount(t, c, 200)
		}
		if got := estimate(before, after); got != 200 {
			t.Errorf("the estimate is %d, want 200", got)
		}
	})
}

// flood sends n SYNs to a listener that completes no connection, and gives up
// before any is repeated.
func flood(t *testing.T, n int) {
	t.Helper()
	server, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(server) })
	address := &unix.SockaddrInet4{Port: 8443, Addr: [4]byte{127, 0, 0, 1}}
	if err := errors.Join(
		unix.SetsockoptInt(server, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 30),
		unix.Bind(server, address),
		unix.Listen(server, 1024),
	); err != nil {
		t.Fatal(err)
	}
	for range n {
		client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(client, address); !errors.Is(err, unix.EINPROGRESS) {
			t.Fatalf("connecting: %v", err)
		}
		// Those without an answer are given up here; the others stay until the
		// namespace ends.
		if info, err := unix.GetsockoptTCPInfo(client, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && info.State == 2 {
			unix.Close(client)
		}
	}
}

// What the two kernel counters accept, packet by packet.
func TestKernelCountersAgree(t *testing.T) {
	const syn, synACK, synECN, synFIN = flagSYN, flagSYN | flagACK, flagSYN | 0xc0, flagSYN | flagFIN
	other := [6]byte{2, 0, 0, 0, 0, 1}
	cases := []struct {
		name        string
		to          [6]byte
		packet      []byte
		nft, packed uint64
	}{
		{"IPv4 SYN", [6]byte{}, ipv4(nil, 0, tcp(syn)), 1, 1},
		{"IPv4 SYN with ECN", [6]byte{}, ipv4(nil, 0, tcp(synECN)), 1, 1},
		{"IPv4 SYN with IP options", [6]byte{}, ipv4([]byte{1, 1, 1, 1, 1, 1, 1, 1}, 0, tcp(syn)), 1, 1},
		{"IPv4 SYN and ACK", [6]byte{}, ipv4(nil, 0, tcp(synACK)), 0, 0},
		{"IPv4 SYN and FIN", [6]byte{}, ipv4(nil, 0, tcp(synFIN)), 0, 0},
		{"IPv4 UDP", [6]byte{}, withProtocol(ipv4(nil, 0, tcp(syn)), 17), 0, 0},
		{"IPv4 SYN for another machine", other, ipv4(nil, 0, tcp(syn)), 0, 0},
		{"IPv6 SYN", [6]byte{}, ipv6(nil, tcp(syn)), 1, 1},
		{"IPv6 SYN and ACK", [6]byte{}, ipv6(nil, tcp(synACK)), 0, 0},
		{"IPv6 SYN for another machine", other, ipv6(nil, tcp(syn)), 0, 0},
		// The documented differences.
		{"IPv4 later fragment that looks like SYN", [6]byte{}, ipv4(nil, 96, tcp(syn)), 1, 0},
		{"IPv6 SYN after an extension header", [6]byte{}, ipv6([]byte{unix.IPPROTO_TCP, 0, 1, 4, 0, 0, 0, 0}, tcp(syn)), 1, 0},
	}
	isolated(t, func(t *testing.T) {
		all := counters(t)
		var nft, packed uint64
		for _, c := range cases {
			inject(t, c.to, c.packet)
			nft, packed = nft+c.nft, packed+c.packed
			t.Log(c.name)
			wantCount(t, all[0], nft)
			wantCount(t, all[1], packed)
		}
	})
}

func TestNFTTables(t *testing.T) {
	isolated(t, func(t *testing.T) {
		conn, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		tables := func() string {
			all, err := conn.ListTables()
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, table := range all {
				names = append(names, table.Name)
			}
			return strings.Join(names, " ")
		}
		open := func(name string) *nftCounter {
			c, err := openNFT(name)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		address := listen(t, "tcp4", "127.0.0.1:0")

		killed := open("levee_sensor_melb_web-1")
		connect(t, "tcp4", address, 3)
		wantCount(t, killed, 3)
		// It never closes. Its successor starts at zero, in the one table.
		web := open("levee_sensor_melb_web-1")
		other := open("levee_sensor_syd_web-1")
		connect(t, "tcp4", address, 5)
		wantCount(t, web, 5)
		wantCount(t, other, 5)
		if got := tables(); got != "levee_sensor_melb_web-1 levee_sensor_syd_web-1" {
			t.Errorf("tables %q", got)
		}
		if err := web.Close(); err != nil {
			t.Error(err)
		}
		connect(t, "tcp4", address, 2)
		wantCount(t, other, 7)

		// A rule that somebody removed must not look like silence.
		conn.FlushTable(other.table)
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		if n, err := other.Read(); err == nil {
			t.Errorf("without its rule the counter reads %d", n)
		}
		conn.FlushRuleset()
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		if n, err := other.Read(); err == nil {
			t.Errorf("without its table the counter reads %d", n)
		}
		if err := other.Close(); err != nil {
			t.Errorf("closing a table that is gone: %v", err)
		}
		if got := tables(); got != "" {
			t.Errorf("left behind: %q", got)
		}
	})
}

// What a firewall of this host drops was received all the same.
func TestKernelCountersComeBeforeFirewalls(t *testing.T) {
	isolated(t, func(t *testing.T) {
		conn, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		drop := nftables.ChainPolicyDrop
		conn.AddChain(&nftables.Chain{
			Name: "early", Table: conn.AddTable(&nftables.Table{Name: "firewall", Family: nftables.TableFamilyINet}),
			Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw, Policy: &drop,
		})
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		all := counters(t)
		inject(t, [6]byte{}, ipv4(nil, 0, tcp(flagSYN)))
		inject(t, [6]byte{}, ipv6(nil, tcp(flagSYN)))
		for _, c := range all {
			wantCount(t, c, 2)
		}
	})
}
