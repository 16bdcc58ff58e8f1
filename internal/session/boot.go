package session

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"levee/envelope"
	"levee/internal/durable"
)

// nextBoot returns this start's boot: now in ms, but always above the last one
// used, which it records before the new one counts. A sender whose clock went
// back thus never uses a nonce twice.
func nextBoot(state string, now time.Time, skew time.Duration) (uint64, error) {
	path := filepath.Join(state, "boot")
	var last uint64
	text, err := durable.ReadFile(path, 64)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return 0, fmt.Errorf("reading the last boot: %w", err)
	default:
		var ok bool
		if last, ok = envelope.ParseBoot(strings.TrimSpace(string(text))); !ok {
			return 0, fmt.Errorf("reading the last boot: %s does not hold 11 hexadecimal digits", path)
		}
	}
	boot := max(uint64(now.UnixMilli()), last+1)
	if limit := uint64(now.Add(skew).UnixMilli()); boot > limit {
		return 0, fmt.Errorf("starting at %s: the last start was recorded at %s; set this machine's clock",
			now.UTC().Format(time.RFC3339), time.UnixMilli(int64(last)).UTC().Format(time.RFC3339))
	}
	if err := durable.WriteFile(path, []byte(envelope.FormatBoot(boot)+"\n"), 0o600); err != nil {
		return 0, fmt.Errorf("recording the boot: %w", err)
	}
	return boot, nil
}
