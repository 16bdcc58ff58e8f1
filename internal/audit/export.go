package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"levee/internal/durable"
	"levee/internal/records"
	"levee/internal/site"
	"levee/internal/translog/proof"
	"levee/services/recorder/segment"
)

// The files of an export beside log and segments.
const (
	fileUnfinished = "UNFINISHED" // it is being written, or was not to its end
	fileReadme     = "README.txt"
	fileSums       = records.FileSums
)

// Exported says what an export holds.
type Exported struct {
	Entries  int64 `json:"entries"`
	Segments int   `json:"segments"`
	Files    int   `json:"files"`
	Bytes    int64 `json:"bytes"`
	Reused   int   `json:"reused"` // files that an export that was not finished had
}

// exporter writes one export.
type exporter struct {
	Config
	dir  string
	head proof.Checkpoint
	sums map[string]string // by path, with slashes
	done Exported
}

// segmentEnd is how much of a segment belongs to an export.
type segmentEnd struct {
	segment.File
	size int64
}

// Export copies log, segments, site document and policy to dir, which must not
// exist, be empty, or hold an export that was not finished: that is continued. No
// key is among them. The recorder may be running: the checkpoint is read first,
// and what is copied is what had been written then.
func Export(ctx context.Context, c Config, dir string) (Exported, error) {
	x := &exporter{Config: c, dir: dir, sums: make(map[string]string)}
	if err := x.begin(); err != nil {
		return Exported{}, fmt.Errorf("exporting: %w", err)
	}
	if err := x.write(ctx); err != nil {
		return Exported{}, fmt.Errorf("exporting: %w", err)
	}
	return x.done, nil
}

// begin makes the directory and marks it as unfinished.
func (x *exporter) begin() error {
	files, err := os.ReadDir(x.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	resumes := slices.ContainsFunc(files, func(f os.DirEntry) bool { return f.Name() == fileUnfinished })
	if len(files) > 0 && !resumes {
		return fmt.Errorf("%s is not empty, and holds no export that was not finished: name another directory", x.dir)
	}
	if err := os.MkdirAll(x.dir, 0o755); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(x.dir, fileUnfinished), []byte("This export is not whole. Run levee audit export again.\n"), 0o644)
}

func (x *exporter) write(ctx context.Context) error {
	log := os.DirFS(x.Files.Log())
	var err error
	origin, _, _ := strings.Cut(x.Document.LogKey, "+")
	if x.head, err = readHead(log, origin, x.Document.LogKey); err != nil {
		return err
	}
	ends, err := segmentEnds(x.Files.Segments())
	if err != nil {
		return err
	}
	if err := x.log(ctx, log); err != nil {
		return err
	}
	for _, end := range ends {
		if err := x.segment(ctx, end); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{
		filepath.Join(string(x.Files.Bundle), site.FileDocument): site.FileDocument,
		filepath.Join(string(x.Files.Bundle), site.FilePolicy):   site.FilePolicy,
		x.Files.Cosigned():  filepath.Base(x.Files.Cosigned()),
		x.Files.Deletions(): filepath.Base(x.Files.Deletions()),
	} {
		content, err := durable.ReadFile(from, maxSummed)
		if errors.Is(err, fs.ErrNotExist) && (from == x.Files.Cosigned() || from == x.Files.Deletions()) {
			continue // no witness has cosigned; nothing was deleted
		}
		if err == nil {
			err = x.put(to, content)
		}
		if err != nil {
			return err
		}
	}
	if err := x.put(fileReadme, x.readme()); err != nil {
		return err
	}
	x.done.Entries, x.done.Segments = x.head.Tree.N, len(ends)
	return x.end()
}

// segmentEnds returns the segments, as long as they are now.
func segmentEnds(dir string) ([]segmentEnd, error) {
	files, _, err := segmentFiles(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ends []segmentEnd
	for _, f := range files {
		info, err := os.Stat(f.Path)
		if err != nil {
			return nil, err
		}
		ends = append(ends, segmentEnd{f, info.Size()})
	}
	return ends, nil
}

// log copies the tiles and bundles of the checkpoint's tree, as wide as that has
// them, and says of the tree what the checkpoint says.
func (x *exporter) log(ctx context.Context, log fs.FS) error {
	state, err := proof.TreeState(x.head.Tree)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		proof.CheckpointFile: x.head.Note, proof.TreeStateFile: state, proof.VersionFile: []byte(proof.Version),
	} {
		if err := x.put("log/"+name, content); err != nil {
			return err
		}
	}
	for level := -1; level < 8; level++ {
		width := x.head.Tree.N >> uint(8*max(level, 0))
		for n := int64(0); n<<8 < width; n++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			t := tlog.Tile{H: 8, L: level, N: n, W: int(min(bundleWidth, width-n<<8))}
			if err := x.tile(log, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// tile copies one tile or bundle. A partial one may have been superseded by the
// full one, of which it is the beginning.
func (x *exporter) tile(log fs.FS, t tlog.Tile) error {
	path := proof.TilePath(t)
	if t.W == bundleWidth && x.reuse("log/"+path, -1) {
		return nil
	}
	raw, err := readAtMost(log, path, maxBundle)
	if errors.Is(err, fs.ErrNotExist) && t.W < bundleWidth {
		full := t
		full.W = bundleWidth
		if raw, err = readAtMost(log, proof.TilePath(full), maxBundle); err == nil {
			raw, err = narrow(raw, t)
		}
	}
	if err != nil {
		return err
	}
	return x.put("log/"+path, raw)
}

// narrow returns the first t.W hashes of a tile, or entries of a bundle.
func narrow(raw []byte, t tlog.Tile) ([]byte, error) {
	if t.L >= 0 {
		if len(raw) < t.W*tlog.HashSize {
			return nil, fmt.Errorf("%s is too short", proof.TilePath(t))
		}
		return raw[:t.W*tlog.HashSize], nil
	}
	rest := raw
	for range t.W {
		var err error
		if _, rest, err = cutEntry(rest); err != nil {
			return nil, err
		}
	}
	return raw[:len(raw)-len(rest)], nil
}

// segment copies the whole records of a segment that had been written.
func (x *exporter) segment(ctx context.Context, end segmentEnd) error {
	name := "segments/" + filepath.Base(end.Path)
	f, err := os.Open(end.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := wholeRecords(ctx, f, end)
	if err != nil || x.reuse(name, size) {
		return err
	}
	return x.copy(name, io.NewSectionReader(f, 0, size))
}

// wholeRecords returns how much of a file, as long as it was, is whole. What is
// damaged is copied as it is: an audit names it.
func wholeRecords(ctx context.Context, f io.ReaderAt, end segmentEnd) (int64, error) {
	r := segment.NewReader(io.NewSectionReader(f, 0, end.size), end.Path)
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		_, err := r.Next()
		switch {
		case err == nil:
		case errors.Is(err, segment.ErrIncomplete):
			return r.Offset(), nil
		case errors.Is(err, io.EOF), errors.Is(err, segment.ErrDamaged):
			return end.size, nil
		default:
			return 0, err
		}
	}
}

// reuse takes over a file of an export that was not finished: what never
// changes once it has its size, -1 for any.
func (x *exporter) reuse(name string, size int64) bool {
	path := filepath.Join(x.dir, filepath.FromSlash(name))
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || size >= 0 && info.Size() != size || info.Size() == 0 {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return false
	}
	x.note(name, h.Sum(nil), n)
	x.done.Reused++
	return true
}

func (x *exporter) put(name string, content []byte) error {
	return x.copy(name, bytes.NewReader(content))
}

// copy writes a file and remembers its sum.
func (x *exporter) copy(name string, src io.Reader) error {
	path := filepath.Join(x.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), src)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".part", path); err != nil {
		return err
	}
	x.note(name, h.Sum(nil), n)
	return nil
}

func (x *exporter) note(name string, sum []byte, size int64) {
	x.sums[name] = fmt.Sprintf("%x", sum)
	x.done.Files++
	x.done.Bytes += size
}

// end removes what an earlier attempt left and writes the sums, as sha256sum(1)
// checks them.
func (x *exporter) end() error {
	err := filepath.WalkDir(x.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(x.dir, path)
		if err != nil {
			return err
		}
		top, _, below := strings.Cut(filepath.ToSlash(rel), "/")
		if _, ours := x.sums[filepath.ToSlash(rel)]; !ours && below && (top == "log" || top == "segments") {
			return os.Remove(path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var lines []string
	for name, sum := range x.sums {
		lines = append(lines, sum+"  "+name+"\n")
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[2*sha256.Size:], b[2*sha256.Size:]) })
	if err := durable.WriteFile(filepath.Join(x.dir, fileSums), []byte(strings.Join(lines, "")), 0o644); err != nil {
		return err
	}
	return durable.Remove(filepath.Join(x.dir, fileUnfinished))
}

func (x *exporter) readme() []byte {
	return fmt.Appendf(nil, `An export of the record of the site %[1]s.

log        the transparency log %[2]s, of %[3]d entries
segments   every envelope as it was received
%[4]s  the site document, number %[5]d
%[6]s   the policy file that it names
%[7]s sums of all these, for sha256sum -c: they find accidents

Nothing here is secret, and nothing here has to be believed. With the root
certificate, which must come to you another way:

    levee audit verify --export . --root root.pem
`, x.Document.Site, x.head.Origin, x.head.Tree.N, site.FileDocument, x.Document.Number, site.FilePolicy, fileSums)
}
