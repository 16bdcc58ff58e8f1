//go:build !linux

package measure

import (
	"context"
	"fmt"
	"runtime"
)

// Open returns an error: measuring needs Linux.
func Open(_ context.Context, config Config) (*Meter, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("measuring this host: not supported on %s, only on linux", runtime.GOOS)
}
