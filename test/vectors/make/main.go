// Command make writes the test vectors of the envelope: the cases below, as
// the *.json files that test/vectors/README.md describes.
//
//	go run ./test/vectors/make test/vectors
//
// It writes the same bytes each time: keys come from seeds that stand in the
// source, certificates have fixed serial numbers and times, Ed25519 signatures
// are deterministic and the ECDSA ones are made as in RFC 6979. The seeds are
// public and protect nothing.
//
// It shares no code with package envelope: it builds messages from text, so
// that it can build wrong ones, and derives keys by itself, so that the
// vectors test both sides. It expects nothing by asking the implementation:
// every expectation is written down here.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"levee/test/vectors"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: make DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "make:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	w, err := newWorld()
	if err != nil {
		return err
	}
	s := &set{world: w, files: make(map[string][]byte)}
	s.honest()
	s.sizes()
	s.keyIDs()
	s.keys()
	s.macs()
	s.headers()
	s.chains()
	s.payloads()
	s.numbers()
	s.text()
	s.topics()
	s.signatures()
	s.certificates()
	s.pins()
	s.orders()
	s.acknowledgements()
	s.freshness()
	s.replays()
	s.statements()
	s.digests()
	if s.err != nil {
		return s.err
	}
	return write(dir, s.files)
}

// write makes dir hold exactly these vectors.
func write(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(filepath.Join(dir, "digests"), 0o755); err != nil {
		return fmt.Errorf("making the directory: %w", err)
	}
	var old []string
	for _, below := range []string{"*.json", "digests/*.json"} {
		paths, err := filepath.Glob(filepath.Join(dir, below))
		if err != nil {
			return fmt.Errorf("listing old vectors: %w", err)
		}
		old = append(old, paths...)
	}
	for _, path := range old {
		if name, err := filepath.Rel(dir, path); err == nil && files[filepath.ToSlash(name)] != nil {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing an old vector: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, name)
		if b, err := os.ReadFile(path); err == nil && bytes.Equal(b, files[name]) {
			continue
		}
		if err := os.WriteFile(path, files[name], 0o644); err != nil {
			return fmt.Errorf("writing a vector: %w", err)
		}
	}
	return nil
}

// set collects cases. The first error stays.
type set struct {
	*world
	files map[string][]byte
	err   error
}

func (s *set) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

// add adds one case.
func (s *set) add(c vectors.Case) {
	s.encode(c.Name+".json", c)
}

func (s *set) encode(file string, c any) {
	if s.files[file] != nil {
		s.fail("two cases are called %s", file)
		return
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(c); err != nil {
		s.fail("encoding %s: %w", file, err)
		return
	}
	s.files[file] = b.Bytes()
}
