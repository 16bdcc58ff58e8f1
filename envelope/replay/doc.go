// Package replay recognises messages that were seen before: a window of
// sequence numbers for each sender (RFC 6479), in a memory-mapped file that
// outlives the process.
//
// It guarantees that Check answers Fresh at most once for a message (a sender,
// boot, sequence number and time), and while the sender is remembered, at most
// once for a sender, boot and sequence number. This holds
//   - whatever the order of messages, up to 2^64-1, from any number of goroutines;
//   - across a kill of the process at any instruction. The file is changed
//     before Check answers, and a change that was cut short is undone by the
//     next Open;
//   - across a reboot or a power failure, from which a file may come back with
//     its last second missing. Every message that was accepted before carries
//     a time below start + skew, so Open has all those refused (BeforeStart).
//     The same holds for a new file and for one with damaged entries. The
//     refusal outlives further restarts;
//   - across reclaiming. An entry is reclaimed only by Forget. A sender that
//     has no entry is believed only with a time later than that of every entry
//     ever reclaimed, even if the caller's horizon was wrong. A set that is
//     full refuses new senders; it never makes room by itself;
//   - across growth and another capacity. The file grows with the senders that
//     it has met, and a kill in the middle of that costs nothing. What it knows
//     it keeps, whatever capacity it is opened with.
//
// Whoever invents senders finds a room of its own, half the size of the others':
// what the caller says nothing vouches for (Message.Unproven) can neither keep
// out, nor evict, nor look like the clone of what something vouches for. Within
// either room the senders share it, and a full one refuses whom it does not
// know: an invented unproven sender can keep an honest unproven one out.
//
// It does not read a clock and does not judge freshness; the caller does both,
// with the same skew that it gives to Open. The caller's time of a message's
// arrival says when a boot began, if the message's own says later: what an older
// boot sends after that is a clone's. A sender whose clock is ahead, and that
// starts anew, may so cause an alarm with what it sent before; two that start by
// turns, each faster than messages take, cause none. It authenticates nothing. Check
// believes its argument, so it comes last: after the MAC or the signature (at the
// broker: the identity of the connection) and after freshness. It bounds neither Boot nor
// Seq from above, so the caller first refuses a boot above time + skew; a sender
// that skips ahead in Seq makes only its own earlier messages late.
//
// It does not protect against a file that is put back to an earlier state
// while the host keeps running (a restored backup, a snapshot of the machine),
// nor against whoever may write the file. After a reboot it relies on a clock
// that is not behind the one before the reboot: start services after time
// synchronisation. The checksums find accidents, not forgeries.
//
// On systems other than Linux, macOS and the BSDs, Open keeps the windows in
// memory and refuses what came before start + skew at every start. On those,
// and on every system whose boot identifier is unknown, a restart counts as a
// reboot.
package replay
