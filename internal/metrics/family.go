package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Type is a family's type.
type Type = prometheus.ValueType

// The types in use.
const (
	Counter = prometheus.CounterValue
	Gauge   = prometheus.GaugeValue
)

// Family is one metric. Its name, its label and the number of its samples are
// the program's own; only a label's value may come from elsewhere.
type Family struct {
	Name  string
	Help  string
	Type  Type
	Label string // the one label's name, "" if it has none
	// Collect calls add for each sample, with the label's value or "". It is
	// called for each request, from any goroutine.
	Collect func(add func(label string, value float64))
}

// Single is a family of one sample without a label.
func Single(name, help string, t Type, value func() float64) Family {
	return Family{Name: name, Help: help, Type: t, Collect: func(add func(string, float64)) { add("", value()) }}
}

// collector hands families to the library. It describes nothing beforehand: a
// family without samples is left out, because it is not known.
type collector []Family

func (collector) Describe(chan<- *prometheus.Desc) {}

func (c collector) Collect(to chan<- prometheus.Metric) {
	for _, f := range c {
		var labels []string
		if f.Label != "" {
			labels = []string{f.Label}
		}
		desc := prometheus.NewDesc(f.Name, f.Help, labels, nil)
		f.Collect(func(label string, value float64) {
			values := []string{strings.ToValidUTF8(label, "\uFFFD")}[:len(labels)]
			metric, err := prometheus.NewConstMetric(desc, f.Type, value, values...)
			if err != nil {
				metric = prometheus.NewInvalidMetric(desc, err)
			}
			to <- metric
		})
	}
}
