package monitor

import (
	"time"

	"levee/internal/wire"
	"levee/services/monitor/detect"
)

// sample is a reading on its way to the detector.
type sample struct {
	reading  detect.Reading
	received time.Time
}

// ObserveCPU takes a verified reading of metrics/cpu. It does not block.
func (m *Monitor) ObserveCPU(from wire.Topic, r wire.CPU, received time.Time) {
	m.observe(wire.KindCPU, from, r.Server, received, detect.Reading{
		Metric: detect.CPU, Value: r.CPUUsage, Interval: r.Interval, Timestamp: r.Timestamp,
	})
}

// ObserveRAM takes a verified reading of metrics/ram. It does not block.
func (m *Monitor) ObserveRAM(from wire.Topic, r wire.RAM, received time.Time) {
	m.observe(wire.KindRAM, from, r.Server, received, detect.Reading{
		Metric: detect.RAM, Value: r.RAMUsage, Timestamp: r.Timestamp,
	})
}

// ObserveNetwork takes a verified reading of metrics/network. It does not
// block. A reading with one number out of range is refused as a whole.
func (m *Monitor) ObserveNetwork(from wire.Topic, r wire.Network, received time.Time) {
	m.observe(wire.KindNetwork, from, r.Server, received,
		detect.Reading{
			Metric: detect.SYN, Value: float64(r.SYNPacketCount), Interval: r.Interval, Timestamp: r.Timestamp,
		},
		detect.Reading{
			Metric: detect.Connections, Value: float64(r.ActiveTCPConnections), Interval: r.Interval, Timestamp: r.Timestamp,
		})
}

func (m *Monitor) observe(kind wire.Kind, from wire.Topic, server string, received time.Time, readings ...detect.Reading) {
	switch {
	case from.Kind != kind || from.Site != m.config.Site || from.Role != "sensor" || from.Name == "":
		m.count(RefusedTopic)
		return
	case server != from.Name:
		m.count(RefusedServer)
		return
	}
	for i := range readings {
		readings[i].Server = from.Name
		if !readings[i].Valid() {
			m.count(RefusedRange)
			return
		}
	}
	for _, r := range readings {
		if m.samples.push(sample{r, received}) {
			m.count(LostReadings)
		}
	}
	m.wakeUp()
}

// report is a status on its way to the responder.
type report struct {
	from   wire.Topic
	status wire.Status
}

// maxReason bounds what of a controller's reason is kept and logged, in bytes.
const maxReason = 200

// ObserveStatus takes a verified status of a controller. It does not block.
// Statuses of commands that are not this monitor's are ignored.
func (m *Monitor) ObserveStatus(from wire.Topic, s wire.Status) {
	if from.Kind != wire.KindScaling && from.Kind != wire.KindRateLimiting ||
		from.Site != m.config.Site || from.Role != "controller" {
		m.count(RefusedTopic)
		return
	}
	s.Reason = s.Reason[:min(len(s.Reason), maxReason)]
	if m.reports.push(report{from, s}) {
		m.count(LostStatuses)
	}
	m.wakeUp()
}
