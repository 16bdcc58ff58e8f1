//go:build !linux

package clocks

import "errors"

func readKernel() (KernelState, error) {
	return KernelState{}, errors.New("asking the kernel: not known how, on this system")
}
