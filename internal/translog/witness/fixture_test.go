package witness

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"levee/internal/translog/proof"
)

const (
	melb  = "melb.bank.example/recorder/rec-1"
	perth = "perth.bank.example/witness/rec-1"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// book is a log in memory, laid down by package tlog's own functions.
type book struct {
	t      testing.TB
	origin string
	signer note.Signer
	vkey   string
	files  fstest.MapFS
	stored []tlog.Hash
	size   int64
}

func newBook(t testing.TB, origin string) *book {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	return &book{t: t, origin: origin, signer: signer, vkey: vkey, files: fstest.MapFS{}}
}

// copied is the backup of a log: it goes on by itself, with the same key.
func (b *book) copied() *book {
	c := *b
	c.files, c.stored = fstest.MapFS{}, slices.Clone(b.stored)
	for name, f := range b.files {
		c.files[name] = f
	}
	return &c
}

func (b *book) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		hashes[i] = b.stored[x]
	}
	return hashes, nil
}

// grow appends n entries.
func (b *book) grow(name string, n int64) *book {
	b.t.Helper()
	from := b.size
	for range n {
		hashes, err := tlog.StoredHashes(b.size, fmt.Appendf(nil, "%s %d", name, b.size), b)
		if err != nil {
			b.t.Fatal(err)
		}
		b.stored = append(b.stored, hashes...)
		b.size++
	}
	for _, tile := range tlog.NewTiles(8, from, b.size) {
		data, err := tlog.ReadTileData(tile, b)
		if err != nil {
			b.t.Fatal(err)
		}
		b.files[proof.TilePath(tile)] = &fstest.MapFile{Data: data}
	}
	return b
}

func (b *book) tree() tlog.Tree {
	b.t.Helper()
	hash, err := tlog.TreeHash(b.size, b)
	if err != nil {
		b.t.Fatal(err)
	}
	return tlog.Tree{N: b.size, Hash: hash}
}

// note returns the log's checkpoint as it is signed.
func (b *book) note(others ...note.Signer) []byte {
	b.t.Helper()
	signed, err := note.Sign(&note.Note{Text: proof.CheckpointText(b.origin, b.tree())}, append([]note.Signer{b.signer}, others...)...)
	if err != nil {
		b.t.Fatal(err)
	}
	return signed
}

func (b *book) verifier() note.Verifier {
	b.t.Helper()
	v, err := note.NewVerifier(b.vkey)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// Checkpoint makes a book the Log of a Client.
func (b *book) Checkpoint(context.Context) (proof.Checkpoint, error) {
	return proof.OpenCheckpoint(b.note(), b.verifier())
}

func (b *book) checkpoint() proof.Checkpoint {
	b.t.Helper()
	cp, err := b.Checkpoint(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	return cp
}

// from returns the request that has the log cosigned, by whoever has old entries.
func (b *book) from(old int64) request {
	b.t.Helper()
	r := request{old: old, checkpoint: b.note()}
	if old > 0 && old < b.size {
		var err error
		if r.proof, err = tlog.ProveTree(b.size, old, b); err != nil {
			b.t.Fatal(err)
		}
	}
	return r
}

// lines is a log handler that keeps what it is told.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (*lines) Enabled(context.Context, slog.Level) bool { return true }
func (l *lines) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l *lines) WithGroup(string) slog.Handler          { return l }
func (l *lines) Handle(_ context.Context, r slog.Record) error {
	text := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, text)
	return nil
}

// count returns how many lines hold all of parts.
func (l *lines) count(parts ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			n++
		}
	}
	return n
}

func newKey(t testing.TB, name string) Key {
	t.Helper()
	file, err := GenerateKey(name)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseKey(file)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func public1(t testing.TB, k Key) *proof.Witness {
	t.Helper()
	w, err := proof.NewWitness(k.VKey())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// post is an opened witness, and what it has logged.
type post struct {
	*Witness
	t     testing.TB
	lines *lines
}

func newPost(t testing.TB, dir string, key Key, logs ...*book) *post {
	t.Helper()
	p := &post{t: t, lines: new(lines)}
	c := Config{Key: key, Dir: dir, Silence: 5 * time.Minute, Log: slog.New(p.lines)}
	for _, b := range logs {
		c.Logs = append(c.Logs, b.vkey)
	}
	var err error
	if p.Witness, err = Open(c, noon); err != nil {
		t.Fatal(err)
	}
	return p
}

func anybody(string) bool { return true }

// asks has the witness judge a request.
func (p *post) asks(r request) answer {
	return p.add(p.t.Context(), r.marshal(), anybody, noon)
}

// want has the witness judge a request, and wants that outcome.
func (p *post) want(r request, o Outcome) answer {
	p.t.Helper()
	a := p.asks(r)
	if a.outcome != o {
		p.t.Fatalf("%s instead of %s: %s", a.outcome, o, a.body)
	}
	return a
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
