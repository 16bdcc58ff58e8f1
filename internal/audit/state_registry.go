package audit

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"levee/internal/issuance"
	"levee/internal/translog/leaf"
	"levee/internal/wire"
	"levee/pki"
)

// registryState is what is known of journals and signers.
type registryState struct {
	Journals []journalState          `json:"journals"`
	Lines    []hash                  `json:"lines"`
	Issued   []hash                  `json:"issued"`
	Known    []pki.Class             `json:"known"`
	Senders  map[string][]revocation `json:"senders"`
	Serials  map[string]int64        `json:"serials"`
	Signers  []signerState           `json:"signers"`
}

type journalState struct {
	Class  pki.Class        `json:"class"`
	Name   string           `json:"name"`
	Lines  uint64           `json:"lines"`
	Last   string           `json:"last"`
	Newest map[string]int64 `json:"newest"`
	Ahead  []lineState      `json:"ahead"`
}

type lineState struct {
	Raw      []byte    `json:"raw"`
	Index    int64     `json:"index"`
	Received int64     `json:"received"`
	Kind     leaf.Kind `json:"kind"`
}

type signerState struct {
	URI       string     `json:"uri"`
	Sum       hash       `json:"sum"`
	Serial    wire.ID    `json:"serial"`
	NotBefore int64      `json:"not_before"`
	Where     string     `json:"where"`
	Received  int64      `json:"received"`
	Messages  int        `json:"messages"`
	Last      sighting   `json:"last"`
	Recent    []sighting `json:"recent"`
}

func (r *registry) state() registryState {
	s := registryState{Senders: r.senders, Serials: make(map[string]int64)}
	for key, j := range r.journals {
		at := j.check.Position()
		js := journalState{Class: key.class, Name: key.name, Lines: at.Lines, Last: at.Last, Newest: j.newest}
		for _, l := range j.ahead {
			js.Ahead = append(js.Ahead, lineState{l.Raw, l.index, l.received, l.kind})
		}
		s.Journals = append(s.Journals, js)
	}
	slices.SortFunc(s.Journals, func(x, y journalState) int { return cmp.Or(cmp.Compare(x.Class, y.Class), cmp.Compare(x.Name, y.Name)) })
	for sum := range r.lines {
		s.Lines = append(s.Lines, sum)
	}
	for sum := range r.issued {
		s.Issued = append(s.Issued, sum)
	}
	for class := range r.known {
		s.Known = append(s.Known, class)
	}
	for serial, at := range r.serials {
		s.Serials[serial.String()] = at
	}
	for _, g := range r.signers {
		s.Signers = append(s.Signers, signerState{g.id.URI(), g.sum, g.serial, g.notBefore, g.where, g.received, g.messages, g.last, g.recent})
	}
	return s
}

// resumeRegistry takes up what an earlier audit knew of journals and signers.
func (a *audit) resumeRegistry(s registryState) error {
	r := a.registry
	for _, js := range s.Journals {
		key := journalKey{js.Class, js.Name}
		j := &journal{check: a.lines(key, issuance.Position{Lines: js.Lines, Last: js.Last}), newest: js.Newest, ahead: make(map[uint64]line)}
		if j.newest == nil {
			j.newest = make(map[string]int64)
		}
		for _, l := range js.Ahead {
			e, err := issuance.ReadEntry(l.Raw)
			if err != nil {
				return fmt.Errorf("taking up an earlier audit: %w", err)
			}
			j.ahead[e.Index] = line{e, l.Index, l.Received, l.Kind}
		}
		r.journals[key] = j
	}
	for _, sum := range s.Lines {
		r.lines[sum] = struct{}{}
	}
	for _, sum := range s.Issued {
		r.issued[sum] = struct{}{}
	}
	for _, class := range s.Known {
		r.known[class] = true
	}
	if s.Senders != nil {
		r.senders = s.Senders
	}
	for text, at := range s.Serials {
		var serial wire.ID
		if err := serial.UnmarshalText([]byte(text)); err != nil {
			return errors.New("taking up an earlier audit: a serial number that is none")
		}
		r.serials[serial] = at
	}
	for _, g := range s.Signers {
		id, err := pki.ParseIdentity(g.URI, a.Verifier.TrustDomain())
		if err != nil {
			return fmt.Errorf("taking up an earlier audit: %w", err)
		}
		r.bySum[g.Sum] = int32(len(r.signers))
		r.signers = append(r.signers, signer{id, g.Sum, g.Serial, g.NotBefore, g.Where, g.Received, g.Messages, g.Last, g.Recent})
	}
	return nil
}
