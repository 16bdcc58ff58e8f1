//go:build unix

package broker

import (
	"errors"
	"syscall"
)

// writeNow writes as much of p as the kernel takes without waiting.
func writeNow(raw syscall.RawConn, p []byte) (n int, err error) {
	outer := raw.Write(func(fd uintptr) bool {
		for n < len(p) {
			m, e := syscall.Write(int(fd), p[n:])
			switch {
			case m > 0:
				n += m
			case errors.Is(e, syscall.EINTR):
			case errors.Is(e, syscall.EAGAIN):
				return true
			default:
				err = e
				return true
			}
		}
		return true // never asks to be called again: that would wait
	})
	if err == nil {
		err = outer
	}
	return n, err
}
