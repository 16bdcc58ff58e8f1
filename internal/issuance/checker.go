package issuance

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
)

// Checker verifies a journal line by line, from the root alone. It is for
// recorders and auditors. It is not safe for concurrent use.
type Checker struct {
	root      *x509.Certificate
	verifier  *pki.Verifier
	authority pki.Authority
	journal   string
	at        Position

	// What the entries with an order, as far as the checker has seen them, do not
	// allow those that follow.
	latest int64  // the highest time of one since time was taken back, ms since the epoch
	number uint64 // of the list after the last revocation
	orders map[wire.ID]bool
}

// MaxFall is how far the time of an entry with an order may be below that of an
// earlier one. Between two orders of people whose clocks are right it never is
// further: each is followed within its life. Beyond it only a revocation by the
// people's authority takes the time back.
const MaxFall = MaxOrderLife + maxAhead

// NewChecker returns a checker of the journal of one authority, which begins
// behind at. Of orders before that it knows nothing: whether one of those is
// followed again, only a checker that began at the start can tell.
func NewChecker(root *x509.Certificate, v *pki.Verifier, authority pki.Authority, journal string, at Position) *Checker {
	return &Checker{root: root, verifier: v, authority: authority, journal: journal, at: at,
		orders: make(map[wire.ID]bool)}
}

// Position returns how far the checker has come.
func (c *Checker) Position() Position { return c.at }

// Next verifies the line that follows: that the authority signed it, that it
// follows the line before, that the certificate in it is the authority's own,
// that its order was signed by a person who may give it and is followed for the
// first time, and that the number of the list rises. After an error the position
// is what it was.
func (c *Checker) Next(line []byte) (Entry, error) {
	e, err := c.next(line)
	if err != nil {
		return Entry{}, fmt.Errorf("journal %s of %s, line %d: %w", c.journal, c.authority.Host(), c.at.Lines, err)
	}
	c.at = c.at.after(line)
	return e, nil
}

func (c *Checker) next(line []byte) (Entry, error) {
	e, m, err := parse(line, c.journal, c.at)
	if err != nil {
		return Entry{}, err
	}
	issuer, err := checkAuthor(&m, c.root, c.verifier, c.authority)
	if err != nil {
		return Entry{}, err
	}
	e.Authority = c.authority
	at := time.UnixMilli(e.Time)
	if e.Certificate != nil {
		// It names its authority, and VerifyPath holds the two together.
		if _, err := c.verifier.Verify(e.Certificate, issuer, pki.UsageSign, at); err != nil {
			return Entry{}, err
		}
	}
	if e.Order == nil {
		return e, nil
	}
	order, err := ParseOrder(e.Order, c.root, c.verifier, c.authority)
	if err != nil {
		return Entry{}, err
	}
	if err := order.Fresh(at); err != nil {
		return Entry{}, err
	}
	if err := order.fits(&e); err != nil {
		return Entry{}, err
	}
	return e, c.once(&e, order)
}

// once refuses an entry whose order was followed before, and takes note of it. It
// forgets none, because time can be taken back to when an order was fresh.
func (c *Checker) once(e *Entry, order *SignedOrder) error {
	back := order.TakesBack(e.Time, c.latest)
	switch {
	case c.orders[order.ID]:
		return fmt.Errorf("order %s is followed twice", order.ID)
	case !back && e.Time < c.latest-MaxFall.Milliseconds():
		return fmt.Errorf("its time is %s before that of an earlier order", time.Duration(c.latest-e.Time)*time.Millisecond)
	case !back && e.Kind == Revocation && c.number != 0 && e.Number <= c.number, e.Kind == Readmission && e.Number < c.number:
		return fmt.Errorf("the number of the list goes from %d to %d", c.number, e.Number)
	}
	c.orders[order.ID], c.latest = true, max(c.latest, e.Time)
	if back {
		c.latest = e.Time
	}
	if e.Kind == Revocation {
		c.number = e.Number
	}
	return nil
}

// checkAuthor returns the certificate of the authority that signed m.
func checkAuthor(m *envelope.Message, root *x509.Certificate, v *pki.Verifier, want pki.Authority) (*x509.Certificate, error) {
	issuer, above, err := m.Certificates()
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", err, envelope.ReasonOf(err).String())
	}
	if !above.Equal(root) {
		return nil, errors.New("its chain does not end in our root")
	}
	authority, err := v.VerifyAuthority(issuer, time.UnixMilli(m.Time))
	if err != nil {
		return nil, err
	}
	if authority != want || m.KeyID() != keyID(want) {
		return nil, fmt.Errorf("it is signed by the authority of %s", authority.Host())
	}
	if err := m.CheckSignature(issuer.PublicKey); err != nil {
		return nil, fmt.Errorf("%w (%s)", err, envelope.ReasonOf(err).String())
	}
	return issuer, nil
}

// Verify checks the lines that follow at, and returns their entries and the
// position behind them.
func Verify(lines [][]byte, root *x509.Certificate, v *pki.Verifier, authority pki.Authority, journal string, at Position) ([]Entry, Position, error) {
	c := NewChecker(root, v, authority, journal, at)
	entries := make([]Entry, 0, len(lines))
	for _, line := range lines {
		e, err := c.Next(line)
		if err != nil {
			return entries, c.Position(), err
		}
		entries = append(entries, e)
	}
	return entries, c.Position(), nil
}
