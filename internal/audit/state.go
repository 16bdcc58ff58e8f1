package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"levee/internal/durable"
	"levee/internal/translog/proof"
	"levee/internal/wire"
	"levee/services/recorder/segment"
)

// State is what an auditor keeps from one audit to the next, and nobody else can
// write: the checkpoint that was verified, where each segment ended, and what was
// open then.
type State struct {
	Version    int               `json:"v"`
	Root       string            `json:"root"`       // SHA-256 of the root certificate
	Checkpoint string            `json:"checkpoint"` // the signed note
	Segments   []segmentState    `json:"segments"`
	Boots      []bootState       `json:"boots"`
	Registry   registryState     `json:"registry"`
	Commands   map[string]string `json:"commands"` // "command controller" by id
	Open       []executed        `json:"executions"`
	Vouched    map[string]int64  `json:"vouched"`
	Heard      map[string]heard  `json:"heard"`
	Last       int64             `json:"last"` // when anything was received, ms since the epoch
	Down       int64             `json:"down"`

	head  proof.Checkpoint
	files map[string]int // of Segments, by name
}

const (
	stateVersion = 1
	maxState     = 1 << 30 // bytes
)

// segmentState is a segment as far as it was read.
type segmentState struct {
	Name    string `json:"name"`
	Size    int64  `json:"size"`    // bytes, up to the last whole record
	Records int64  `json:"records"` // in them
	Last    int64  `json:"last"`    // when the newest was received, ms since the epoch
}

// bootState is a boot.
type bootState struct {
	Sender   string          `json:"sender"`
	Boot     uint64          `json:"boot"`
	Done     []stretch       `json:"done"`
	Dropped  []stretch       `json:"dropped"`
	Own      []stretch       `json:"own"`
	Previous uint64          `json:"previous"`
	Recent   map[uint64]hash `json:"recent"`
	Pledges  []pledgeState   `json:"pledges"`
	Waiting  []readingState  `json:"waiting"`
	Signed   []signedState   `json:"signed"`
}

type pledgeState struct {
	Digest wire.Digest `json:"digest"`
	Index  int64       `json:"index"`
	Time   int64       `json:"ts"`
	Need   int         `json:"need"`
	Have   int         `json:"have"`
	Own    []wire.Drop `json:"own"`
}

type readingState struct {
	Seq  uint64 `json:"seq"`
	Sum  hash   `json:"sum"`
	Time int64  `json:"ts"`
	File int32  `json:"file"`
}

type signedState struct {
	Seq      uint64 `json:"seq"`
	Sum      hash   `json:"sum"`
	Index    int64  `json:"index"`
	Received int64  `json:"received"`
	Time     int64  `json:"ts"`
	File     int32  `json:"file"`
	Record   int64  `json:"record"`
	Raw      []byte `json:"raw,omitempty"`
	Settled  bool   `json:"settled"`
}

// hash is SHA-256 of something, as text: base64url.
type hash [sha256.Size]byte

// MarshalText returns 43 characters.
func (h hash) MarshalText() ([]byte, error) {
	return base64.RawURLEncoding.AppendEncode(nil, h[:]), nil
}

// UnmarshalText accepts exactly what MarshalText returns.
func (h *hash) UnmarshalText(b []byte) error {
	sum, err := base64.RawURLEncoding.Strict().AppendDecode(nil, b)
	if err != nil || len(sum) != len(h) || bytes.ContainsAny(b, "\r\n") {
		return errors.New("reading a hash: it is none")
	}
	copy(h[:], sum)
	return nil
}

// ReadState reads what WriteState wrote.
func ReadState(path string) (*State, error) {
	raw, err := durable.ReadFile(path, maxState)
	if err != nil {
		return nil, err
	}
	s, err := parseState(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the auditor's state %s: %w", path, err)
	}
	return s, nil
}

func parseState(raw []byte) (*State, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var s State
	if err := d.Decode(&s); err != nil {
		return nil, err
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("version %d is not %d", s.Version, stateVersion)
	}
	known := func(file int32) bool {
		return file == noFile || file == maxFile || file >= 0 && int(file) < len(s.Segments)
	}
	for _, b := range s.Boots {
		for _, r := range b.Waiting {
			if !known(r.File) || r.File < 0 || r.File == maxFile {
				return nil, errors.New("a reading is in no segment")
			}
		}
		for _, m := range b.Signed {
			if !known(m.File) || m.Index < noEntry || m.Index == noEntry && (m.File < 0 || m.File == maxFile) {
				return nil, errors.New("a message is nowhere")
			}
		}
	}
	return &s, nil
}

// WriteState replaces the state at path.
func WriteState(path string, s *State) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("writing the auditor's state: %w", err)
	}
	return durable.WriteFile(path, raw, 0o600)
}

// state returns what the next audit needs.
func (a *audit) state(head proof.Checkpoint) *State {
	s := &State{Version: stateVersion, Root: a.report.Root, Checkpoint: string(head.Note), Registry: a.registry.state(),
		Commands: make(map[string]string), Open: a.executions.open, Vouched: a.executions.vouched, Heard: a.hearing.heard, Last: a.hearing.last, Down: a.hearing.down}
	for _, f := range a.ledger.files {
		s.Segments = append(s.Segments, segmentState{filepath.Base(f.path), f.size, f.records, f.last})
	}
	for id, c := range a.executions.commands {
		s.Commands[id.String()] = c.Command + " " + c.Controller
	}
	for _, b := range a.ledger.boots {
		s.Boots = append(s.Boots, b.state())
	}
	slices.SortFunc(s.Boots, func(x, y bootState) int {
		return slices.Compare([]string{x.Sender, fmt.Sprintf("%020d", x.Boot)}, []string{y.Sender, fmt.Sprintf("%020d", y.Boot)})
	})
	return s
}

func (b *boot) state() bootState {
	s := bootState{Sender: b.sender, Boot: b.boot, Done: b.done, Dropped: b.dropped, Own: b.own, Previous: b.previous, Recent: make(map[uint64]hash)}
	for seq, sum := range b.recent {
		s.Recent[seq] = sum
	}
	for _, p := range b.pledges {
		s.Pledges = append(s.Pledges, pledgeState{p.Digest, p.index, p.time, p.need, p.have, p.own})
	}
	for seq, r := range b.waiting {
		s.Waiting = append(s.Waiting, readingState{seq, r.sum, r.time, r.file})
	}
	for seq, m := range b.signed {
		s.Signed = append(s.Signed, signedState{seq, m.sum, m.index, m.received, m.time, m.file, m.record, m.raw, m.settled})
	}
	return s
}

// resume takes up an earlier audit.
func (a *audit) resume(s *State) error {
	v, err := proof.NewVerifier(a.report.Origin, a.Document.LogKey)
	if err == nil {
		s.head, err = openHead([]byte(s.Checkpoint), v)
	}
	if err != nil {
		return fmt.Errorf("taking up an earlier audit: %w", err)
	}
	if s.Root != a.report.Root {
		return errors.New("taking up an earlier audit: it trusted another root")
	}
	a.since, a.report.Since = s, s.head.Tree.N
	s.files = make(map[string]int, len(s.Segments))
	for i, f := range s.Segments {
		s.files[f.Name] = i
		a.ledger.files = append(a.ledger.files, segmentFile{path: filepath.Join(a.Files.Segments(), f.Name), last: f.Last, records: f.Records, size: f.Size})
	}
	for _, b := range s.Boots {
		a.ledger.resume(b)
	}
	for text, c := range s.Commands {
		var id wire.ID
		command, controller, ok := bytes.Cut([]byte(c), []byte(" "))
		if err := id.UnmarshalText([]byte(text)); err != nil || !ok {
			return errors.New("taking up an earlier audit: a command that is none")
		}
		a.executions.commands[id] = ordered{string(command), string(controller)}
	}
	a.executions.open = s.Open
	if s.Vouched != nil {
		a.executions.vouched = s.Vouched
	}
	if s.Heard != nil {
		a.hearing.heard, a.hearing.last, a.hearing.down = s.Heard, s.Last, s.Down
	}
	return a.resumeRegistry(s.Registry)
}

func (l *ledger) resume(s bootState) {
	b := l.of(s.Sender, s.Boot)
	b.done, b.dropped, b.own, b.previous = s.Done, s.Dropped, s.Own, s.Previous
	for seq, sum := range s.Recent {
		b.recent[seq] = sum
	}
	for _, p := range s.Pledges {
		b.insert(&pledge{p.Digest, p.Index, p.Time, p.Need, p.Have, p.Own})
	}
	for _, r := range s.Waiting {
		b.waiting[r.Seq] = reading{r.Sum, r.Time, r.File}
	}
	for _, m := range s.Signed {
		b.signed[m.Seq] = &signed{m.Sum, m.Index, m.Received, m.Time, m.File, m.Record, m.Raw, m.Settled}
	}
}

// plan says what is to be read of a segment: nothing, or from which record on.
type plan struct {
	number int32
	skip   bool
	from   int64
}

// plan returns what is to be read of each file, and what is wrong with them:
// files are written one after another, so that of those that were read only the
// last may have grown.
func (s *State) plan(files []segment.File, kept func(segmentState) bool) (plans []plan, wrong []Finding) {
	plans = make([]plan, len(files))
	here, fresh := make(map[string]bool), int32(len(s.Segments))
	for i, f := range files {
		name := filepath.Base(f.Path)
		here[name] = true
		known, ok := s.files[name]
		if !ok {
			if s.laterKnown(files[i+1:]) {
				wrong = append(wrong, Finding{Where: f.Path, Kind: KindSegment, What: "was put before files that an earlier audit has read"})
			}
			plans[i].number = fresh
			fresh++
			continue
		}
		old := s.Segments[known]
		plans[i] = plan{number: int32(known), from: old.Records, skip: known+1 < len(s.Segments)}
		if info, err := os.Stat(f.Path); err == nil && (info.Size() < old.Size || plans[i].skip && info.Size() != old.Size) {
			wrong = append(wrong, Finding{Where: f.Path, Kind: KindSegment,
				What: fmt.Sprintf("has %d bytes, and had %d when an earlier audit read it", info.Size(), old.Size)})
		}
	}
	for _, old := range s.Segments {
		if !here[old.Name] && kept(old) {
			wrong = append(wrong, Finding{Where: old.Name, Kind: KindSegment, What: "is gone since an earlier audit read it"})
		}
	}
	return plans, wrong
}

func (s *State) laterKnown(files []segment.File) bool {
	return slices.ContainsFunc(files, func(f segment.File) bool { _, ok := s.files[filepath.Base(f.Path)]; return ok })
}
