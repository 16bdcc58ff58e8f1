// Package translog appends to a site's transparency log: a Merkle tree of
// entries in plain files (C2SP tlog-tiles), with signed checkpoints.
// docs/records.md describes the files, package proof checks them.
//
// It guarantees that an entry whose index Append has returned survives a crash
// of the process or of the machine, and that no checkpoint is ever signed that
// does not continue the newest one signed before: Tessera, which lays down the
// entries and tiles, is not given the key. Each checkpoint is written to the
// watermark, a file kept elsewhere, before anyone can see it, and a log that
// does not continue its watermark is not opened. Open never creates anything.
//
// It does not protect against whoever restores an old watermark together with
// the old log: that takes witnesses. It does not prevent the same entry from
// being appended twice, and it promises no order among entries that were
// appended at the same time. It runs on Linux, on a local file system; keys
// can be made anywhere.
package translog
