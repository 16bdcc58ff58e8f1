package clocks

import (
	"log/slog"
	"sync"
	"time"
)

// kernelInterval is how often the kernel is asked.
const kernelInterval = time.Minute

// KernelState is what the kernel says of this machine's clock.
type KernelState struct {
	Synchronised bool          // some time source has set it lately
	MaxError     time.Duration // the kernel's bound of its error, which grows while nothing sets it
}

// Kernel asks the kernel whether this machine's clock is synchronised. What it
// answers is only as good as whoever told it: a time daemon that follows a
// wrong source is synchronised too.
type Kernel struct {
	log  *slog.Logger
	read func() (KernelState, error)

	mu    sync.Mutex
	state KernelState
	known bool // by the last answer
	asked bool
}

// NewKernel returns a Kernel that has not asked yet.
func NewKernel(log *slog.Logger) *Kernel { return &Kernel{log: log, read: readKernel} }

// Run asks at once and each minute until done is closed. It logs what changes.
func (k *Kernel) Run(done <-chan struct{}) {
	tick := time.NewTicker(kernelInterval)
	defer tick.Stop()
	for {
		k.ask()
		select {
		case <-tick.C:
		case <-done:
			return
		}
	}
}

func (k *Kernel) ask() {
	state, err := k.read()
	k.mu.Lock()
	was, known, asked := k.state, k.known, k.asked
	k.state, k.known, k.asked = state, err == nil, true
	k.mu.Unlock()
	switch {
	case err != nil:
		if known || !asked {
			k.log.Info("whether this machine's clock is synchronised is not known", slog.Any("error", err))
		}
	case !state.Synchronised:
		if !known || was.Synchronised {
			k.log.Warn("the kernel says that nothing synchronises this machine's clock: see to its time service (NTP)",
				slog.Duration("max_error", state.MaxError))
		}
	case known && !was.Synchronised:
		k.log.Info("the kernel says that this machine's clock is synchronised again", slog.Duration("max_error", state.MaxError))
	}
}

// State returns the last answer; known is false if there was none.
func (k *Kernel) State() (state KernelState, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state, k.known
}

// String returns the last answer in words.
func (k *Kernel) String() string {
	switch state, known := k.State(); {
	case !known:
		return "unknown"
	case state.Synchronised:
		return "synchronised"
	default:
		return "not synchronised"
	}
}
