package translog

import (
	"errors"
	"fmt"

	"levee/internal/durable"
	"levee/internal/translog/proof"
)

// contradictedSuffix ends the name of the file that keeps a watermark that HoldTo
// replaced.
const contradictedSuffix = ".contradicted"

// HoldTo makes signed, a checkpoint that the log's own key signed and somebody
// else kept, the watermark of a log that is closed. Open then refuses a log that
// does not continue it, whoever can be asked by then: a log that was rolled back
// stays shut until the right one is put back. The watermark that was there is
// kept beside it. Where the log continues signed, nothing changes.
func HoldTo(cfg Config, signed []byte) error {
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	v, err := cfg.verifier()
	if err != nil {
		return err
	}
	held, err := proof.OpenCheckpoint(signed, v)
	if err != nil {
		return fmt.Errorf("holding the log to a checkpoint: %w", err)
	}
	locks, err := lock(cfg)
	if err != nil {
		return fmt.Errorf("holding the log to a checkpoint: %w", err)
	}
	defer locks.release()
	h, err := readHeads(cfg, v)
	if err != nil {
		return fmt.Errorf("holding the log to a checkpoint: %w", err)
	}
	if held.Tree.N <= h.state.N && !errors.Is(proof.Consistent(cfg.fsys(), held.Tree, h.state), proof.ErrInconsistent) {
		return nil
	}
	if err := durable.WriteFile(cfg.Watermark+contradictedSuffix, h.watermark.Note, 0o644); err != nil {
		return fmt.Errorf("holding the log to a checkpoint: %w", err)
	}
	if err := replace(cfg.Watermark, held.Note); err != nil {
		return fmt.Errorf("holding the log to a checkpoint: writing watermark: %w", err)
	}
	return nil
}
