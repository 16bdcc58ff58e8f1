package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/tlog"

	"levee/envelope"
	"levee/internal/confirm"
	"levee/internal/durable"
	"levee/internal/issuance"
	"levee/internal/translog/leaf"
	"levee/internal/translog/proof"
	"levee/internal/wire"
	"levee/pki"
	"levee/services/recorder/segment"
)

// Proof is one entry of a log, or one reading, with everything that shows it to
// somebody who has the root certificate alone.
type Proof struct {
	Version    int      `json:"v"`
	Document   []byte   `json:"site_document"`
	Policy     []byte   `json:"policy"`
	Checkpoint string   `json:"checkpoint"` // a signed note
	Index      int64    `json:"index"`
	Leaf       []byte   `json:"leaf"` // the entry
	Path       []hash   `json:"path"` // its inclusion proof (RFC 6962, section 2.1.1)
	Reading    *Vouched `json:"reading,omitempty"`
}

// Vouched is a message that the digest in the entry covers.
type Vouched struct {
	Envelope []byte `json:"envelope"`
	Sums     []hash `json:"sums"` // SHA-256 of each message of the digest's range, but for those dropped
}

const (
	proofVersion = 1
	// MaxProof bounds a proof in bytes.
	MaxProof = 4 << 20
)

// Proven is what a proof shows.
type Proven struct {
	Site      string    `json:"site"`
	Root      string    `json:"root"` // SHA-256 of the root certificate
	Document  uint64    `json:"site_document"`
	Origin    string    `json:"origin"`
	Entries   int64     `json:"entries"` // of the checkpoint
	Witnesses []Witness `json:"witnesses"`
	Index     int64     `json:"index"`
	Received  int64     `json:"received"` // ms since the epoch
	Verdict   string    `json:"verdict"`
	Kind      leaf.Kind `json:"kind"`
	Sender    string    `json:"sender"`
	Topic     string    `json:"topic"`
	Time      int64     `json:"ts"`    // ms since the epoch
	Nonce     string    `json:"nonce"` // boot-seq
	Payload   string    `json:"payload"`
	// Vouched says that the message is a reading which the entry's digest covers:
	// then Received and Verdict are the digest's.
	Vouched bool `json:"vouched"`
}

// ReadProof reads a proof from a file.
func ReadProof(path string) (*Proof, error) {
	raw, err := durable.ReadFile(path, MaxProof)
	if err != nil {
		return nil, err
	}
	p, err := ParseProof(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the proof %s: %w", path, err)
	}
	return p, nil
}

// ParseProof reads what Marshal wrote.
func ParseProof(raw []byte) (*Proof, error) {
	if len(raw) > MaxProof {
		return nil, fmt.Errorf("it is longer than %d bytes", MaxProof)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var p Proof
	if err := d.Decode(&p); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows it")
	}
	if p.Version != proofVersion {
		return nil, fmt.Errorf("version %d is not %d", p.Version, proofVersion)
	}
	return &p, nil
}

// Marshal returns the file's content.
func (p *Proof) Marshal() ([]byte, error) {
	raw, err := json.MarshalIndent(p, "", " ")
	return append(raw, '\n'), err
}

// Check verifies a proof with the auditor's root. The error is a Finding if
// anything is wrong with it; name is what findings call it.
func (p *Proof) Check(name, root string) (*Proven, error) {
	c := Config{Source: name}
	c.Files.Evaluation = true // the auditor has named the root
	certificate, err := pki.ReadCertificate(root)
	if err != nil {
		return nil, err
	}
	if err := c.trust(root, certificate); err != nil {
		return nil, err
	}
	if err := c.document(name, p.Document); err != nil {
		return nil, err
	}
	if err := c.policy(name, p.Policy); err != nil {
		return nil, err
	}
	proven, err := p.check(c)
	if err != nil {
		return nil, Finding{Where: name, What: err.Error(), Kind: kindOf(err)}
	}
	return proven, nil
}

func (p *Proof) check(c Config) (*Proven, error) {
	a := newAudit(c)
	r := &Proven{Site: a.report.Site, Root: a.report.Root, Document: a.report.Document, Origin: a.report.Origin, Index: p.Index, Witnesses: []Witness{}}
	v, err := proof.NewVerifier(r.Origin, c.Document.LogKey)
	if err != nil {
		return nil, asKind(KindTrust, err)
	}
	head, err := openHead([]byte(p.Checkpoint), v)
	if err != nil {
		return nil, asKind(KindCheckpoint, err)
	}
	r.Entries = head.Tree.N
	if err := r.witnesses(c, head); err != nil {
		return nil, asKind(KindWitness, err)
	}
	path := make(tlog.RecordProof, len(p.Path))
	for i, h := range p.Path {
		path[i] = tlog.Hash(h)
	}
	if p.Index < 0 || p.Index >= head.Tree.N {
		return nil, asKind(KindTree, fmt.Errorf("entry %d is not among the %d of the checkpoint", p.Index, head.Tree.N))
	}
	if err := tlog.CheckRecord(path, head.Tree.N, head.Tree.Hash, p.Index, tlog.RecordHash(p.Leaf)); err != nil {
		return nil, asKind(KindTree, fmt.Errorf("entry %d is not in the tree of the checkpoint: %w", p.Index, err))
	}
	it := a.checker.leaf(p.Index, p.Leaf)
	if it.err != nil {
		return nil, it.err
	}
	l, err := leaf.Parse(p.Leaf)
	if err != nil {
		return nil, err
	}
	r.Received, r.Verdict, r.Kind = l.Received, l.Verdict, l.Kind
	switch {
	case l.Kind != leaf.KindMessage && p.Reading != nil:
		return nil, errors.New("the entry is no digest, and vouches for no reading")
	case l.Kind != leaf.KindMessage:
		return r, r.line(a, l)
	case p.Reading != nil:
		return r, r.reading(a, &it, p.Reading)
	}
	return r, r.message(l.Data)
}

// witnesses notes who of those that the site document names has cosigned.
func (r *Proven) witnesses(c Config, head proof.Checkpoint) error {
	if len(c.Document.WitnessKeys) == 0 {
		return nil
	}
	keys, err := proof.Quorum{Witnesses: c.Document.WitnessKeys, Need: c.Document.Needed()}.Open()
	if err != nil {
		return err
	}
	by, err := proof.Cosignatures(head, keys)
	for _, w := range by {
		r.Witnesses = append(r.Witnesses, Witness{Name: w.Witness, Time: w.Time.UnixMilli()})
	}
	return err
}

func (r *Proven) message(raw []byte) error {
	m, err := envelope.Parse(raw, envelope.MaxBackfill)
	if err != nil {
		return err
	}
	r.Sender, r.Topic, r.Time, r.Payload = string(m.Sender()), string(m.Topic), m.Time, string(m.Payload)
	r.Nonce = fmt.Sprintf("%s-%d", envelope.FormatBoot(m.Nonce.Boot), m.Nonce.Seq)
	return nil
}

// line checks a line of a journal, but for its place in it.
func (r *Proven) line(a *audit, l leaf.Leaf) error {
	e, err := issuance.ReadEntry(l.Data)
	if err != nil {
		return asKind(KindJournal, err)
	}
	if e.Authority.Site != a.Document.Site {
		return asKind(KindJournal, fmt.Errorf("it is a line of %s, another site", e.Authority.Site))
	}
	key := journalKey{e.Authority.Class, e.Journal}
	if _, err := a.lines(key, issuance.Position{Lines: e.Index, Last: e.Previous}).Next(l.Data); err != nil {
		return asKind(KindJournal, err)
	}
	if (e.Kind == issuance.Issuance) != (l.Kind == leaf.KindIssuance) {
		return asKind(KindJournal, fmt.Errorf("it is logged as %s", l.Kind))
	}
	r.Time, r.Sender, r.Payload = e.Time, e.Authority.Host()+"/"+e.Journal, string(l.Data)
	return nil
}

// reading checks that the digest in the entry covers a message.
func (r *Proven) reading(a *audit, it *item, v *Vouched) error {
	d, ok := it.payload.(*wire.Digest)
	if !ok {
		return errors.New("the entry is no digest, and vouches for no reading")
	}
	// Late: when it was received is the recorder's word alone.
	read := a.checker.record(0, max(r.Received, 0), segment.Late, v.Envelope)
	if read.err != nil {
		return read.err
	}
	if read.channel.sender != it.channel.sender || envelope.FormatBoot(read.nonce.Boot) != d.Boot {
		return asKind(KindDigest, errors.New("the reading is of another sender, or of another of its starts, than the digest"))
	}
	sums := v.Sums
	place := -1
	p := pledge{Digest: *d, own: ownDrops(*d)}
	got := confirm.Check(*d, func(seq uint64) (sum [sha256.Size]byte, seen bool) {
		if p.declares(seq) || len(sums) == 0 {
			return sum, false
		}
		if seq == read.nonce.Seq {
			place = len(v.Sums) - len(sums)
		}
		sum, sums = sums[0], sums[1:]
		return sum, true
	})
	switch {
	case got.Outcome != confirm.Confirmed || len(sums) > 0:
		return asKind(KindDigest, errors.New("the sums are not those that the digest covers"))
	case place < 0 || v.Sums[place] != read.sum:
		return asKind(KindDigest, fmt.Errorf("the digest covers another message than this under the number %d, or none", read.nonce.Seq))
	}
	r.Vouched = true
	return r.message(v.Envelope)
}
