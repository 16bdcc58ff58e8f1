package issuer

import (
	"context"
	"log/slog"
	"time"

	"levee/internal/wire"
)

const (
	publishEach = time.Minute
	pruneEach   = time.Hour
)

// publish publishes the list on change, each minute, and as soon as there is a
// connection, until ctx ends; then what has changed since.
func (s *Issuer) publish(ctx context.Context, to Publisher) {
	tick := time.NewTicker(publishEach)
	defer tick.Stop()
	ready := to.Ready()
	for {
		select {
		case <-ready:
			ready = nil
		case <-s.changed:
		case <-tick.C:
		case <-ctx.Done():
			select {
			case <-s.changed:
				s.publishOnce(to, time.Now())
			default:
			}
			return
		}
		s.publishOnce(to, time.Now())
	}
}

func (s *Issuer) publishOnce(to Publisher, now time.Time) {
	list, number := s.ledger.current()
	topic := wire.Topic{Kind: wire.KindRevocations, Site: s.authority.Site, Role: string(s.config.Identity.Role), Name: s.config.Identity.Name}
	err := to.Publish(topic, &wire.Revocations{Timestamp: float64(now.UnixMilli()) / 1000, Number: number, Issued: now.UnixMilli(), Revoked: list})
	if err != nil {
		s.config.Log.Error("the list of revocations was not published", slog.Any("error", err))
	}
}

// tend does what is due by the clock, until ctx ends: the issuer's own
// certificate, the watermark, what can be forgotten, warnings.
func (s *Issuer) tend(ctx context.Context) {
	renewal := time.NewTicker(s.renewOwnEach())
	defer renewal.Stop()
	seen := time.NewTicker(time.Minute)
	defer seen.Stop()
	prune := time.NewTicker(pruneEach)
	defer prune.Stop()
	for {
		select {
		case <-renewal.C:
			s.tendOwn(time.Now())
		case <-seen.C:
			s.see()
			if now := time.Now(); s.ledger.behind(now) {
				s.config.Log.Error("this issuer's clock is behind the orders that it carried out: it was wrong then, or is now (docs/operations.md)", slog.Time("now", now))
			}
		case <-prune.C:
			s.ledger.prune(time.Now())
		case <-ctx.Done():
			return
		}
	}
}
