package translog

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"levee/internal/translog/proof"
)

// Defaults of Config.
const (
	DefaultBatchSize          = 1024
	DefaultBatchAge           = 25 * time.Millisecond
	DefaultCheckpointInterval = time.Second
)

// Config says where a log is and how it is written.
type Config struct {
	// Dir is the log's directory, on a local file system.
	Dir string
	// Watermark is the path of the file that holds the newest signed
	// checkpoint. Keep it outside Dir, best on another disk, and out of the
	// backups that Dir is in. Its directory must exist.
	Watermark string
	// Origin names the log. It must be the one that Key was made for.
	Origin string
	Key    Key
	Log    *slog.Logger
	// BatchSize and BatchAge bound how many entries are written at a time and
	// how long the first of them waits. 0 means 1024 and 25 ms; 65,536 is the
	// largest batch.
	BatchSize int
	BatchAge  time.Duration
	// CheckpointInterval is how often a tree that has grown is signed and
	// published. 0 means 1 s.
	CheckpointInterval time.Duration
}

// complete checks the configuration and fills in the defaults.
func (cfg Config) complete() (Config, error) {
	switch {
	case cfg.Dir == "":
		return cfg, errors.New("configuring log: no directory")
	case cfg.Watermark == "":
		return cfg, errors.New("configuring log: no watermark")
	case cfg.Log == nil:
		return cfg, errors.New("configuring log: no logger")
	case cfg.Key.signer == nil:
		return cfg, errors.New("configuring log: no key")
	case cfg.Origin != cfg.Key.Origin():
		return cfg, fmt.Errorf("configuring log: the key is for %q, not for %q", cfg.Key.Origin(), cfg.Origin)
	case cfg.BatchSize < 0 || cfg.BatchAge < 0 || cfg.CheckpointInterval < 0:
		return cfg, errors.New("configuring log: negative batch or interval")
	case cfg.BatchSize > proof.MaxAhead:
		return cfg, fmt.Errorf("configuring log: a batch of more than %d entries", proof.MaxAhead)
	}
	if cfg.BatchAge == 0 {
		cfg.BatchAge = DefaultBatchAge
	}
	if cfg.CheckpointInterval == 0 {
		cfg.CheckpointInterval = DefaultCheckpointInterval
	}
	cfg.Dir = filepath.Clean(cfg.Dir)
	if cfg.BatchSize == 0 {
		cfg.BatchSize = DefaultBatchSize
	}
	return cfg, cfg.checkWatermarkPath()
}

// checkWatermarkPath refuses a watermark that whoever replaces the log's
// directory would replace with it.
func (cfg Config) checkWatermarkPath() error {
	kept, err := filepath.EvalSymlinks(filepath.Dir(cfg.Watermark))
	if err != nil {
		return fmt.Errorf("configuring log: directory of the watermark: %w", err)
	}
	dir, err := filepath.EvalSymlinks(cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		dir, err = cfg.Dir, nil
	}
	if err != nil {
		return fmt.Errorf("configuring log: %w", err)
	}
	if kept, err = filepath.Abs(kept); err != nil {
		return fmt.Errorf("configuring log: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("configuring log: %w", err)
	}
	way, err := filepath.Rel(dir, kept)
	if err != nil {
		return fmt.Errorf("configuring log: %w", err)
	}
	if way != ".." && !strings.HasPrefix(way, "../") {
		return fmt.Errorf("configuring log: the watermark %s is inside the log's directory: keep it elsewhere", cfg.Watermark)
	}
	return nil
}

func (cfg Config) verifier() (note.Verifier, error) {
	return proof.NewVerifier(cfg.Origin, cfg.Key.VKey())
}

// path returns a file of the log by its name below Dir.
func (cfg Config) path(name string) string { return filepath.Join(cfg.Dir, filepath.FromSlash(name)) }

func (cfg Config) fsys() fs.FS { return os.DirFS(cfg.Dir) }
