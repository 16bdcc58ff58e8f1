// Package policies reads the one policy file and answers what an identity may
// publish, subscribe to and receive, what each kind of message must be, which
// message keys a bundle holds, and which commands a monitor may give by itself.
//
// It guarantees that what the file does not grant is refused: there are no deny
// rules and no order among rules, and the zero value of every type here denies
// everything. Parse refuses a file that reaches beyond the identity's own site,
// lets one sender speak as another, switches off a compulsory signature, or
// contradicts itself. A decision about a topic does not allocate.
//
// It does not authenticate the file (the site document pins its Hash) and not
// the identities (package pki verified them), it counts nothing (the broker
// enforces Limits), and it never looks into a message.
package policies
