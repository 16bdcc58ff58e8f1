package measure

import (
	"context"
	"errors"

	"levee/internal/wire"
)

// diagBuffer holds one part of the kernel's answer, which is 32 KiB at most.
const diagBuffer = 64 << 10

// Open chooses how to count SYN packets and returns a Meter that is ready to
// read: it measures for 200 ms first. It logs its choice. Close must be called,
// or a rule that counts stays in the kernel until the next Open of the same
// sensor.
func Open(ctx context.Context, config Config) (*Meter, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	return start(ctx, config, methods(config), &level{walk: walker(config.Proc)})
}

// methods lists the kernel counters, best first. Both are exact; nftables also
// reads IPv6 extension headers, and administrators can see it.
func methods(config Config) []opener {
	return []opener{
		{wire.SYNNFTables, func() (Counter, error) { return openNFT(tableName(config)) }},
		{wire.SYNPacket, func() (Counter, error) { return openPacket() }},
	}
}

// tableName is unambiguous, because neither name contains an underscore.
func tableName(config Config) string {
	return "levee_sensor_" + config.Site + "_" + config.Name
}

// walker counts half-open connections by sock_diag, and by the tables in proc
// where sock_diag is not to be had: a kernel without it, or a sandbox without
// netlink.
func walker(root string) func() (uint64, error) {
	buffer := make([]byte, diagBuffer)
	return func() (uint64, error) {
		n, err := diagHalfOpen(buffer)
		if err == nil {
			return n, nil
		}
		n, tableErr := tableHalfOpen(root)
		if tableErr != nil {
			return 0, errors.Join(err, tableErr)
		}
		return n, nil
	}
}
