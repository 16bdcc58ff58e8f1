// Package spool keeps a sender's own messages, in their order and byte for byte,
// until the recorder has acknowledged them: in memory for as long as the disk
// takes, then in files, which the next start finds.
//
// It guarantees that whoever adds a message never waits for the disk, that what
// it holds is bounded in memory and on disk, and that it gives up only whole
// ranges of digests, oldest first, and says which: what is in a digest is of no
// use in part. A file that a crash or a full disk cut short is read up to there.
// A disk that fails leaves the messages in memory, with an alarm.
//
// A message that was added outlives the end of the process as soon as the disk
// took it, which is at once unless the disk is slow. It outlives a loss of power
// when it is over 15 seconds old: earlier it is not synced, because by then the
// recorder has almost always acknowledged it. Nothing here proves who wrote the
// files: whoever reads them has the state directory, and what they hold has its
// MAC and signature.
package spool
