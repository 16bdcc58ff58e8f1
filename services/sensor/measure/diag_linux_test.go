package measure

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// part is one netlink message with this body, aligned to 4 bytes.
func part(kind uint16, body []byte) []byte {
	b := make([]byte, netlinkHeader, netlinkHeader+len(body)+3)
	binary.NativeEndian.PutUint32(b, uint32(netlinkHeader+len(body)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	b = append(b, body...)
	return append(b, make([]byte, -len(b)&3)...)
}

func TestCountDiag(t *testing.T) {
	half, full := part(diagGetTCP, []byte{unix.AF_INET, tcpSYNRecv, 0, 0, 1}), part(diagGetTCP, []byte{unix.AF_INET, 1, 0, 0})
	refusal := binary.NativeEndian.AppendUint32(nil, ^uint32(unix.EPERM)+1)
	for _, c := range []struct {
		name  string
		parts [][]byte
		found uint64
		done  bool
		err   error
	}{
		{"nothing", nil, 0, false, nil},
		{"some, more to come", [][]byte{half, full, half}, 2, false, nil},
		{"the last", [][]byte{half, part(unix.NLMSG_DONE, make([]byte, 4))}, 1, true, nil},
		{"only the end", [][]byte{part(unix.NLMSG_DONE, nil)}, 0, true, nil},
		{"refused", [][]byte{part(unix.NLMSG_ERROR, refusal)}, 0, false, unix.EPERM},
		{"broken off", [][]byte{half, part(unix.NLMSG_DONE, refusal)}, 0, false, unix.EPERM},
		{"error without number", [][]byte{part(unix.NLMSG_ERROR, nil)}, 0, false, errDiag},
		{"no state", [][]byte{part(diagGetTCP, []byte{unix.AF_INET})}, 0, false, errDiag},
		{"half a header", [][]byte{half, half[:10]}, 0, false, errDiag},
		{"longer than it is", [][]byte{half[:18]}, 0, false, errDiag},
		{"of no length", [][]byte{make([]byte, 16)}, 0, false, errDiag},
	} {
		found, done, err := countDiag(bytes.Join(c.parts, nil))
		if found != c.found || done != c.done || !errors.Is(err, c.err) {
			t.Errorf("%s: %d, %v, %v, want %d, %v, %v", c.name, found, done, err, c.found, c.done, c.err)
		}
	}
	if _, _, err := countDiag(part(99, nil)); err == nil {
		t.Error("an unknown message was accepted")
	}
}

func FuzzCountDiag(f *testing.F) {
	f.Add(part(diagGetTCP, []byte{2, 3, 0, 0}))
	f.Add(part(unix.NLMSG_DONE, make([]byte, 4)))
	f.Add(part(unix.NLMSG_ERROR, []byte{255, 255, 255, 255}))
	f.Add([]byte{255, 255, 255, 255, 18, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		found, done, err := countDiag(b)
		if err != nil && (found != 0 || done) {
			t.Errorf("%d, %v with %v", found, done, err)
		}
		if found > uint64(len(b)/netlinkHeader) {
			t.Errorf("%d sockets in %d bytes", found, len(b))
		}
	})
}

// The filters on packets of any form: what the kernel's own machine would do.
func FuzzFilters(f *testing.F) {
	f.Add(ipv4(nil, 0, tcp(flagSYN)), false)
	f.Add(ipv4(make([]byte, 40), 0, tcp(flagSYN)), false)
	f.Add(ipv4(nil, 8, tcp(flagSYN)), false)
	f.Add(ipv6(nil, tcp(flagSYN)), true)
	f.Add([]byte{0x4f}, false)
	f.Fuzz(func(t *testing.T, packet []byte, six bool) {
		program, flagsAt, segment := synIPv4(), 0, false
		if six {
			program = synIPv6()
			flagsAt = ipv6Header + tcpFlagsAt
			segment = len(packet) > 6 && packet[6] == unix.IPPROTO_TCP
		} else if len(packet) > 9 {
			flagsAt = int(packet[0]&0xf)*4 + tcpFlagsAt
			segment = packet[9] == unix.IPPROTO_TCP && binary.BigEndian.Uint16(packet[6:])&0x1fff == 0
		}
		want := reject
		if segment && flagsAt < len(packet) && packet[flagsAt]&0x17 == 0x02 {
			want = accept
		}
		vm, err := bpf.NewVM(program)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := vm.Run(packet); err != nil || got != want {
			t.Errorf("%x: %d, %v, want %d", packet, got, err, want)
		}
	})
}
