package logserver

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"

	"levee/internal/translog/proof"
)

// Checkpoint is a checkpoint as it is shown. Size is how many entries it covers.
type Checkpoint struct {
	Note []byte
	Size int64
}

// tiles are the files of the log that may be read.
type tiles struct {
	dir    string
	newest func() (Checkpoint, error)
}

// Full and partial tiles never change.
const forEver = "private, max-age=31536000, immutable"

// serve answers with a file, or returns the status of a refusal.
func (t tiles) serve(w http.ResponseWriter, r *http.Request) (status int, err error) {
	cp, err := t.newest()
	switch {
	case err != nil:
		return http.StatusServiceUnavailable, err
	case cp.Note == nil:
		return http.StatusNotFound, errors.New("no checkpoint was cosigned yet")
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/")
	if ok && path == proof.CheckpointFile {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Content-Length", strconv.Itoa(len(cp.Note)))
		w.Write(cp.Note) // to a client that may be gone
		return http.StatusOK, nil
	}
	tile, err := proof.ParseTilePath(path)
	if !ok || err != nil {
		return http.StatusNotFound, errors.New("neither the checkpoint nor a tile")
	}
	if !proof.Covers(cp.Size, tile) {
		return http.StatusNotFound, fmt.Errorf("the checkpoint of %d entries does not cover it", cp.Size)
	}
	f, size, err := t.open(proof.TilePath(tile))
	if errors.Is(err, fs.ErrNotExist) {
		return http.StatusNotFound, err // superseded: the full one is there
	}
	if err != nil {
		return http.StatusServiceUnavailable, err
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", forEver)
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	if r.Method == http.MethodGet {
		io.CopyN(w, f, size) // to a client that may be gone
	}
	return http.StatusOK, nil
}

// open opens a file of the log: a regular one, and none that a link leads to.
func (t tiles) open(name string) (f *os.File, size int64, err error) {
	root, err := os.OpenRoot(t.dir)
	if err != nil {
		return nil, 0, err
	}
	defer root.Close()
	before, err := root.Lstat(name)
	if err != nil {
		return nil, 0, err
	}
	if !before.Mode().IsRegular() { // opening a pipe would wait for its writer
		return nil, 0, fmt.Errorf("%s is not a regular file", name)
	}
	if f, err = root.Open(name); err != nil {
		return nil, 0, err
	}
	after, err := f.Stat()
	if err == nil && !os.SameFile(before, after) {
		err = fmt.Errorf("%s was replaced", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, after.Size(), nil
}
