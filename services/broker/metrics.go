package broker

import (
	"crypto/x509"

	"levee/envelope/replay"
	"levee/internal/clocks"
	"levee/internal/metrics"
	"levee/pki/revocation"
)

// source is what the metrics of every part ask for, of a broker.
type source struct {
	*Broker
	tenant *tenant
}

// Windows returns the figures of the replay windows.
func (s source) Windows() replay.Stats { return s.tenant.windows.Stats() }

// Revocations returns what the broker knows to be revoked.
func (s source) Revocations() *revocation.Set { return s.tenant.revocations }

// Certificates returns what the broker shows, and the root.
func (s source) Certificates() (leaf, authority, root *x509.Certificate) {
	return s.tenant.certified()
}

// Kernel returns what the kernel says of this machine's clock.
func (s source) Kernel() *clocks.Kernel { return s.tenant.kernel }

// families are the broker's own metrics.
func (b *Broker) families() []metrics.Family {
	single := func(name, help, counter string) metrics.Family {
		return metrics.Single(name, help, metrics.Counter, func() float64 { return float64(b.Counters()[counter]) })
	}
	return []metrics.Family{
		{Name: "levee_broker_refused_total", Help: "Ends of connections and refused packets, by reason.", Type: metrics.Counter, Label: "reason",
			Collect: func(add func(string, float64)) {
				for r := None + 1; r < reasons; r++ {
					add(r.String(), float64(b.counters.refused[r].Load()))
				}
			}},
		single("levee_broker_messages_public_total", "Public messages that were passed on.", "messages_public"),
		single("levee_broker_messages_unjudged_total", "Messages that were passed on with freshness left to the receivers.", "messages_unjudged"),
		single("levee_broker_sessions_opened_total", "Sessions that were opened.", "sessions_opened"),
		metrics.Single("levee_broker_machines", "Machines, but guests, that have a session.", metrics.Gauge, func() float64 { return float64(b.presence.count()) }),
		single("levee_broker_accept_errors_total", "Errors of the listening socket.", "accept_errors"),
		single("levee_broker_deliveries_dropped_total", "Deliveries that a reader's full queue cost.", "deliveries_dropped"),
	}
}
