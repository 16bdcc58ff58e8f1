package policies

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"levee/internal/wire"
	"levee/pki"
)

// Bounds of one envelope: a policy may be stricter than the format, never
// wider.
const (
	maxEnvelope = 32 << 10
	maxBackfill = 64 << 10
)

// maxLimit bounds every figure of Limits, so that sums of them cannot overflow.
const maxLimit = 1 << 30

// mustSign lists the kinds whose signature no policy can switch off: what
// persons and machines are held to, and what auditors verify by public keys.
var mustSign = []wire.Kind{
	wire.KindAlert, wire.KindCommand, wire.KindScaling, wire.KindRateLimiting,
	wire.KindPresence, wire.KindStatements, wire.KindRevocations, wire.KindDigest,
}

// mayCommand lists the roles that commands may come from.
var mayCommand = []pki.Role{pki.RoleMonitor, pki.RoleApprover}

// mayHoldKeys lists the roles that judge messages and therefore hold other
// roles' keys. Nobody else does, whatever they may read: whoever holds a key
// can forge with it.
var mayHoldKeys = []pki.Role{pki.RoleMonitor, pki.RoleController, pki.RoleApprover, pki.RoleRecorder}

// compileClasses demands every kind, so that none goes unsigned by omission.
func compileClasses(files map[string]classFile) (all classes, err error) {
	known := make(map[string]bool, len(files))
	for k := wire.KindCPU; k <= wire.KindPublic; k++ {
		f, ok := files[k.String()]
		if !ok {
			return classes{}, fmt.Errorf("topics: %q is missing", k)
		}
		c := Class{Protected: bool(f.Protected), Signed: bool(f.Signed), MaxBytes: int(f.MaxBytes)}
		if err := lintClass(k, c); err != nil {
			return classes{}, fmt.Errorf("topics: %q: %w", k, err)
		}
		all[k], known[k.String()] = c, true
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !known[name] {
			return classes{}, fmt.Errorf("topics: %q is no kind of topic", name)
		}
	}
	return all, nil
}

func lintClass(k wire.Kind, c Class) error {
	limit := maxEnvelope
	if k == wire.KindBackfill {
		limit = maxBackfill
	}
	protected := wire.Topic{Kind: k}.Protected()
	switch {
	case c.Protected != protected:
		return fmt.Errorf("protected must be %t", protected)
	case c.Signed && !protected:
		return errors.New("plain text has no signature")
	case !c.Signed && slices.Contains(mustSign, k):
		return errors.New("its signature cannot be switched off")
	case c.MaxBytes < 1 || c.MaxBytes > limit:
		return fmt.Errorf("max_bytes %d is outside 1 to %d", c.MaxBytes, limit)
	}
	return nil
}

// lintPublish refuses a pattern on which role could speak as somebody else.
func lintPublish(p pattern, role pki.Role) error {
	if p.kind == wire.KindPublic {
		return nil
	}
	for _, s := range samples {
		t, err := p.try(s)
		if err != nil {
			return err
		}
		if t.Role != string(role) {
			return fmt.Errorf("belongs to role %q", t.Role)
		}
		if t.Name != s.name {
			return errors.New(`the publisher's level must be "{name}"`)
		}
	}
	if p.kind == wire.KindCommand && !slices.Contains(mayCommand, role) {
		return errors.New("commands come from monitor and approver alone")
	}
	return nil
}

// lintLimits refuses limits that permit nothing, and those that contradict
// what the role is granted.
func lintLimits(r *role, classes classes) error {
	l := r.limits
	for _, f := range []struct {
		name string
		n    int
	}{
		{"messages_per_second", l.MessagesPerSecond},
		{"burst", l.Burst},
		{"bytes_per_second", l.BytesPerSecond},
		{"max_message_bytes", l.MaxMessageBytes},
		{"subscriptions", l.Subscriptions},
	} {
		if f.n < 1 || f.n > maxLimit {
			return fmt.Errorf("%s %d is outside 1 to %d", f.name, f.n, maxLimit)
		}
	}
	if l.MaxMessageBytes > maxBackfill {
		return fmt.Errorf("max_message_bytes %d is more than any message may have", l.MaxMessageBytes)
	}
	if l.BytesPerSecond < l.MaxMessageBytes {
		return fmt.Errorf("bytes_per_second %d is below max_message_bytes: the longest message would never pass", l.BytesPerSecond)
	}
	if l.Subscriptions < len(r.subscribe) {
		return fmt.Errorf("subscriptions %d is below the %d filters granted", l.Subscriptions, len(r.subscribe))
	}
	for _, p := range r.publish {
		if longest := classes[p.kind].MaxBytes; l.MaxMessageBytes < longest {
			return fmt.Errorf("max_message_bytes %d is below the %d of %q, which the role may publish",
				l.MaxMessageBytes, longest, p.kind)
		}
	}
	return nil
}

// compileKeys demands that the file lists exactly the keys that reading
// requires: one more would let the reader forge for nothing, one less would
// have it refuse what it is there to judge.
func compileKeys(reader pki.Role, listed []string, roles map[pki.Role]*role) ([]pki.Role, error) {
	keys := make([]pki.Role, 0, len(listed))
	for _, name := range listed {
		k := pki.Role(name)
		if k.Class() == pki.ClassNone {
			return nil, fmt.Errorf("keys: %q is no role", name)
		}
		if slices.Contains(keys, k) {
			return nil, fmt.Errorf("keys: %q stands twice", name)
		}
		keys = append(keys, k)
	}
	slices.Sort(keys)
	if !slices.Contains(mayHoldKeys, reader) {
		if len(keys) > 0 {
			return nil, fmt.Errorf("keys: only %q hold other roles' keys", mayHoldKeys)
		}
		return keys, nil
	}
	needed := neededKeys(roles[reader], roles)
	if !slices.Equal(keys, needed) {
		return nil, fmt.Errorf("keys: %q are listed, and what the role may read needs %q", keys, needed)
	}
	return keys, nil
}

// neededKeys returns, sorted, the roles whose messages reader may read.
// Acknowledgements do not count: they are keyed by their receiver's own key.
func neededKeys(reader *role, roles map[pki.Role]*role) []pki.Role {
	needed := []pki.Role{}
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		if readsFrom(reader, roles[name]) {
			needed = append(needed, name)
		}
	}
	return needed
}

func readsFrom(reader, publisher *role) bool {
	for _, s := range reader.subscribe {
		if s.kind == wire.KindPublic || s.kind == wire.KindAck {
			continue
		}
		for _, p := range publisher.publish {
			if overlap(s.levels, p.levels) {
				return true
			}
		}
	}
	return false
}
