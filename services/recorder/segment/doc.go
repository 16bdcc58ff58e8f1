// Package segment keeps raw envelopes in append-only, compressed files that can be
// deleted by age. docs/records.md specifies the files.
//
// It guarantees that every record which was appended before a Sync that
// returned nil survives a crash of the process or of the machine, that a crash
// leaves whole blocks of records and at most one torn tail, and that a reader takes no
// changed byte for a record. A file is written by one Writer and never changed
// after it, except that the next Writer cuts a torn tail off the newest one. Files
// go whole, the oldest first, when the caller has declared that they do.
//
// It does not authenticate anything: a checksum finds accidents, not forgers.
// The digests in the transparency log vouch for the envelopes. Writing needs Linux, reading does not.
package segment
