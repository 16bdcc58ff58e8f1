package issuer

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"

	"levee/internal/issuance"
	"levee/internal/wire"
)

// readOrder verifies an order as of now.
func (s *Issuer) readOrder(raw []byte, now time.Time) (*issuance.SignedOrder, error) {
	order, err := issuance.ParseOrder(raw, s.config.Root, s.config.Verifier, s.authority)
	if err != nil {
		return nil, refuse(http.StatusForbidden, ReasonOrder, "the order is malformed, of another site, or not signed by whom it needs").because(err)
	}
	if err := order.Fresh(now); err != nil {
		return nil, refuse(http.StatusForbidden, ReasonOrder, "the order is not fresh").because(err)
	}
	if s.ledger.refuses(order, now) {
		return nil, refuse(http.StatusServiceUnavailable, ReasonOrder,
			"this issuer's clock is behind the orders that it carried out; if it was ahead then, a revocation by the people's authority takes the time back").after(time.Minute)
	}
	if order.Leaf != nil && s.ledger.Revoked(order.Person, order.Leaf) {
		return nil, refuse(http.StatusForbidden, ReasonRevoked, "the certificate that signed the order is revoked")
	}
	return order, nil
}

// carryOut does what an order says, once it is in the journal. It returns the
// entry.
func (s *Issuer) carryOut(raw []byte, now time.Time) (issuance.Entry, error) {
	order, err := s.readOrder(raw, now)
	if err != nil {
		return issuance.Entry{}, err
	}
	s.deciding.Lock()
	defer s.deciding.Unlock()
	if s.ledger.carriedOut(order.ID) {
		return issuance.Entry{}, refuse(http.StatusConflict, ReasonUsed, "the order was carried out before")
	}
	if !s.orders.take(order.Signer(s.authority.Site), now) {
		return issuance.Entry{}, refuse(http.StatusTooManyRequests, ReasonRate, "too many orders").after(ordersEach)
	}
	record := issuance.Record{Kind: issuance.Readmission, Order: raw}
	switch order.Kind {
	case issuance.Readmit:
		_, record.Number = s.ledger.current()
		// A bundle that came since has replaced what was before it.
		changed := s.ledger.carry(s.more())
		if i := slices.IndexFunc(order.Targets, s.ledger.revokedWhole); i >= 0 {
			return issuance.Entry{}, refuse(http.StatusUnprocessableEntity, ReasonRevoked,
				fmt.Sprintf("%s is revoked: make a new bundle", order.Targets[i]))
		}
		if !changed && s.ledger.admitsAlready(order, now) {
			return issuance.Entry{}, refuse(http.StatusConflict, ReasonUsed, "a readmission that is in force allows all that this one would")
		}
	case issuance.Revoke:
		record.Kind = issuance.Revocation
		if record.Number, err = s.checkRevocation(order, now); err != nil {
			return issuance.Entry{}, err
		}
	default:
		return issuance.Entry{}, refuse(http.StatusForbidden, ReasonOrder, "a token is used by joining")
	}
	e, err := s.record(record, now)
	if err != nil {
		return issuance.Entry{}, err
	}
	if record.Kind == issuance.Revocation {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	s.config.Log.Warn("order carried out", slog.String("kind", string(order.Kind)), slog.String("signer", order.Signer(s.authority.Site)),
		slog.String("targets", strings.Join(order.Targets, " ")), slog.Bool("all", order.All), slog.String("serials", strings.Join(order.Serials, " ")),
		slog.String("reason", order.Reason), slog.Uint64("entry", e.Index), slog.Uint64("number", e.Number))
	s.see()
	return e, nil
}

// checkRevocation refuses what must not be on the list, and returns the number
// of the list that the order leads to.
func (s *Issuer) checkRevocation(order *issuance.SignedOrder, now time.Time) (number uint64, err error) {
	for _, id := range order.Identities {
		if id == s.config.Identity {
			return 0, refuse(http.StatusUnprocessableEntity, ReasonOrder,
				"this issuer would sign the list of its own revocation, which nobody could believe: replace the issuer")
		}
	}
	if order.Leaf != nil {
		if err := s.checkKnown(order.Targets); err != nil {
			return 0, err
		}
	}
	for _, text := range order.Serials {
		var serial wire.ID
		if serial.UnmarshalText([]byte(text)) != nil {
			return 0, refuse(http.StatusUnprocessableEntity, ReasonOrder, "zero is no certificate's serial number")
		}
		if order.Leaf != nil && !s.ledger.ours(serial) {
			return 0, refuse(http.StatusForbidden, ReasonOrder,
				fmt.Sprintf("serial number %s was not issued here: the people's authority may revoke it, or revoke the identity", text))
		}
		if text == issuance.SerialText(s.config.Credentials.Current().Leaf().SerialNumber) {
			return 0, refuse(http.StatusUnprocessableEntity, ReasonOrder, "this is the issuer's own certificate: replace the issuer")
		}
	}
	next, number := s.ledger.preview(order, now)
	if err := fitsList("the list would have", next.list, wire.MaxRevoked, maxList); err != nil {
		return 0, err
	}
	if order.ByAuthority {
		return number, nil
	}
	return number, fitsList("operators' orders would fill", next.operators(), maxOperators, maxOperatorsList)
}

// checkKnown refuses identities that nobody ever had, of which an operator could
// invent as many as the list has room for.
func (s *Issuer) checkKnown(targets []string) error {
	unknown := func(target string) bool { return !s.ledger.knows(target) }
	if slices.ContainsFunc(targets, unknown) {
		s.ledger.carry(s.more()) // a bundle may have come since
	}
	if i := slices.IndexFunc(targets, unknown); i >= 0 {
		return refuse(http.StatusForbidden, ReasonOrder,
			fmt.Sprintf("%s has no certificate that this issuer knows of: the people's authority may revoke it", targets[i]))
	}
	return nil
}

// fitsList refuses a list of more entries, or of more bytes of JSON.
func fitsList(what string, list []wire.Revoked, entries, size int) error {
	text, err := json.Marshal(list)
	if err != nil || len(list) > entries || len(text) > size {
		return refuse(http.StatusInsufficientStorage, ReasonFull,
			fmt.Sprintf("%s %d entries and %d bytes: %d and %d at most", what, len(list), len(text), entries, size)).because(err)
	}
	return nil
}

func serialNumber(id wire.ID) *big.Int { return new(big.Int).SetBytes(id[:]) }
