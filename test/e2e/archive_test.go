package e2e

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"levee/envelope"
	"levee/internal/audit"
	"levee/internal/site"
	"levee/internal/translog/leaf"
	"levee/internal/translog/proof"
	"levee/pki"
	"levee/services/recorder/segment"
)

// auditReport runs `levee audit verify`, whatever it finds.
func (b *bank) auditReport(t *testing.T) (code int, r audit.Report) {
	t.Helper()
	code, out := b.auditVerify(t, "--json")
	if err := json.NewDecoder(bytes.NewReader([]byte(out))).Decode(&r); err != nil {
		t.Fatalf("levee audit verify ends with %d and prints %q", code, out)
	}
	return code, r
}

// archive is what a witness has read in the recorder's files from time to time.
type archive struct {
	log, segments, watermark string
	origin, key              string // the log's
	files                    map[string]*prefix
	trees                    map[tlog.Tree]string // and where each was read
	newest                   map[string]int64     // ts of the newest envelope, by sender
}

// prefix is a segment file as far as it had whole records when it was last read.
type prefix struct {
	file    *os.File
	reader  *segment.Reader
	sum     hash.Hash // over the first size bytes
	size    int64
	records int
}

func newArchive(t *testing.T, b *bank) *archive {
	t.Helper()
	id := b.ids[pki.RoleRecorder]
	a := &archive{log: filepath.Join(b.layout.State(id), "log"), segments: filepath.Join(b.layout.State(id), "segments"), watermark: b.layout.Watermark(id),
		files: make(map[string]*prefix), trees: make(map[tlog.Tree]string), newest: make(map[string]int64)}
	document, err := os.ReadFile(filepath.Join(b.layout.Bundle(id), site.FileDocument))
	if err != nil {
		t.Fatal(err)
	}
	var statement struct {
		Payload struct {
			Key string `json:"log_key"`
		} `json:"payload"`
	}
	if err := json.Unmarshal(document, &statement); err != nil {
		t.Fatal(err)
	}
	a.key = statement.Payload.Key
	a.origin, _, _ = strings.Cut(a.key, "+")
	t.Cleanup(func() {
		for _, f := range a.files {
			f.file.Close()
		}
	})
	return a
}

// read notes everything that the recorder has kept by now.
func (a *archive) read(t *testing.T) {
	t.Helper()
	files, err := segment.List(a.segments)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, f := range files {
		if a.files[f.Path] == nil {
			file, err := os.Open(f.Path)
			if err != nil {
				t.Fatal(err)
			}
			a.files[f.Path] = &prefix{file: file, reader: segment.NewReader(file, f.Path), sum: sha256.New()}
		}
		a.follow(t, a.files[f.Path])
	}
	v, err := proof.NewVerifier(a.origin, a.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(a.log, proof.CheckpointFile), a.watermark} {
		if raw, err := os.ReadFile(path); err == nil {
			head, err := proof.OpenCheckpoint(raw, v)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			a.trees[head.Tree] = path
		}
	}
	state := filepath.Join(a.log, proof.TreeStateFile)
	if raw, err := os.ReadFile(state); err == nil {
		tree, err := proof.ParseTreeState(raw)
		if err != nil {
			t.Fatalf("%s: %v", state, err)
		}
		a.trees[tree] = state
	}
}

// follow reads the whole records that a segment has by now.
func (a *archive) follow(t *testing.T, p *prefix) {
	t.Helper()
	for {
		record, err := p.reader.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, segment.ErrIncomplete) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := envelope.Parse(record.Envelope, envelope.MaxBackfill)
		if err != nil {
			t.Fatal(err)
		}
		p.records++
		sender := string(m.Sender())
		a.newest[sender] = max(a.newest[sender], m.Time)
	}
	if _, err := io.Copy(p.sum, io.NewSectionReader(p.file, p.size, p.reader.Offset()-p.size)); err != nil {
		t.Fatal(err)
	}
	p.size = p.reader.Offset()
}

// size returns how much was kept when it was last read.
func (a *archive) size() (envelopes int, entries int64) {
	for _, f := range a.files {
		envelopes += f.records
	}
	for tree := range a.trees {
		entries = max(entries, tree.N)
	}
	return envelopes, entries
}

// check checks that all that was ever read is there, byte for byte and in the
// same order: every segment begins as it did, and the log goes on from every
// tree that it ever had.
func (a *archive) check(t *testing.T) {
	t.Helper()
	for path, p := range a.files {
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && p.records == 0 {
			continue // it had no whole header
		}
		if err != nil {
			t.Errorf("%d envelopes are gone: %v", p.records, err)
			continue
		}
		if sum := sha256.Sum256(content[:min(p.size, int64(len(content)))]); !bytes.Equal(sum[:], p.sum.Sum(nil)) {
			t.Errorf("%s has changed in its first %d bytes, which were %d envelopes", path, p.size, p.records)
		}
	}
	raw, err := os.ReadFile(filepath.Join(a.log, proof.CheckpointFile))
	if err != nil {
		t.Fatal(err)
	}
	v, err := proof.NewVerifier(a.origin, a.key)
	if err != nil {
		t.Fatal(err)
	}
	head, err := proof.OpenCheckpoint(raw, v)
	if err != nil {
		t.Fatal(err)
	}
	for tree, path := range a.trees {
		if err := proof.Consistent(os.DirFS(a.log), tree, head.Tree); err != nil {
			t.Errorf("the log of %d entries does not continue that of %d, read in %s: %v", head.Tree.N, tree.N, path, err)
		}
	}
	envelopes, entries := a.size()
	t.Logf("%d envelopes in %d segments and %d trees of up to %d entries are still there", envelopes, len(a.files), len(a.trees), entries)
	if envelopes < 1000 || len(a.trees) < 20 {
		t.Errorf("%d envelopes and %d trees are no load", envelopes, len(a.trees))
	}
}

// statuses returns all that the controller said: what was heard, and what the
// log holds, each once and in the order in which it was said.
func (a *archive) statuses(t *testing.T, all []heard) []heard {
	t.Helper()
	config := proof.Config{FS: os.DirFS(a.log), Origin: a.origin, VKey: a.key}
	if _, err := proof.Verify(t.Context(), config, func(_ int64, entry []byte) error {
		l, err := leaf.Parse(entry)
		if err != nil {
			return err
		}
		if m, ok := hear(l.Data); ok && m.status != nil {
			all = append(all, m)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(x, y heard) int {
		return cmp.Or(cmp.Compare(x.nonce.Boot, y.nonce.Boot), cmp.Compare(x.nonce.Seq, y.nonce.Seq))
	})
	return slices.CompactFunc(all, func(x, y heard) bool { return x.nonce == y.nonce })
}
