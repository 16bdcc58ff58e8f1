package translog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"levee/internal/durable"
)

// replaceSuffix ends the name of a file that is being written. In the log's
// directory it is one that proof.Leftovers knows, so that nothing stays after a
// crash.
const replaceSuffix = "0"

// replace puts content in the place of a file at once, or leaves it as it was,
// and returns when it is durable. There must be no other writer.
func replace(path string, content []byte) error {
	next := path + replaceSuffix
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, ignoreMissing(os.Remove(next))))
	}
	return durable.SyncDir(filepath.Dir(path))
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
