package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"levee/internal/site"
	"levee/policies"
)

// Reload reads policy and site document of every site anew. One that does not
// hold changes nothing. Certificates and lists of revocations need no signal.
func (p *Part) Reload() error {
	var errs []error
	for _, s := range p.tenants {
		errs = append(errs, s.reload(time.Now()))
	}
	return errors.Join(errs...)
}

// lookEvery is how often to look whether the files have changed.
const lookEvery = 30 * time.Second

// watch reloads what was changed, until done.
func (s *tenant) watch(done <-chan struct{}) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-look.C:
			if stampOf(s.settings) == s.stamp() {
				continue
			}
			if err := s.reload(now); err != nil { // half of a change may be there
				s.log.Error("policy and site document not reloaded: those before stay in force", slog.Any("error", err))
			}
		}
	}
}

func (s *tenant) reload(now time.Time) error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	seen := stampOf(s.settings)
	trust, err := s.bundle.Reload(s.settings.Settings, now)
	if err != nil {
		return err
	}
	if trust.Policy.Skew() != s.skew {
		return fmt.Errorf("the policy's skew is %s and was %s: that takes a start of the broker", trust.Policy.Skew(), s.skew)
	}
	s.seen = seen
	s.document.Store(trust.Document)
	s.broker.Reload(trust.Policy)
	return nil
}

func (s *tenant) stamp() stamp {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	return s.seen
}

// stamp tells whether the files that a site is judged by may have changed.
type stamp struct{ document, policy file }

type file struct {
	modified time.Time
	size     int64
}

func stampOf(s Settings) stamp {
	of := func(name string) file {
		info, err := os.Stat(filepath.Join(string(s.Bundle), name))
		if err != nil {
			return file{}
		}
		return file{info.ModTime(), info.Size()}
	}
	return stamp{of(site.FileDocument), of(site.FilePolicy)}
}

// Reload puts another policy in force, and judges every session by it: one that
// lost its role, or a right that a subscription of it needs, ends. Its client
// may connect again, and is told then what it may not have. Who keeps what it
// uses does not notice.
func (b *Broker) Reload(p *policies.Policy) {
	before := b.rules.Swap(p)
	if before.Hash() == p.Hash() || b.door == nil {
		return
	}
	ended := 0
	for _, s := range b.door.sessions(b) {
		if b.judgeAgain(s) != nil {
			ended++
		}
	}
	b.log.Warn("another policy is in force", slog.Int("sessions_ended", ended))
}

// judgeAgain brings a session under the policy in force, and ends it if that
// takes what it uses.
func (b *Broker) judgeAgain(s *session) error {
	for s.grant.Load().policy != b.policy() {
		g, ok := granted(b.policy(), s.identity)
		if !ok {
			s.end(NoRole)
			return NoRole
		}
		s.grant.Store(g)
		b.registry.limit(s.account, g.limits, time.Now())
		s.out.limit(g.policy.Broker().QueueBytes, g.policy.Broker().WriteTimeout)
		cl := s.client.Load()
		if cl == nil {
			continue
		}
		// A SUBSCRIBE that is under way was judged before; its deliveries are not.
		for filter := range cl.State.Subscriptions.GetAll() {
			if !g.rights.MaySubscribe(filter) {
				b.refuse(slog.LevelWarn, NotSubscriber, slog.String("identity", s.sender), slog.String("filter", filter))
				s.end(Rejudged)
				return Rejudged
			}
		}
	}
	return nil
}
