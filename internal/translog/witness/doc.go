// Package witness has logs witnessed by each other: a Witness cosigns other
// sites' checkpoints, a Client has ours cosigned (C2SP tlog-witness and
// tlog-cosignature, v1). docs/records.md, section 1.8, has the interface.
//
// A Witness guarantees that, of each log, every tree that it cosigns continues
// every tree that it has cosigned before, whatever is asked of it at the same
// time, and whenever the process or the machine crashes: the checkpoint is on
// disk before its cosignature leaves. What a log's own key signed and what
// contradicts that is an alarm, and kept as evidence. So is a log that is not heard
// of any more.
//
// A Client guarantees that it believes no witness's bare word: a log counts as
// rolled back or forked when a witness shows a checkpoint that the log's own key
// signed and that the log at hand does not continue.
//
// Neither says what a log's entries mean, nor that a log shows everybody what it
// shows here, unless whoever looks asks for cosignatures. A Witness whose state is
// put back together with the log that it watches does not notice.
package witness
