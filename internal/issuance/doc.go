// Package issuance is the signed record of what an authority issued and
// revoked, and of the people's orders that it followed.
//
// A journal is a file of lines. Each line is a statement (docs/envelope.md,
// section 5) that the authority signed, and names the SHA-256 of the line
// before: whoever holds one line can tell whether anything before it was
// changed. docs/issuing.md is the format.
//
// It guarantees that an entry for which Append returned no error is on stable
// storage, that one process at a time writes, that a write which a crash cut
// short disappears at the next opening, and that a file which is damaged in any
// other way is not continued. Checker verifies a journal from the root alone.
//
// It does not decide what may be issued or who may order it: it checks the form
// of an order and who signed it. Whoever holds the authority's key can write
// another journal, and whoever can write the file can cut its end: what was read
// before (Position), kept elsewhere, shows both.
package issuance
