// Package detect finds incidents in readings: for each server and metric it
// says when one begins and when it ends.
//
// It guarantees that the changes it reports for a server and metric alternate,
// begin with "raised", and carry one identifier for each pair; that no value
// outside a metric's range, NaN and infinities included, changes anything; and
// that it remembers a bounded number of servers. It is pure: it starts nothing,
// reads no clock, and is for one goroutine at a time.
//
// An incident begins when K of the last N readings lie above the threshold. It
// ends when every reading stayed below 0.8 of the threshold for the hold time;
// whatever lies between keeps it as it is, so that a value that flaps about the
// threshold is one incident. Readings are compared as they come, without an
// average, which would cost seconds at exactly the floods that matter.
//
// Silence ends nothing: a server under attack may be unable to speak, and an
// end that nobody measured would be a lie. The incident stays open and is
// marked silent until a reading comes; whoever acts on it should stop then.
//
// It does not authenticate. Every reading must be what its server sent, and the
// server's name that of the verified sender.
package detect
