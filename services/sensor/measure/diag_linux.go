package measure

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The first generation of the kernel's sock_diag interface (linux/inet_diag.h).
// It alone walks the connections of IPv4 and IPv6 in one go.
const (
	diagGetTCP     = 18 // TCPDIAG_GETSOCK: a request, and each part of its answer
	diagRequestLen = 60 // struct inet_diag_req
	diagStatesAt   = 52 // its idiag_states
	diagStateAt    = 1  // idiag_state of struct inet_diag_msg
	tcpSYNRecv     = 3
)

const netlinkHeader = 16 // struct nlmsghdr

// diagTimeout bounds the wait for one part of the answer, in seconds. The
// kernel makes it while we wait.
const diagTimeout = 1

// diagHalfOpen asks the kernel for the sockets in SYN_RECV, without any
// privilege, and counts them. The work is the kernel's walk: 0.3 ms on an idle
// host, 15 to 19 ms at 100,000 connections.
func diagHalfOpen(buffer []byte) (uint64, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, fmt.Errorf("opening sock_diag: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: diagTimeout}); err != nil {
		return 0, fmt.Errorf("setting up sock_diag: %w", err)
	}
	if err := unix.Sendto(fd, diagRequest(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("asking sock_diag: %w", err)
	}
	var sum uint64
	for {
		n, err := receive(fd, buffer)
		if err != nil {
			return 0, fmt.Errorf("reading sock_diag: %w", err)
		}
		found, done, err := countDiag(buffer[:n])
		if err != nil {
			return 0, fmt.Errorf("reading sock_diag: %w", err)
		}
		sum += found
		if done {
			return sum, nil
		}
	}
}

// receive is recv(2), repeated when a signal interrupts it.
func receive(fd int, buffer []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func diagRequest() []byte {
	b := make([]byte, netlinkHeader+diagRequestLen)
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], diagGetTCP)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(b[netlinkHeader+diagStatesAt:], 1<<tcpSYNRecv)
	return b
}

var errDiag = errors.New("malformed answer")

// countDiag counts the sockets in SYN_RECV that one part of an answer lists,
// and tells whether it is the last part.
func countDiag(b []byte) (found uint64, done bool, err error) {
	for len(b) > 0 {
		if len(b) < netlinkHeader {
			return 0, false, errDiag
		}
		size := binary.NativeEndian.Uint32(b)
		if size < netlinkHeader || uint64(size) > uint64(len(b)) {
			return 0, false, errDiag
		}
		body := b[netlinkHeader:size]
		switch kind := binary.NativeEndian.Uint16(b[4:]); kind {
		case unix.NLMSG_DONE:
			// It may carry the error that cut the list short.
			if len(body) >= 4 && binary.NativeEndian.Uint32(body) != 0 {
				return 0, false, diagError(body)
			}
			return found, true, nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return 0, false, errDiag
			}
			return 0, false, diagError(body)
		case diagGetTCP:
			if len(body) <= diagStateAt {
				return 0, false, errDiag
			}
			if body[diagStateAt] == tcpSYNRecv {
				found++
			}
		default:
			return 0, false, fmt.Errorf("unknown message type %d", kind)
		}
		b = b[min(uint64(len(b)), (uint64(size)+3)&^3):] // messages are aligned to 4 bytes
	}
	return found, false, nil
}

// diagError reads the negated errno at the beginning of body.
func diagError(body []byte) error {
	return unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
}
