package measure

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"levee/internal/wire"
)

func TestOpenByPrivilege(t *testing.T) {
	isolated(t, func(t *testing.T) {
		for _, c := range []struct {
			name    string
			keep    []int
			method  string
			refused []string
			says    string
		}{
			{"admin", []int{unix.CAP_NET_ADMIN}, wire.SYNNFTables, nil, "exact"},
			{"raw", []int{unix.CAP_NET_RAW}, wire.SYNPacket, []string{wire.SYNNFTables}, "exact"},
			{"none", nil, wire.SYNEstimate, []string{wire.SYNNFTables, wire.SYNPacket},
				"for the exact count give the sensor CAP_NET_ADMIN (systemd: AmbientCapabilities=CAP_NET_ADMIN)"},
		} {
			withCapabilities(t, func() error {
				var log bytes.Buffer
				m, err := Open(t.Context(), Config{Site: "melb", Name: "web-1", Log: slog.New(slog.NewTextHandler(&log, nil))})
				if err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
				defer m.Close()
				choice := m.SYN()
				if choice.Method != c.method || len(choice.Refused) != len(c.refused) {
					return fmt.Errorf("%s: %+v", c.name, choice)
				}
				for i, method := range c.refused {
					if r := choice.Refused[i]; r.Method != method || !errors.Is(r.Err, fs.ErrPermission) {
						return fmt.Errorf("%s: refusal %d is %+v", c.name, i, r)
					}
				}
				if !strings.Contains(choice.String(), c.says) || !strings.Contains(log.String(), c.says) {
					return fmt.Errorf("%s: %q, logged %q", c.name, choice, log.String())
				}
				n, err := m.Network()
				if err != nil || n.SYNMethod != c.method {
					return fmt.Errorf("%s: %+v, %w", c.name, n, err)
				}
				return nil
			}, c.keep...)
		}
		withCapabilities(t, func() error {
			for _, method := range []string{wire.SYNNFTables, wire.SYNPacket} {
				_, err := Open(t.Context(), Config{Site: "melb", Name: "web-1", SYN: method, Log: slog.New(slog.DiscardHandler)})
				if !errors.Is(err, fs.ErrPermission) {
					return fmt.Errorf("%s without privilege: %w", method, err)
				}
			}
			return nil
		})
	})
}

// A whole Meter over this kernel, while another program flushes its rules.
func TestMeterLosesItsTable(t *testing.T) {
	isolated(t, func(t *testing.T) {
		var log bytes.Buffer
		m, err := Open(t.Context(), Config{Site: "melb", Name: "web-1", Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		address := listen(t, "tcp4", "127.0.0.1:0")
		conn, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		flush := func() {
			conn.FlushRuleset()
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		for i, step := range []struct {
			before func()
			method string
		}{
			{func() {}, wire.SYNNFTables},
			{flush, wire.SYNEstimate},
			{func() {}, wire.SYNNFTables},
			{flush, wire.SYNEstimate},
			{func() {}, wire.SYNNFTables},
		} {
			step.before()
			connect(t, "tcp4", address, 10)
			n, err := m.Network()
			if err != nil {
				t.Fatal(err)
			}
			if n.SYNMethod != step.method || n.SYNPacketCount != 10 || n.ActiveTCPConnections != uint64(20*(i+1)) {
				t.Errorf("step %d: %+v", i, n)
			}
		}
		if got := strings.Count(log.String(), "SYN counter lost"); got != 1 {
			t.Errorf("the loss was logged %d times within a minute, want once:\n%s", got, log.String())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if all, err := conn.ListTables(); err != nil || len(all) != 0 {
			t.Errorf("left behind: %v, %v", all, err)
		}
	})
}

// The values of this machine are within their bounds.
func TestThisMachine(t *testing.T) {
	m, err := Open(t.Context(), Config{Site: "melb", Name: "web-1", SYN: wire.SYNEstimate, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if c, err := m.CPU(); err != nil || c.CPUUsage < 0 || c.CPUUsage > 100 || c.Interval < baseline.Seconds() {
		t.Errorf("%+v, %v", c, err)
	}
	if r, err := m.RAM(); err != nil || r.RAMUsage <= 0 || r.RAMUsage >= 100 {
		t.Errorf("%+v, %v", r, err)
	}
	if n, err := m.Network(); err != nil || n.Interval < baseline.Seconds() || n.Interval > time.Hour.Seconds() {
		t.Errorf("%+v, %v", n, err)
	}
}
