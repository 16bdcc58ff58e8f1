package journals

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"levee/internal/enrol"
	"levee/internal/issuance"
	"levee/pki"
)

// maxPages bounds what one round takes from the issuer: 8,192 lines of an honest
// one. A captured issuer writes as fast as it is read, and the log is for ever.
const maxPages = 32

// errMore says that there is more than a round takes.
var errMore = fmt.Errorf("the issuer's journal goes on after %d answers of one round: the first import of a long one, or an issuer that writes without end; the rest waits for the next round", maxPages)

// importIssuer asks the issuer for what its journal has beyond the log.
func (i *Importer) importIssuer(ctx context.Context) error {
	if i.name == "" {
		return errors.New("the name of the issuer is not known: no certificate of one is in " + i.machines.name)
	}
	t, err := i.open(key{pki.ClassMachine, i.name})
	if err != nil {
		return defect{err}
	}
	for page := range maxPages {
		more, err := i.importPage(ctx, t, page == 0)
		if err != nil || !more {
			return err
		}
	}
	return defect{errMore}
}

// importPage imports one answer. The first one begins with the last line that
// was imported, to see that it is still there.
func (i *Importer) importPage(ctx context.Context, t *track, first bool) (more bool, err error) {
	from, overlap := t.position.Lines, first && t.position.Lines > 0
	if overlap {
		from--
	}
	lines, err := i.config.Issuer.Journal(ctx, i.name, from)
	if refused := (*enrol.Refused)(nil); errors.As(err, &refused) && refused.Status == http.StatusRequestedRangeNotSatisfiable {
		return false, defectf("the issuer's journal is shorter than the %d lines that were imported: %w", t.position.Lines, err)
	}
	if err != nil {
		return false, err
	}
	if overlap {
		switch {
		case len(lines) == 0:
			return false, defectf("the issuer's journal is shorter than the %d lines that were imported", t.position.Lines)
		case hash(lines[0]) != t.position.Last:
			return false, defectf("line %d of the issuer's journal is not the one that was imported: it is another journal", from)
		}
		lines = lines[1:]
	}
	check := issuance.NewChecker(i.config.Root, i.config.Verifier, i.authority(pki.ClassMachine), i.name, t.position)
	entries := make([]issuance.Entry, 0, len(lines))
	for _, line := range lines {
		e, err := check.Next(line)
		if err != nil {
			return false, defect{err}
		}
		entries = append(entries, e)
	}
	return overlap || len(lines) > 0, i.take(ctx, t, entries)
}
