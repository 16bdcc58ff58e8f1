package broker

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"levee/internal/brokeradmin"
)

// administration is what an administrator may ask of a site's broker. Sessions
// and banned identities are the site's own; addresses are banned for every site
// that the process serves.
type administration struct{ b *Broker }

// serves reports whether there is a door yet.
func (a administration) serves() bool {
	select {
	case <-a.b.ready:
		return true
	default:
		return false
	}
}

// sessions returns those of an identity, or with "" all of the site.
func (a administration) sessions(identity string) []*session {
	if !a.serves() {
		return nil
	}
	return slices.DeleteFunc(a.b.door.sessions(a.b), func(s *session) bool { return identity != "" && s.sender != identity })
}

// Sessions returns the sessions of an identity, or with "" all of the site.
func (a administration) Sessions(identity string) []brokeradmin.Session {
	live := a.sessions(identity)
	all := make([]brokeradmin.Session, 0, len(live))
	for _, s := range live {
		all = append(all, s.show())
	}
	return all
}

// show returns what an administrator sees of a session.
func (s *session) show() brokeradmin.Session {
	shown := brokeradmin.Session{
		Identity: s.sender, Site: s.identity.Site, Remote: s.from, Since: s.opened.UTC(),
		Messages: s.messages.Load(), Bytes: s.bytes.Load(), HeldBackMS: time.Duration(s.waited.Load()).Milliseconds(), Queued: s.out.queued(),
	}
	if name := s.named.Load(); name != nil {
		shown.Client = *name
	}
	if cl := s.client.Load(); cl != nil {
		for filter := range cl.State.Subscriptions.GetAll() {
			shown.Filters = append(shown.Filters, filter)
		}
		slices.Sort(shown.Filters)
		shown.FiltersHeld = len(shown.Filters)
	}
	return shown
}

// Bans returns whom this site keeps away, and which addresses all sites of the
// process do.
func (a administration) Bans() []brokeradmin.Ban {
	now := time.Now()
	all := a.b.bans.ofIdentities(now)
	if a.serves() {
		all = append(all, a.b.door.first.bans.ofAddresses(now)...)
	}
	return all
}

// Kick ends the sessions of an identity, which may come back at once.
func (a administration) Kick(identity string) (ended int) {
	for _, s := range a.sessions(identity) {
		s.end(Kicked)
		ended++
	}
	return ended
}

// Ban keeps somebody away, whatever ban there was before. A session of an
// identity that begins meanwhile sees the ban; see identify.
func (a administration) Ban(who brokeradmin.Target, length time.Duration) (ended int, err error) {
	now := time.Now()
	switch {
	case !a.serves():
		return 0, errors.New("the broker does not listen yet")
	case who.Identity == "":
		return 0, a.b.door.first.bans.orderAddress(area(who.Address), now.Add(length), now)
	case !strings.HasPrefix(who.Identity, a.b.site+"/"):
		return 0, fmt.Errorf("%s is not of the site %s", who.Identity, a.b.site)
	}
	if err := a.b.bans.orderIdentity(who.Identity, now.Add(length), now); err != nil {
		return 0, err
	}
	return a.Kick(who.Identity), nil
}

// Unban ends a ban, whoever ordered it.
func (a administration) Unban(who brokeradmin.Target) bool {
	now := time.Now()
	switch {
	case who.Identity != "":
		return a.b.bans.liftIdentity(who.Identity, now)
	case a.serves():
		return a.b.door.first.bans.liftAddress(area(who.Address), now)
	}
	return false
}

// maxOrdered is how many more may be banned by order than are watched: who fills
// the table must not keep an administrator out of it.
const maxOrdered = 1 << 10

// byOrder is the reason of a ban by order; the log has who ordered it.
const byOrder = "an administrator's order"

func (b *bans) orderIdentity(sender string, until, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return order(b.identities, sender, until, now)
}

func (b *bans) orderAddress(from netip.Prefix, until, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return order(b.addresses, from, until, now)
}

func order[K comparable](all map[K]*conduct, who K, until, now time.Time) error {
	c := all[who]
	if c == nil {
		if len(all) >= maxAddresses+maxOrdered {
			return errors.New("there are too many bans")
		}
		c = &conduct{}
		all[who] = c
	}
	c.until, c.why, c.last = until, byOrder, now
	return nil
}

func (b *bans) liftIdentity(sender string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return lift(b.identities, sender, now)
}

func (b *bans) liftAddress(from netip.Prefix, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return lift(b.addresses, from, now)
}

// lift ends a ban and forgets what led to it.
func lift[K comparable](all map[K]*conduct, who K, now time.Time) bool {
	c := all[who]
	if c == nil || !now.Before(c.until) {
		return false
	}
	delete(all, who)
	return true
}

func (b *bans) ofIdentities(now time.Time) []brokeradmin.Ban {
	b.mu.Lock()
	defer b.mu.Unlock()
	return inForce(b.identities, now, func(sender string) string { return sender })
}

func (b *bans) ofAddresses(now time.Time) []brokeradmin.Ban {
	b.mu.Lock()
	defer b.mu.Unlock()
	return inForce(b.addresses, now, netip.Prefix.String)
}

func inForce[K comparable](all map[K]*conduct, now time.Time, name func(K) string) (shown []brokeradmin.Ban) {
	for who, c := range all {
		if now.Before(c.until) {
			shown = append(shown, brokeradmin.Ban{Who: name(who), Until: c.until.UTC(), Reason: c.why})
		}
	}
	return shown
}

var _ brokeradmin.Broker = administration{}
