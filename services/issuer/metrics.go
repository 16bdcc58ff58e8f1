package issuer

import (
	"levee/internal/issuance"
	"levee/internal/metrics"
)

// families are the issuer's own figures.
func (s *Issuer) families() []metrics.Family {
	return []metrics.Family{
		{Name: "levee_issuer_issued_total", Help: "Certificates issued since the start, by cause.", Type: metrics.Counter, Label: "cause",
			Collect: func(add func(string, float64)) {
				for _, cause := range []issuance.Cause{issuance.CauseRenewal, issuance.CauseJoin, issuance.CauseReadmission} {
					add(string(cause), float64(s.issued[cause].Load()))
				}
			}},
		{Name: "levee_issuer_refused_total", Help: "Requests that got nothing, by reason (docs/issuing.md).", Type: metrics.Counter, Label: "reason",
			Collect: func(add func(string, float64)) {
				for _, reason := range Reasons() {
					add(string(reason), float64(s.refusals.count(reason)))
				}
			}},
		metrics.Single("levee_issuer_journal_entries", "Entries in the journal.", metrics.Gauge,
			func() float64 { return float64(s.journal.Position().Lines) }),
		metrics.Single("levee_issuer_list_number", "The number of the list of revocations.", metrics.Gauge,
			func() float64 { _, number := s.ledger.current(); return float64(number) }),
		metrics.Single("levee_issuer_list_entries", "Entries of the list of revocations, 256 at most.", metrics.Gauge,
			func() float64 { list, _ := s.ledger.current(); return float64(len(list)) }),
	}
}
