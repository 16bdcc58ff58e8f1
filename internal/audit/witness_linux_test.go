package audit

import (
	"crypto/ed25519"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"levee/internal/translog/proof"
	"levee/pki"
)

// cosigner is a witness.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PrivateKey
	vkey string
}

func newCosigner(t testing.TB, name string) *cosigner {
	t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	vkey, hash := proof.WitnessKey(name, public)
	return &cosigner{name, hash, key, vkey}
}

func (c *cosigner) Name() string    { return c.name }
func (c *cosigner) KeyHash() uint32 { return c.hash }

func (c *cosigner) Sign(text []byte) ([]byte, error) {
	const seconds = 1729697327
	sig := binary.BigEndian.AppendUint64(nil, seconds)
	return append(sig, ed25519.Sign(c.key, proof.CosignatureText(string(text), seconds))...), nil
}

// cosign writes the log's checkpoint, cosigned, to where the recorder of `to` has it.
func (b *bank) cosign(t testing.TB, to *bank, by ...note.Signer) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(b.log(), proof.CheckpointFile))
	if err != nil {
		t.Fatal(err)
	}
	c := b.open(t)
	v, err := proof.NewVerifier(c.originOf(), c.Document.LogKey)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(raw, note.VerifierList(v))
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = note.Sign(n, by...); err != nil {
		t.Fatal(err)
	}
	write(t, to.open(t).Files.Cosigned(), string(raw))
}

// Witnesses remember what a log has shown them: a log that is older, or another,
// is found out on its own machine and on the auditor's.
func TestWitnesses(t *testing.T) {
	t.Parallel()
	newBank(t)
	one, two, stranger := newCosigner(t, "syd.bank.example/witness/rec-1"), newCosigner(t, "perth.bank.example/witness/rec-1"), newCosigner(t, "syd.bank.example/witness/rec-1")
	for _, test := range []struct {
		name string
		// make returns the record that is audited.
		make      func(t *testing.T, b *bank, s *sender) *bank
		witnessed int64
		kind      string
		want      []string
	}{
		{"cosigned", func(t *testing.T, b *bank, s *sender) *bank { b.cosign(t, b, one, two); return b }, 3, "", nil},
		{"cosigned, and more since", func(t *testing.T, b *bank, s *sender) *bank {
			b.cosign(t, b, one, two)
			b.craftMessages(t, s.alert(93))
			return b
		}, 3, "", nil},
		{"never", func(*testing.T, *bank, *sender) *bank { return nil }, 0, KindWitness, []string{"cosigned", "is not there"}},
		{"by too few", func(t *testing.T, b *bank, s *sender) *bank { b.cosign(t, b, one); return b }, 0, KindWitness, []string{"cosigned", "1 of the 2"}},
		{"by a stranger of a witness's name", func(t *testing.T, b *bank, s *sender) *bank { b.cosign(t, b, stranger, two); return b }, 0, KindWitness, []string{"cosigned", "1 of the 2"}},
		{"and rolled back", func(t *testing.T, b *bank, s *sender) *bank {
			older := b.copy(t)
			b.craftMessages(t, s.alert(93))
			b.cosign(t, older, one, two)
			return older
		}, 0, KindRollback, []string{"/log:", "it has 3 entries, and witnesses have cosigned 4"}},
		{"and forked", func(t *testing.T, b *bank, s *sender) *bank {
			other := b.copy(t)
			seq := s.seq
			b.craftMessages(t, s.alert(93))
			s.seq = seq
			other.craftMessages(t, s.alert(94), s.alert(95))
			b.cosign(t, other, one, two)
			return other
		}, 0, KindFork, []string{"/log:", "it is not the log whose 4 entries"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			s := b.sender(t, pki.RoleMonitor, "mon-1", time.Second)
			first := s.alert(90)
			s.now = s.now.Add(time.Hour)
			b.craftMessages(t, first, s.alert(91), s.alert(92))
			audited := test.make(t, b, s)
			if audited == nil {
				audited = b
			}
			for _, c := range []Config{audited.open(t), audited.export(t).config(t)} {
				c.Document.WitnessKeys, c.Document.WitnessesNeeded = []string{one.vkey, two.vkey}, 2
				var r *Report
				synctest.Test(t, func(t *testing.T) { r = verifyWith(t, c) })
				if r.kinds()[test.kind] != min(1, len(test.want)) || r.Found != min(1, len(test.want)) || r.Witnessed != test.witnessed || (len(r.Witnesses) == 2) != (test.want == nil) {
					t.Errorf("%+v", r)
				}
				if test.want != nil {
					r.want(t, test.want...)
				}
			}
		})
	}
	// A log that has just begun may not have been shown to anybody.
	b := newBank(t)
	b.craftMessages(t, b.sender(t, pki.RoleMonitor, "mon-1", time.Second).alert(90))
	c := b.open(t)
	c.Document.WitnessKeys = []string{one.vkey}
	if r := verifyWith(t, c); !r.OK() {
		t.Errorf("%+v", r)
	}
}
