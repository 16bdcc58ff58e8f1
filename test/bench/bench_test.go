//go:build linux

// Package bench measures what brokers cost, side by side in one run, each as a
// process of its own, with the same envelopes over the same mTLS.
//
// It guarantees that what is compared does the same work: every message that was
// sent is delivered once, in order, to the one reader, or the run fails. It does
// not guarantee figures: machines differ, so what docs/figures.md says are ratios
// of one run, and what the rest costs beside them.
package bench

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/test/processes"
)

var (
	rounds  = flag.Int("rounds", 8, "how often each broker has its turn, at each QoS")
	rate    = flag.Int("rate", 5000, "messages a second of all publishers together")
	burst   = flag.Int("burst", 1, "publishers that send at one moment")
	measure = flag.Duration("measure", 3*time.Second, "how long each turn is measured")
	also    = flag.String("also", "", "further levee brokers to compare, as name=binary,name=binary")
	profile = flag.String("profile", "", "directory for CPU profiles of the Go brokers; distorts the figures")
)

// bin is where the binaries are.
var bin string

func TestMain(m *testing.M) {
	os.Exit(processes.Run(m, func(dir string) { bin = dir }, "levee-broker", "test/bench/mochi", "test/bench/profiled", "test/bench/attacker", "test/bench/fleet"))
}

// TestBrokersDeliver keeps the harness alive: one short turn for each broker. No
// figure is judged.
func TestBrokersDeliver(t *testing.T) {
	s := newSite(t, plan{sensors: sensors, fast: true})
	for _, b := range s.brokers(t) {
		for qos := range byte(2) {
			s.turn(t, b, load{qos: qos, rate: 400, burst: 1, warm: 200 * time.Millisecond, measure: 300 * time.Millisecond})
		}
	}
}

// BenchmarkDelivery gives each broker its turn, again and again, so that whatever
// else the machine does meets all of them alike, and reports CPU time for each
// delivered message.
func BenchmarkDelivery(b *testing.B) {
	s := newSite(b, plan{sensors: sensors, fast: true})
	brokers := s.brokers(b)
	for b.Loop() {
		for qos := range byte(2) {
			turns := make(map[string][]figures)
			for range *rounds {
				for _, broker := range brokers {
					f := s.turn(b, broker, load{qos: qos, rate: *rate, burst: *burst, warm: 500 * time.Millisecond, measure: *measure})
					turns[broker.name] = append(turns[broker.name], f)
				}
			}
			report(b, qos, brokers, turns)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// report writes one table, and the figures that a program may read.
func report(b *testing.B, qos byte, brokers []broker, turns map[string][]figures) {
	var text strings.Builder
	fmt.Fprintf(&text, "\nQoS %d, %d messages/s, %d at one moment, %d turns of %s each, %s\n", qos, *rate, *burst, *rounds, *measure, runtime.Version())
	fmt.Fprintf(&text, "%-12s %8s %8s %8s %9s %9s %9s\n", "", "median", "least", "most", "of mochi", "p50", "p99")
	column := func(name string, of func(figures) time.Duration) []time.Duration {
		var all []time.Duration
		for _, f := range turns[name] {
			all = append(all, of(f))
		}
		slices.Sort(all)
		return all
	}
	for _, broker := range brokers {
		costs := column(broker.name, func(f figures) time.Duration { return f.cost })
		var ratios []float64 // of each round, so that a slow minute counts for both
		for i, f := range turns[broker.name] {
			ratios = append(ratios, float64(f.cost)/float64(turns[bareMochi][i].cost))
		}
		p50 := median(column(broker.name, func(f figures) time.Duration { return f.p50 }))
		p99 := median(column(broker.name, func(f figures) time.Duration { return f.p99 }))
		slices.Sort(ratios)
		fmt.Fprintf(&text, "%-12s %6.2fµs %6.2fµs %6.2fµs %9.2f %9s %9s\n", broker.name, micro(median(costs)), micro(costs[0]), micro(costs[len(costs)-1]),
			median(ratios), p50.Round(time.Microsecond), p99.Round(time.Microsecond))
		b.ReportMetric(micro(median(costs)), fmt.Sprintf("%s-qos%d-µs", broker.name, qos))
		b.ReportMetric(median(ratios), fmt.Sprintf("%s-qos%d/mochi", broker.name, qos))
	}
	fmt.Print(text.String()) // package testing cuts what a benchmark logs after ten lines
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// median returns the middle of what is sorted.
func median[T cmp.Ordered](sorted []T) T { return sorted[len(sorted)/2] }
