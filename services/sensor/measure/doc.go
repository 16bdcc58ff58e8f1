// Package measure reads what one Linux host can say about its own load: the
// processors and memory in use, the TCP connections, the SYN packets received,
// and what a flood of them damages.
//
// It guarantees that every value of a reading was measured: a file, a key or a
// kernel counter that is missing, malformed or went backwards is an error and
// never a zero. A count of SYN packets says by which method it was made. All
// files are read below one root, with a bound on their size.
//
// It does not see beyond its own network namespace, does not respect the
// limits of a control group (CPU and RAM are the host's), and measures on Linux
// alone: elsewhere Open returns an error.
package measure
