package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"levee/envelope"
	"levee/internal/durable"
	"levee/internal/site"
	"levee/internal/translog/leaf"
	"levee/internal/translog/proof"
	"levee/internal/wire"
	"levee/services/recorder/segment"
)

// errFound ends a reading of the log.
var errFound = errors.New("found")

// ProveEntry returns the proof of one entry.
func ProveEntry(ctx context.Context, c Config, index int64) (*Proof, error) {
	p, err := newProver(c)
	if err != nil {
		return nil, err
	}
	if index < 0 || index >= p.head.Tree.N {
		return nil, fmt.Errorf("entry %d is not among the %d of the log", index, p.head.Tree.N)
	}
	return p.entry(index)
}

// ProveReading returns the proof of one message that is in a segment alone, by
// its sender, site/role/name, and nonce, boot-seq: through the digest that
// covers it.
func ProveReading(ctx context.Context, c Config, sender, nonce string) (*Proof, error) {
	n, err := parseNonce(nonce)
	if err != nil {
		return nil, err
	}
	p, err := newProver(c)
	if err != nil {
		return nil, err
	}
	index, d, err := p.digest(ctx, sender, n)
	if err != nil {
		return nil, err
	}
	proven, err := p.entry(index)
	if err != nil {
		return nil, err
	}
	proven.Reading, err = p.covered(ctx, sender, n, d)
	return proven, err
}

func parseNonce(s string) (envelope.Nonce, error) {
	boot, seq, _ := strings.Cut(s, "-")
	b, ok := envelope.ParseBoot(boot)
	n, err := strconv.ParseUint(seq, 10, 64)
	if !ok || err != nil || n == 0 {
		return envelope.Nonce{}, fmt.Errorf("%q is no nonce like 1929c0a7f3e-42", s)
	}
	return envelope.Nonce{Boot: b, Seq: n}, nil
}

// prover makes proofs from a record.
type prover struct {
	Config
	head   proof.Checkpoint
	hashes tlog.HashReader
	frame  Proof
}

func newProver(c Config) (*prover, error) {
	log := os.DirFS(c.Files.Log())
	origin, _, _ := strings.Cut(c.Document.LogKey, "+")
	head, err := readHead(log, origin, c.Document.LogKey)
	if err != nil {
		return nil, err
	}
	p := &prover{Config: c, frame: Proof{Version: proofVersion}}
	// What witnesses have cosigned shows more, if it is of this log.
	if v, err := proof.NewVerifier(origin, c.Document.LogKey); err == nil && c.Document.Needed() > 0 {
		if raw, err := durable.ReadFile(c.Files.Cosigned(), maxHead); err == nil {
			cp, _, err := proof.Witnessed(log, raw, v, proof.Quorum{Witnesses: c.Document.WitnessKeys, Need: c.Document.Needed()}, head.Tree)
			if err == nil {
				p.frame.Checkpoint, p.head = string(raw), cp
			}
		}
	}
	if p.frame.Checkpoint == "" {
		p.frame.Checkpoint, p.head = string(head.Note), head
	}
	p.hashes = tlog.TileHashReader(p.head.Tree, proof.Tiles(log))
	if p.frame.Document, err = durable.ReadFile(filepath.Join(string(c.Files.Bundle), site.FileDocument), site.MaxDocument); err != nil {
		return nil, err
	}
	p.frame.Policy, err = durable.ReadFile(filepath.Join(string(c.Files.Bundle), site.FilePolicy), maxSummed)
	return p, err
}

func (p *prover) entry(index int64) (*Proof, error) {
	r := p.frame
	r.Index, r.Path = index, []hash{}
	err := p.entries(index, func(n int64, raw []byte) error {
		if n != index {
			return nil
		}
		r.Leaf = append([]byte(nil), raw...)
		return errFound
	})
	if err != nil {
		return nil, err
	}
	path, err := tlog.ProveRecord(p.head.Tree.N, index, p.hashes)
	if err != nil {
		return nil, fmt.Errorf("proving entry %d: %w", index, err)
	}
	for _, h := range path {
		r.Path = append(r.Path, hash(h))
	}
	return &r, nil
}

// entries hands out the entries from index on, each held against the tree,
// until each returns errFound.
func (p *prover) entries(index int64, each func(int64, []byte) error) error {
	log := os.DirFS(p.Files.Log())
	for n := index; n < p.head.Tree.N; {
		next, err := entriesOf(log, p.hashes, p.head.Tree.N, n, each)
		if errors.Is(err, errFound) {
			return nil
		}
		if err != nil {
			return err
		}
		n = next
	}
	return nil
}

// digest finds the digest that covers a message.
func (p *prover) digest(ctx context.Context, sender string, n envelope.Nonce) (index int64, d *wire.Digest, err error) {
	err = p.entries(0, func(i int64, raw []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, topic, ok := messageOf(raw)
		if !ok || topic.Kind != wire.KindDigest || topic.Sender() != sender || m.Nonce.Boot != n.Boot {
			return nil
		}
		var got wire.Digest
		if wire.DecodeExact(m.Payload, &got) == nil && got.First <= n.Seq && n.Seq <= got.Last {
			index, d = i, &got
			return errFound
		}
		return nil
	})
	if err == nil && d == nil {
		err = fmt.Errorf("no digest of %s in the log covers %s-%d", sender, envelope.FormatBoot(n.Boot), n.Seq)
	}
	return index, d, err
}

// messageOf reads the message in an entry, if it holds one.
func messageOf(raw []byte) (m envelope.Message, topic wire.Topic, ok bool) {
	l, err := leaf.Parse(raw)
	if err != nil || l.Kind != leaf.KindMessage {
		return m, topic, false
	}
	if m, err = envelope.Parse(l.Data, envelope.MaxBackfill); err != nil {
		return m, topic, false
	}
	topic, err = wire.ParseTopic(string(m.Topic))
	return m, topic, err == nil
}

// covered returns a message, and the sums of what its digest covers.
func (p *prover) covered(ctx context.Context, sender string, n envelope.Nonce, d *wire.Digest) (*Vouched, error) {
	v := &Vouched{Sums: []hash{}}
	sums := make(map[uint64]hash)
	err := p.records(ctx, func(_ string, r segment.Record) error {
		m, err := envelope.Parse(r.Envelope, envelope.MaxBackfill)
		if err != nil || !r.Verdict.Kept() || string(m.Sender()) != sender || m.Nonce.Boot != n.Boot || m.Nonce.Seq < d.First || m.Nonce.Seq > d.Last {
			return nil
		}
		sums[m.Nonce.Seq] = sha256.Sum256(r.Envelope)
		if m.Nonce == n {
			v.Envelope = append([]byte(nil), r.Envelope...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if v.Envelope == nil {
		return nil, fmt.Errorf("%s-%d of %s is in no segment", envelope.FormatBoot(n.Boot), n.Seq, sender)
	}
	given := pledge{own: ownDrops(*d)}
	for seq := d.First; seq <= d.Last; seq++ {
		if given.declares(seq) {
			continue
		}
		sum, ok := sums[seq]
		if !ok {
			return nil, fmt.Errorf("%s-%d, which the same digest covers, is in no segment: without it nothing shows %d", envelope.FormatBoot(n.Boot), seq, n.Seq)
		}
		v.Sums = append(v.Sums, sum)
	}
	return v, nil
}

// records hands out every record of every segment.
func (p *prover) records(ctx context.Context, each func(path string, r segment.Record) error) error {
	files, err := segment.List(p.Files.Segments())
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := eachRecord(ctx, file.Path, each); err != nil {
			return err
		}
	}
	return nil
}

func eachRecord(ctx context.Context, path string, each func(path string, r segment.Record) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := segment.NewReader(f, path); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		record, err := r.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, segment.ErrIncomplete) {
			return nil
		}
		if err == nil {
			err = each(path, record)
		}
		if err != nil {
			return err
		}
	}
}
