package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"levee/envelope/ownkey"
	client "levee/internal/session"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
)

// How often presence is told. However many machines come and go, it costs so
// many messages, and each reader no more.
const (
	tellEvery   = time.Second
	mostAtOnce  = 4 // messages with changes, each tellEvery
	rosterEvery = time.Minute
	// Right after a broker's start those who listen are still on their way back.
	// It waits until the recorder has been there for settled, or for mostSilent.
	settled    = time.Second
	mostSilent = 10 * time.Second
)

// herald tells of presence, as a client of the broker that it tells of: sealed,
// signed, kept and sent again like the messages of any part. It has a directory of
// its own within the state directory.
//
// It is the broker's witness and no more: whatever fails here is logged, and the
// broker goes on without it.
func (s *tenant) herald(ctx context.Context) {
	select {
	case <-s.broker.Ready():
	case <-ctx.Done():
		return
	}
	log := s.log.With(slog.String("session", "presence"))
	voice, err := s.voice(s.broker.Addr(), log)
	if err == nil {
		err = voice.Around(ctx, func(ctx context.Context) error { return s.broker.tell(ctx, s.bundle.Identity, voice) })
	}
	if err != nil {
		log.Error("nobody is told which machines come and go: the broker goes on without it", slog.Any("error", err))
	}
}

// voice opens the herald's session. Its broker is this one, wherever the site
// document says that others find it.
func (s *tenant) voice(address net.Addr, log *slog.Logger) (*client.Session, error) {
	bundle, document := *s.bundle, *s.document.Load()
	document.Brokers = []site.Broker{{Name: bundle.Identity.Name, Address: address.String()}}
	bundle.Document, bundle.State = &document, filepath.Join(bundle.State, "presence")
	if err := site.NewState(bundle.State); err != nil {
		return nil, err
	}
	ring, err := ownkey.Load(bundle.KeyFile)
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{Bundle: &bundle, Ring: ring, Revocations: s.revocations, Log: log})
}

// publisher is what the herald says it with; *client.Session is one.
type publisher interface {
	Publish(topic wire.Topic, payload any) error
	Online() bool
}

// tell says who came and who went, and at times who is there, until ctx ends.
// While nothing can be said, newer states take the place of older ones.
func (b *Broker) tell(ctx context.Context, own pki.Identity, to publisher) error {
	if own.Site != b.site || own.Role != pki.RoleBroker {
		return fmt.Errorf("telling of presence: %s is no broker of site %s", own.Sender(), b.site)
	}
	topic := wire.Topic{Kind: wire.KindPresence, Site: own.Site, Role: string(own.Role), Name: own.Name}
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	began, heard := time.Now(), false
	roster := began.Add(rosterEvery) // until then whoever was here before has come back
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if heard = heard || b.presence.recorded(now) || now.Sub(began) >= mostSilent; !heard || !to.Online() {
				continue
			}
			messages := b.presence.changes(mostAtOnce)
			if !now.Before(roster) {
				roster = now.Add(rosterEvery)
				messages = append(messages, b.presence.roster()...)
			}
			var errs []error
			for _, m := range messages {
				m.Timestamp = float64(now.UnixMilli()) / 1000
				errs = append(errs, to.Publish(topic, &m))
			}
			if err := errors.Join(errs...); err != nil {
				b.reporter.report(slog.LevelError, "presence", "which machines come and go was not told: the next roster says who is there", slog.Any("error", err))
			}
		}
	}
}
