package witness

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"levee/internal/translog/proof"
)

// Every answer of C2SP tlog-witness, at its status and with its body.
func TestAddRefusals(t *testing.T) {
	key := newKey(t, perth)
	log, stranger := newBook(t, melb).grow("a", 300), newBook(t, "syd.bank.example/recorder/rec-1").grow("a", 3)
	forger := newBook(t, melb).grow("a", 400)
	older := log.copied()
	held := log.copied().grow("a", 100) // 400
	forked := log.copied().grow("b", 100)
	longer := held.copied().grow("a", 100) // 500
	forkedOn := forked.copied().grow("b", 100)
	bent := longer.from(400)
	bent.proof[1][7] ^= 1
	cut := longer.from(400)
	cut.proof = cut.proof[1:]
	padded := longer.from(400)
	padded.proof = append(padded.proof, tlog.Hash{})
	again := held.from(400)
	again.proof = tlog.TreeProof{{}}
	torn := held.from(400)
	torn.checkpoint = bytes.Replace(torn.checkpoint, []byte("400"), []byte("0400"), 1)
	extended := held.from(400)
	signed, err := note.Sign(&note.Note{Text: proof.CheckpointText(melb, held.tree()) + "more\n"}, log.signer)
	if err != nil {
		t.Fatal(err)
	}
	extended.checkpoint = signed
	flipped := held.from(400)
	flipped.checkpoint = bytes.Replace(flipped.checkpoint, []byte("\n400\n"), []byte("\n401\n"), 1)

	for _, tc := range []struct {
		name    string
		body    []byte
		may     func(string) bool
		status  int
		outcome Outcome
		text    string
		size    bool
		alarm   Alarm
	}{
		{"no request", []byte("hello"), anybody, 400, Malformed, "", false, ""},
		{"a body that is too long", bytes.Repeat([]byte("x"), maxRequest+1), anybody, 413, Malformed, "16 KiB", false, ""},
		{"a checkpoint in another spelling", torn.marshal(), anybody, 403, Unsigned, "", false, ""},
		{"a checkpoint that says more", extended.marshal(), anybody, 400, Malformed, "", false, ""},
		{"an old size above the checkpoint's", request{old: 401, checkpoint: held.note()}.marshal(), anybody, 400, Malformed, "larger", false, ""},
		{"a log that is not witnessed", stranger.from(0).marshal(), anybody, 404, Unknown, "", false, ""},
		{"another's log", held.from(400).marshal(), func(o string) bool { return o != melb }, 403, Foreign, "", false, ""},
		{"another key of the same name", forger.from(400).marshal(), anybody, 403, Unsigned, "", false, ""},
		{"a changed checkpoint", flipped.marshal(), anybody, 403, Unsigned, "", false, ""},
		{"an older checkpoint", older.from(300).marshal(), anybody, 409, Rollback, "400\n", true, RolledBack},
		{"an older checkpoint, from nothing", older.from(0).marshal(), anybody, 409, Rollback, "400\n", true, RolledBack},
		{"another tree of that size", forked.from(400).marshal(), anybody, 409, Fork, "another tree", false, Forked},
		{"another tree of that size, from nothing", forked.from(0).marshal(), anybody, 409, Fork, "400\n", true, Forked},
		{"from an old size that was not cosigned", longer.from(300).marshal(), anybody, 409, Behind, "400\n", true, ""},
		{"from nothing", longer.from(0).marshal(), anybody, 409, Behind, "400\n", true, ""},
		{"a fork that goes on", forkedOn.from(400).marshal(), anybody, 422, Unproven, "proof", false, Forked},
		{"a wrong proof", bent.marshal(), anybody, 422, Unproven, "proof", false, Forked},
		{"a proof that is too short", cut.marshal(), anybody, 422, Unproven, "proof", false, Forked},
		{"a proof that is too long", padded.marshal(), anybody, 422, Unproven, "proof", false, Forked},
		{"a proof where none belongs", again.marshal(), anybody, 422, Unproven, "proof", false, Forked},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			p := newPost(t, dir, key, log)
			p.want(held.from(0), Cosigned)
			before := p.Held(melb)
			response := httptest.NewRecorder()
			p.HandleAdd(response, httptest.NewRequest(http.MethodPost, PathAdd, bytes.NewReader(tc.body)), tc.may)
			if response.Code != tc.status || p.Count(tc.outcome) != 1 || !strings.Contains(response.Body.String(), tc.text) {
				t.Errorf("%d, %d times %s: %s", response.Code, p.Count(tc.outcome), tc.outcome, response.Body)
			}
			if kind := response.Header().Get("Content-Type"); (kind == typeSize) != tc.size || tc.size && response.Body.String() != tc.text {
				t.Errorf("content type %q: %q", kind, response.Body)
			}
			if strings.Contains(response.Body.String(), "\u2014") {
				t.Error("there is a cosignature in it")
			}
			for _, a := range Alarms() {
				if (p.Alarmed(a) == 1) != (a == tc.alarm) || p.Alarmed(a) > 1 {
					t.Errorf("%d times the alarm %s", p.Alarmed(a), a)
				}
			}
			evidence, err := filepath.Glob(filepath.Join(dir, "evidence", "*"))
			if err != nil || (len(evidence) == 2) != (tc.alarm != "") {
				t.Errorf("evidence %v, %v", evidence, err)
			}
			if n := p.lines.count("ERROR a log contradicts", "reason="+string(tc.alarm), "log="+melb); (n == 1) != (tc.alarm != "") {
				t.Errorf("%d lines: %q", n, p.lines.all)
			}
			// What was refused changed nothing, and the log goes on.
			for _, at := range []*post{p, newPost(t, dir, key, log)} {
				if !bytes.Equal(at.Held(melb), before) {
					t.Errorf("held is now\n%s", at.Held(melb))
				}
			}
			p.want(longer.from(400), Cosigned)
		})
	}
}

// The evidence holds both checkpoints, each with the log's own signature.
func TestEvidence(t *testing.T) {
	dir := t.TempDir()
	log := newBook(t, melb).grow("a", 10)
	forked := log.copied().grow("b", 10)
	p := newPost(t, dir, newKey(t, perth), log)
	log.grow("a", 10)
	p.want(log.from(0), Cosigned)
	p.want(forked.from(20), Fork)
	p.want(forked.from(20), Fork) // within the minute: counted, not told again
	if p.Alarmed(Forked) != 2 || p.lines.count("contradicts") != 1 {
		t.Errorf("%d alarms, %q", p.Alarmed(Forked), p.lines.all)
	}
	base := filepath.Join(dir, "evidence", "melb.bank.example_recorder_rec-1.fork.")
	held, err := filepath.Glob(base + "*.held")
	if err != nil || len(held) != 1 {
		t.Fatalf("%v, %v", held, err)
	}
	a, err := os.ReadFile(held[0])
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(strings.TrimSuffix(held[0], "held") + "request")
	if err != nil {
		t.Fatal(err)
	}
	r, err := parseRequest(b)
	if err != nil {
		t.Fatal(err)
	}
	first, err1 := proof.OpenCheckpoint(a, log.verifier())
	second, err2 := proof.OpenCheckpoint(r.checkpoint, log.verifier())
	if err1 != nil || err2 != nil || first.Tree.N != second.Tree.N || first.Tree.Hash == second.Tree.Hash {
		t.Errorf("%v, %v: %v and %v", err1, err2, first.Tree, second.Tree)
	}
}

// A log that is captured fills no disk with evidence.
func TestEvidenceIsBounded(t *testing.T) {
	dir := t.TempDir()
	log := newBook(t, melb).grow("a", 300)
	p := newPost(t, dir, newKey(t, perth), log)
	p.want(log.from(0), Cosigned)
	at := noon
	for n := range int64(maxEvidence) {
		at = at.Add(tellEvery)
		p.add(t.Context(), newFork(log, n).from(0).marshal(), anybody, at)
	}
	files, err := os.ReadDir(filepath.Join(dir, "evidence"))
	if err != nil || len(files) != maxEvidence || p.lines.count("put them away") != maxEvidence/2 {
		t.Errorf("%d files, %v, %d lines", len(files), err, p.lines.count("put them away"))
	}
}

// newFork returns another log of the same key, n entries long.
func newFork(b *book, n int64) *book {
	c := *b
	c.files, c.stored, c.size = fstest.MapFS{}, nil, 0
	return c.grow("fork", n)
}

// The first checkpoint needs no proof and takes none, and an empty tree has one root.
func TestFirstCheckpoint(t *testing.T) {
	key := newKey(t, perth)
	log := newBook(t, melb)
	p := newPost(t, t.TempDir(), key, log)
	p.want(log.from(0), Cosigned)
	p.want(log.from(0), Cosigned)
	log.grow("a", 3)
	bent := log.from(0)
	bent.proof = tlog.TreeProof{{}}
	p.want(bent, Unproven)
	p.want(log.from(0), Cosigned)

	p = newPost(t, t.TempDir(), key, log)
	wrong, err := note.Sign(&note.Note{Text: proof.CheckpointText(melb, tlog.Tree{})}, log.signer)
	if err != nil {
		t.Fatal(err)
	}
	p.want(request{checkpoint: wrong}, Unproven)
}

// A cosignature is that of the witness, for that checkpoint, of that time; it is
// given again for the same tree, and by the next process.
func TestCosigned(t *testing.T) {
	dir, key := t.TempDir(), newKey(t, perth)
	log := newBook(t, melb).grow("a", 5)
	p := newPost(t, dir, key, log)
	for round := range 4 {
		if round == 2 {
			p = newPost(t, dir, key, log)
		}
		size := log.size
		a := p.want(log.from(map[bool]int64{true: 0, false: size}[round == 0]), Cosigned)
		cp, err := proof.OpenCheckpoint(append(log.note(), a.body...), log.verifier())
		if err != nil {
			t.Fatal(err)
		}
		by, err := proof.Cosignatures(cp, []*proof.Witness{public1(t, key)})
		if err != nil || len(by) != 1 || by[0].Witness != perth || !by[0].Time.Equal(noon) {
			t.Fatalf("%v, %v", by, err)
		}
	}
}

// Whatever is asked at the same time, what is cosigned is one history.
func TestAddAtOnce(t *testing.T) {
	log := newBook(t, melb)
	var honest, forked []*book
	for range 8 {
		honest = append(honest, log.grow("a", 20).copied())
	}
	other := honest[1].copied()
	for range 8 {
		forked = append(forked, other.grow("b", 20).copied())
	}
	dir := t.TempDir()
	p := newPost(t, dir, newKey(t, perth), log)
	var mu sync.Mutex
	cosigned := make(map[int64]tlog.Tree)
	var asking sync.WaitGroup
	for _, b := range append(honest, forked...) {
		for range 4 {
			asking.Go(func() {
				for old := int64(0); old < b.size; {
					a := p.add(context.Background(), b.from(old).marshal(), anybody, noon)
					if a.outcome != Behind {
						if a.outcome == Cosigned {
							mu.Lock()
							if was, ok := cosigned[b.size]; ok && was != b.tree() {
								t.Errorf("two trees of %d entries were cosigned", b.size)
							}
							cosigned[b.size] = b.tree()
							mu.Unlock()
						}
						return
					}
					if _, err := fmt.Sscan(a.body, &old); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	asking.Wait()
	// All of them are of one of the two.
	for _, history := range [][]*book{honest, forked} {
		right := 0
		for _, b := range append(honest[:2:2], history...) {
			if cosigned[b.size] == b.tree() {
				right++
			}
		}
		if right >= len(cosigned) {
			return
		}
	}
	t.Errorf("cosigned were %v", cosigned)
}

// Who has gone may have sent a newer one since: that is no rollback.
func TestAbandoned(t *testing.T) {
	log := newBook(t, melb).grow("a", 5)
	older := log.from(0)
	p := newPost(t, t.TempDir(), newKey(t, perth), log)
	p.want(log.grow("a", 5).from(0), Cosigned)
	ctx, gone := context.WithCancel(t.Context())
	gone()
	if a := p.add(ctx, older.marshal(), anybody, noon); a.outcome != Abandoned || p.Alarmed(RolledBack) != 0 {
		t.Errorf("%s, %d alarms", a.outcome, p.Alarmed(RolledBack))
	}
}

// What cannot be kept is not cosigned.
func TestNotKeptNotCosigned(t *testing.T) {
	dir := t.TempDir()
	log := newBook(t, melb).grow("a", 5)
	p := newPost(t, dir, newKey(t, perth), log)
	p.want(log.from(0), Cosigned)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	log.grow("a", 5)
	if a := p.want(log.from(5), Failed); strings.Contains(a.body, "\u2014") || a.outcome.status() != http.StatusServiceUnavailable {
		t.Errorf("%d: %s", a.outcome.status(), a.body)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	p.want(log.from(5), Cosigned)
}

// A log that stops asking may have been rolled back.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newBook(t, melb).grow("a", 5)
		p := newPost(t, t.TempDir(), newKey(t, perth), log)
		w, err := Open(p.config, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		ask := func() {
			t.Helper()
			if a := w.add(ctx, log.from(int64(len(w.Held(melb))/len(log.note()))*log.size).marshal(), anybody, time.Now()); a.outcome != Cosigned {
				t.Fatal(a)
			}
		}
		ask()
		for range 10 { // the same again and again is no silence
			time.Sleep(4 * time.Minute)
			ask()
		}
		if n := w.Alarmed(Silence); n != 0 {
			t.Fatalf("%d alarms", n)
		}
		time.Sleep(6 * time.Minute)
		if w.Alarmed(Silence) != 1 || p.lines.count("ERROR a log is not heard of", melb) != 1 || w.Age(melb, time.Now()) < 5*time.Minute {
			t.Errorf("%d alarms, %q", w.Alarmed(Silence), p.lines.all)
		}
		// A refused checkpoint is no sign of it.
		w.add(ctx, newFork(log, 5).from(5).marshal(), anybody, time.Now())
		if p.lines.count("heard of again") != 0 {
			t.Error("a fork ended the silence")
		}
		ask()
		time.Sleep(time.Minute)
		if w.Alarmed(Silence) != 1 || p.lines.count("heard of again") != 1 {
			t.Errorf("%d alarms, %q", w.Alarmed(Silence), p.lines.all)
		}
		stop()
		<-done
	})
}

// A witness does not begin with a state that is damaged: it would begin at nothing.
func TestOpenRefuses(t *testing.T) {
	key := newKey(t, perth)
	log, other := newBook(t, melb).grow("a", 5), newBook(t, melb).grow("a", 5)
	for name, content := range map[string][]byte{"nothing": {}, "a part": log.note()[:40], "another key's": other.note(), "garbage": []byte("x\n")} {
		dir := t.TempDir()
		if err := os.WriteFile(newPost(t, dir, key, log).logs[melb].path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Key: key, Dir: dir, Silence: time.Minute, Log: quiet(), Logs: []string{log.vkey}}, noon); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	for name, logs := range map[string][]string{"twice": {log.vkey, log.vkey}, "no key": {"x"}, "a name that is a path": {newBook(t, "../x_y").vkey}, "a witness's key": {key.VKey()}} {
		if _, err := Open(Config{Key: key, Dir: t.TempDir(), Silence: time.Minute, Log: quiet(), Logs: logs}, noon); err == nil {
			t.Errorf("a log, %s: opened", name)
		}
	}
}

// A log that is begun anew under its old name has another key, and is another log.
func TestLogBegunAnew(t *testing.T) {
	dir, key := t.TempDir(), newKey(t, perth)
	log, again := newBook(t, melb).grow("a", 300), newBook(t, melb).grow("b", 3)
	newPost(t, dir, key, log).want(log.from(0), Cosigned)
	p := newPost(t, dir, key, again)
	p.want(log.from(300), Unsigned)
	p.want(again.from(0), Cosigned)
	newPost(t, dir, key, log).want(log.from(300), Cosigned)
}

// A slow or endless body does not reach the judgement.
func TestBodyThatDoesNotCome(t *testing.T) {
	log := newBook(t, melb).grow("a", 5)
	p := newPost(t, t.TempDir(), newKey(t, perth), log)
	r := httptest.NewRequest(http.MethodPost, PathAdd, io.MultiReader(bytes.NewReader(log.from(0).marshal()[:20]), broken{}))
	response := httptest.NewRecorder()
	p.HandleAdd(response, r, anybody)
	if response.Code != http.StatusBadRequest || p.Count(Malformed) != 1 {
		t.Errorf("%d: %s", response.Code, response.Body)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
