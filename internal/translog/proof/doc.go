// Package proof checks a transparency log from its files, the log's public key
// and its origin alone. docs/records.md describes the files.
//
// It shares no code with the writer of the log: it is built on the standard
// library and golang.org/x/mod/sumdb, and hashes every entry and every tile
// again. Verify guarantees that the entries it hands out are those that the
// signed checkpoint commits to, in that order, and that no other file in the
// log's directory says anything else. Where something does not match it names
// the first entry, or the path of the file.
//
// It does not say what an entry means, whether its sender signed it (package
// envelope), or whether the log's owner showed somebody else another tree:
// that takes an older checkpoint (Consistent) or witnesses.
package proof
