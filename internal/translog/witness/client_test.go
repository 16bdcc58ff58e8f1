package witness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/translog/proof"
)

// url serves a witness over HTTP.
func (p *post) url() string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if origin, ok := strings.CutPrefix(r.URL.Path, PathHeld); ok && r.Method == http.MethodGet {
			p.HandleHeld(w, origin)
		} else if r.URL.Path == PathAdd && r.Method == http.MethodPost {
			p.HandleAdd(w, r, anybody)
		} else {
			http.NotFound(w, r)
		}
	}))
	p.t.Cleanup(server.Close)
	return server.URL
}

func (p *post) peer() Peer {
	return Peer{Key: public1(p.t, p.config.Key), Ask: Over(http.DefaultClient, p.url())}
}

// office is a client and what it has logged.
type office struct {
	*Client
	lines *lines
	path  string
}

func newOffice(t testing.TB, log *book, path string, need int, peers ...Peer) *office {
	t.Helper()
	o := &office{lines: new(lines), path: path}
	var err error
	o.Client, err = NewClient(ClientConfig{Tiles: log.files, Verifier: log.verifier(), Peers: peers, Need: need, Path: path,
		Interval: 10 * time.Second, Log: slog.New(o.lines)}, noon)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *office) ask(t testing.TB, log *book) error {
	t.Helper()
	o.config.Tiles = log.files
	return o.Ask(t.Context(), log.checkpoint())
}

// published wants a checkpoint of that size with cosignatures by n of keys.
func (o *office) published(t testing.TB, log *book, size int64, n int, keys ...Key) {
	t.Helper()
	raw, err := os.ReadFile(o.path)
	if err != nil {
		t.Fatal(err)
	}
	q := proof.Quorum{Need: n}
	for _, k := range keys {
		q.Witnesses = append(q.Witnesses, k.VKey())
	}
	cp, by, err := proof.Witnessed(log.files, raw, log.verifier(), q, log.tree())
	if err != nil || cp.Tree.N != size || len(by) < n {
		t.Fatalf("%d entries by %v, %v", cp.Tree.N, by, err)
	}
}

// Two witnesses, of which two are needed: what one alone has cosigned is not
// published.
func TestQuorum(t *testing.T) {
	log := newBook(t, melb).grow("a", 300)
	k1, k2 := newKey(t, perth), newKey(t, "syd.bank.example/witness/rec-1")
	p1, p2 := newPost(t, t.TempDir(), k1, log), newPost(t, t.TempDir(), k2, log)
	dead := false
	second := p2.peer()
	ask := second.Ask
	second.Ask = func(ctx context.Context, path string, body []byte) (Answer, error) {
		if dead {
			return Answer{}, errors.New("no route")
		}
		return ask(ctx, path, body)
	}
	o := newOffice(t, log, filepath.Join(t.TempDir(), "cosigned"), 2, p1.peer(), second)
	if err := o.ask(t, log); err != nil {
		t.Fatal(err)
	}
	o.published(t, log, 300, 2, k1, k2)
	dead = true
	if err := o.ask(t, log.grow("a", 300)); err != nil {
		t.Fatal(err)
	}
	o.ask(t, log)
	o.published(t, log, 300, 2, k1, k2)
	if o.lines.count("WARN a witness does not cosign", "syd", "no route") != 1 {
		t.Errorf("%q", o.lines.all)
	}
	dead = false
	if err := o.ask(t, log.grow("a", 300)); err != nil {
		t.Fatal(err)
	}
	o.published(t, log, 900, 2, k1, k2)
	if f := o.Figures(); f[0].Size != 900 || f[1].Size != 900 || o.lines.count("cosigns again") != 1 || o.lines.count("ERROR") != 0 {
		t.Errorf("%+v, %q", f, o.lines.all)
	}
	// The next process knows where they are.
	o = newOffice(t, log, o.path, 2, p1.peer(), second)
	before := p1.Count(Behind)
	if err := o.ask(t, log.grow("a", 1)); err != nil || p1.Count(Behind) != before {
		t.Errorf("%v, asked again %d times", err, p1.Count(Behind)-before)
	}
	o.published(t, log, 901, 2, k1, k2)
}

// A backup was restored: at once, or after it was continued.
func TestContradiction(t *testing.T) {
	key := newKey(t, perth)
	for name, more := range map[string]int64{"as it was": 0, "continued, still smaller": 50, "continued to the same size": 100, "continued beyond": 150} {
		t.Run(name, func(t *testing.T) {
			log := newBook(t, melb).grow("a", 300)
			p := newPost(t, t.TempDir(), key, log)
			o := newOffice(t, log, filepath.Join(t.TempDir(), "cosigned"), 1, p.peer())
			if err := o.ask(t, log); err != nil {
				t.Fatal(err)
			}
			backup := log.copied()
			kept, err := os.ReadFile(o.path)
			if err != nil {
				t.Fatal(err)
			}
			if err := o.ask(t, log.grow("a", 100)); err != nil {
				t.Fatal(err)
			}
			// Its own file is enough where it was not put back as well.
			contradiction := (*Contradiction)(nil)
			if err := newOffice(t, backup, o.path, 1, p.peer()).ask(t, backup.copied().grow("b", more)); !errors.As(err, &contradiction) || contradiction.Source != o.path {
				t.Errorf("with its own file: %v", err)
			}
			if p.Alarmed(RolledBack)+p.Alarmed(Forked) != 0 {
				t.Error("the witness was asked all the same")
			}
			if err := os.WriteFile(o.path, kept, 0o600); err != nil {
				t.Fatal(err)
			}
			backup.grow("b", more)
			if err := newOffice(t, backup, o.path, 1, p.peer()).ask(t, backup); !errors.As(err, &contradiction) {
				t.Fatalf("got %v", err)
			}
			if contradiction.Source != "witness "+perth || contradiction.Held.Tree != log.tree() || contradiction.Ours.Tree != backup.tree() {
				t.Errorf("%v", contradiction)
			}
			if want := map[bool]string{true: "rolled back", false: "fork"}[more < 100]; !strings.Contains(contradiction.Error(), want) {
				t.Errorf("%v", contradiction)
			}
			if p.Alarmed(RolledBack)+p.Alarmed(Forked) == 0 || p.lines.count("ERROR a log contradicts", melb) == 0 {
				t.Errorf("the witness does not name it: %q", p.lines.all)
			}
			if now, err := os.ReadFile(o.path); err != nil || string(now) != string(kept) {
				t.Errorf("it was published: %v", err)
			}
		})
	}
}

// A witness that says so, and cannot show it, stops no log. Nor does one that
// answers anything else.
func TestLyingWitness(t *testing.T) {
	key := newKey(t, perth)
	log := newBook(t, melb).grow("a", 300)
	stranger := newBook(t, melb).grow("a", 400)
	older := log.copied()
	log.grow("a", 10)
	foreign := newKey(t, perth).sign(proof.CheckpointText(melb, log.tree()), noon)
	other := key.sign(proof.CheckpointText(melb, older.tree()), noon)
	size := func(text string) Answer { return Answer{http.StatusConflict, typeSize, []byte(text)} }
	for name, tc := range map[string]struct{ add, held Answer }{
		"a larger size":                 {size("400\n"), Answer{404, "", []byte("none")}},
		"a larger size, another's":      {size("400\n"), Answer{200, "", stranger.note()}},
		"a larger size, an older one":   {size("400\n"), Answer{200, "", older.note()}},
		"a larger size, garbage":        {size("400\n"), Answer{200, "", []byte("garbage")}},
		"a conflict":                    {Answer{409, "text/plain", nil}, Answer{200, "", older.note()}},
		"a wrong proof":                 {Answer{422, "text/plain", nil}, Answer{200, "", older.note()}},
		"a size that is none":           {size("0x10\n"), Answer{404, "", nil}},
		"the size that it was told":     {size("0\n"), Answer{404, "", nil}},
		"not known":                     {Answer{404, "", nil}, Answer{}},
		"not signed":                    {Answer{403, "", nil}, Answer{}},
		"out of order":                  {Answer{500, "", []byte("\x1b[31m")}, Answer{}},
		"nothing":                       {Answer{200, "", nil}, Answer{}},
		"another's cosignature":         {Answer{200, "", foreign}, Answer{}},
		"a cosignature of another tree": {Answer{200, "", other}, Answer{}},
		"the log's own signature":       {Answer{200, "", log.note()}, Answer{}},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			o := newOffice(t, log, filepath.Join(t.TempDir(), "cosigned"), 1, Peer{Key: public1(t, key), Ask: func(_ context.Context, path string, body []byte) (Answer, error) {
				if asked++; asked > 10 {
					t.Fatal("it asks without end")
				}
				if path == PathAdd && body != nil {
					return tc.add, nil
				}
				return tc.held, nil
			}})
			if err := o.ask(t, log); err != nil {
				t.Errorf("it stops the log: %v", err)
			}
			if o.lines.count("WARN a witness does not cosign", perth) != 1 || o.lines.count("\x1b") != 0 {
				t.Errorf("%q", o.lines.all)
			}
			if _, err := os.Stat(o.path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it was published: %v", err)
			}
		})
	}
}

// A witness that names another size each time is not followed.
func TestErraticWitness(t *testing.T) {
	log := newBook(t, melb).grow("a", 300)
	asked := 0
	o := newOffice(t, log, filepath.Join(t.TempDir(), "cosigned"), 1, Peer{Key: public1(t, newKey(t, perth)), Ask: func(context.Context, string, []byte) (Answer, error) {
		asked++
		return Answer{http.StatusConflict, typeSize, fmt.Appendf(nil, "%d\n", asked%200)}, nil
	}})
	if err := o.ask(t, log); err != nil || asked > 5 || o.lines.count("another size each time") != 1 {
		t.Errorf("asked %d times, %v, %q", asked, err, o.lines.all)
	}
}

// A cosignature that is spelt otherwise is kept in its one spelling, and others'
// lines are not kept.
func TestAnswerIsSpeltAgain(t *testing.T) {
	key := newKey(t, perth)
	log := newBook(t, melb).grow("a", 3)
	cp := log.checkpoint()
	line := key.sign(proof.CheckpointText(melb, log.tree()), noon)
	foreign := newKey(t, "syd.bank.example/witness/rec-1").sign(proof.CheckpointText(melb, log.tree()), noon)
	got, err := cosignature(cp, public1(t, key), append(foreign, append(line, line...)...))
	if err != nil || got != string(line) {
		t.Errorf("%q, %v", got, err)
	}
	stray := slices.Clone(line)
	stray[len(stray)-4]++ // the last before "==" has four bits to spare
	if got, err := cosignature(cp, public1(t, key), stray); err != nil || got != string(line) {
		t.Errorf("%q, %v", got, err)
	}
}

// A witness whose state was put back is told of.
func TestForgetfulWitness(t *testing.T) {
	dir, key := t.TempDir(), newKey(t, perth)
	log := newBook(t, melb).grow("a", 300)
	p := newPost(t, dir, key, log)
	o := newOffice(t, log, filepath.Join(t.TempDir(), "cosigned"), 1, p.peer())
	o.ask(t, log)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	p = newPost(t, dir, key, log)
	o.peers[0].Ask = p.peer().Ask
	if err := o.ask(t, log.grow("a", 5)); err != nil {
		t.Fatal(err)
	}
	o.published(t, log, 305, 1, key)
	if o.lines.count("ERROR a witness has forgotten", "cosigned=300", "says=0") != 1 {
		t.Errorf("%q", o.lines.all)
	}
}

// Too few witnesses for long is an alarm; the log goes on.
func TestTooFewWitnesses(t *testing.T) {
	dir, key := t.TempDir(), newKey(t, perth)
	synctest.Test(t, func(t *testing.T) {
		log := newBook(t, melb).grow("a", 3)
		p := newPost(t, dir, key, log)
		var dead atomic.Bool
		dead.Store(true)
		o := &office{lines: new(lines)}
		var err error
		o.Client, err = NewClient(ClientConfig{Tiles: log.files, Verifier: log.verifier(), Need: 1, Path: filepath.Join(dir, "cosigned"), Interval: 10 * time.Second,
			Log: slog.New(o.lines), Peers: []Peer{{Key: public1(t, key), Ask: func(ctx context.Context, _ string, body []byte) (Answer, error) {
				if dead.Load() {
					<-ctx.Done()
					return Answer{}, ctx.Err()
				}
				a := p.add(ctx, body, anybody, time.Now())
				return Answer{a.outcome.status(), map[bool]string{true: typeSize}[a.size], []byte(a.body)}, nil
			}}}}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- o.Run(ctx, log) }()
		time.Sleep(4 * time.Minute)
		if n := o.lines.count("ERROR"); n != 0 {
			t.Errorf("%q", o.lines.all)
		}
		time.Sleep(2 * time.Minute)
		if n := o.lines.count("ERROR too few witnesses", "need=1", "of=1"); n != 1 || o.Age(time.Now()) < 5*time.Minute {
			t.Errorf("%q", o.lines.all)
		}
		dead.Store(false)
		time.Sleep(20 * time.Second)
		if n := o.lines.count("INFO enough witnesses"); n != 1 || o.Age(time.Now()) > 20*time.Second {
			t.Errorf("%q", o.lines.all)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestClientRefuses(t *testing.T) {
	log := newBook(t, melb).grow("a", 3)
	peer := Peer{Key: public1(t, newKey(t, perth)), Ask: Over(http.DefaultClient, "")}
	path := filepath.Join(t.TempDir(), "cosigned")
	good := ClientConfig{Tiles: log.files, Verifier: log.verifier(), Peers: []Peer{peer}, Need: 1, Path: path, Interval: time.Second, Log: quiet()}
	for name, change := range map[string]func(*ClientConfig){
		"no log":             func(c *ClientConfig) { c.Tiles = nil },
		"no witness":         func(c *ClientConfig) { c.Peers = nil },
		"none needed":        func(c *ClientConfig) { c.Need = 0 },
		"a witness unkeyed":  func(c *ClientConfig) { c.Peers = []Peer{{Ask: peer.Ask}} },
		"a witness nowhere":  func(c *ClientConfig) { c.Peers = []Peer{{Key: peer.Key}} },
		"no interval":        func(c *ClientConfig) { c.Interval = 0 },
		"a damaged file":     func(*ClientConfig) { os.WriteFile(path, []byte("x"), 0o600) },
		"another log's file": func(*ClientConfig) { os.WriteFile(path, newBook(t, melb).grow("a", 3).note(), 0o600) },
	} {
		c := good
		change(&c)
		if _, err := NewClient(c, noon); err == nil {
			t.Errorf("%s: accepted", name)
		}
		os.Remove(path)
	}
}

// An answer without end is not read to its end.
func TestEndlessAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<10)); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	if a, err := Over(server.Client(), server.URL)(t.Context(), PathAdd, []byte("x")); err == nil || !strings.Contains(err.Error(), "over") {
		t.Errorf("%d bytes, %v", len(a.Body), err)
	}
}
