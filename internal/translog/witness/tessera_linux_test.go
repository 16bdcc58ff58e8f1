package witness

import (
	"net/url"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"

	"levee/internal/translog/proof"
)

// Tessera's own client of C2SP tlog-witness, which shares no code with ours, has
// its checkpoints cosigned here, and its own verification takes the cosignatures.
func TestTesseraAsClient(t *testing.T) {
	key := newKey(t, perth)
	log := newBook(t, melb)
	p := newPost(t, t.TempDir(), key, log)
	where, err := url.Parse(p.url())
	if err != nil {
		t.Fatal(err)
	}
	w, err := tessera.NewWitness(key.VKey(), where)
	if err != nil {
		t.Fatal(err)
	}
	driver, err := posix.New(t.Context(), posix.Config{Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	group := tessera.NewWitnessGroup(1, w)
	appender, shutdown, reader, err := tessera.NewAppender(t.Context(), driver, tessera.NewAppendOptions().
		WithCheckpointSigner(log.signer).WithCheckpointInterval(100*time.Millisecond).WithBatching(16, 10*time.Millisecond).
		WithWitnesses(group, &tessera.WitnessOptions{FailOpen: false}))
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		var last tessera.IndexFuture
		for range 200 {
			last = appender.Add(t.Context(), tessera.NewEntry([]byte{byte(round)}))
		}
		at, err := last()
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("entry %d is not in a cosigned checkpoint: %q", at.Index, p.lines.all)
			}
			raw, err := reader.ReadCheckpoint(t.Context())
			if err != nil {
				continue
			}
			cp, err := proof.OpenCheckpoint(raw, log.verifier())
			if err != nil {
				t.Fatal(err)
			}
			by, err := proof.Cosignatures(cp, []*proof.Witness{public1(t, key)})
			if err != nil || cp.Tree.N > 0 && len(by) != 1 || cp.Tree.N > 0 && !group.Satisfied(raw) {
				t.Fatalf("%d entries by %v, %v", cp.Tree.N, by, err)
			}
			if cp.Tree.N > int64(at.Index) {
				break
			}
		}
	}
	if err := shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := p.Count(Cosigned); n < 3 || p.Alarmed(Forked)+p.Alarmed(RolledBack) != 0 {
		t.Errorf("%d cosigned, %q", n, p.lines.all)
	}
}
