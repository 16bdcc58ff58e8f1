// Package stack runs all parts of one site on one machine, for `levee up`.
//
// It guarantees that the parts meet only over TCP: each is opened from its own
// configuration file with its own bundle, as its daemon would be, and shares
// no memory, channel or key with another. It starts them in the order in which
// they need each other and stops them in reverse, each after it has sent what
// it had to send.
package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"levee/internal/daemon"
	"levee/internal/provision"
	"levee/pki"
	"levee/services/broker"
	"levee/services/console"
	"levee/services/controller/embedded"
	"levee/services/issuer"
	"levee/services/monitor"
	"levee/services/recorder"
	"levee/services/sensor"
)

// Stack is the parts of one site, opened and not yet running.
type Stack struct {
	parts []part
	ready chan struct{}
}

type part struct {
	id pki.Identity
	daemon.Part
}

// order is how the parts need each other: whoever publishes wants a broker,
// and whoever acts wants a record of it.
var order = []pki.Role{pki.RoleBroker, pki.RoleIssuer, pki.RoleRecorder, pki.RoleController, pki.RoleMonitor, pki.RoleSensor, pki.RoleConsole}

// Open opens every part of the identities from its configuration file below
// dir. log is told which part speaks.
func Open(dir string, ids []pki.Identity, log *slog.Logger) (*Stack, error) {
	layout := provision.Layout{Dir: dir}
	s := &Stack{ready: make(chan struct{})}
	for _, role := range order {
		for _, id := range ids {
			if id.Role != role {
				continue
			}
			p, err := open(id.Role, layout.Config(id), log.With(slog.String("part", id.Sender())))
			if err != nil {
				return nil, fmt.Errorf("opening %s: %w", id.Sender(), errors.Join(err, s.close()))
			}
			s.parts = append(s.parts, part{id: id, Part: p})
		}
	}
	return s, nil
}

func open(role pki.Role, config string, log *slog.Logger) (daemon.Part, error) {
	switch role {
	case pki.RoleBroker:
		return as(broker.Open(config, log))
	case pki.RoleIssuer:
		return as(issuer.Open(config, log))
	case pki.RoleRecorder:
		return as(recorder.Open(config, log))
	case pki.RoleController:
		return as(embedded.Open(config, log))
	case pki.RoleMonitor:
		return as(monitor.Open(config, log))
	case pki.RoleSensor:
		return as(sensor.Open(config, log))
	case pki.RoleConsole:
		return as(console.Open(config, log))
	default:
		return nil, fmt.Errorf("no part for role %q", role)
	}
}

// as keeps a nil part from hiding in an interface.
func as[P daemon.Part](p P, err error) (daemon.Part, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}

// close releases parts that will not run.
func (s *Stack) close() error {
	var errs []error
	for _, p := range s.parts {
		if c, ok := p.Part.(interface{ Close() error }); ok {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// Ready is closed when every part runs and those that listen do.
func (s *Stack) Ready() <-chan struct{} { return s.ready }

// Run runs the parts until ctx ends or one of them stops by itself, and
// returns when all have stopped. A part is a failure domain in production;
// here one machine evaluates the whole, so the first failure ends it. Run is
// called once.
func (s *Stack) Run(ctx context.Context) error {
	var (
		errs    = make([]error, len(s.parts))
		done    = make([]chan struct{}, len(s.parts))
		cancels []context.CancelFunc // of the parts that were started
		ended   = make(chan int, len(s.parts))
		first   = -1 // the part that stopped by itself
	)
	for i, p := range s.parts {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		cancels, done[i] = append(cancels, cancel), make(chan struct{})
		go func() {
			errs[i] = p.Run(own)
			close(done[i])
			ended <- i
		}()
		// Others would find no broker and wait out a back-off.
		if listener, ok := p.Part.(interface{ Ready() <-chan struct{} }); ok {
			select {
			case <-listener.Ready():
			case first = <-ended:
			case <-ctx.Done():
			}
		}
		if first >= 0 || ctx.Err() != nil {
			break
		}
	}
	if first < 0 {
		if s.ready != nil && ctx.Err() == nil {
			close(s.ready)
		}
		select {
		case <-ctx.Done():
		case first = <-ended:
		}
	}
	waiting := Stack{parts: s.parts[len(cancels):]}
	failure := waiting.close()
	for i := len(cancels) - 1; i >= 0; i-- {
		cancels[i]()
		<-done[i]
	}
	if first >= 0 && errs[first] == nil {
		errs[first] = errors.New("stopped by itself")
	}
	for i, err := range errs {
		if err != nil {
			failure = errors.Join(failure, fmt.Errorf("%s: %w", s.parts[i].id.Sender(), err))
		}
	}
	return failure
}
