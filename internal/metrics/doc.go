// Package metrics shows a part's figures to a monitoring system, as Prometheus
// reads them (text exposition format 0.0.4), over HTTP on a loopback address.
//
// It guarantees that the set of names is closed and that what a request can
// cost is bounded: connections, headers, time, and labels, which are reasons of
// a closed set and verified senders of a bounded number. It changes nothing,
// whatever it is asked. It asks nobody who they are: whoever can connect to the
// address reads the figures, and with them the senders' names.
package metrics
