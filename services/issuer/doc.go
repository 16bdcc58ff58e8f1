// Package issuer renews the certificates of a site's machines, and revokes
// certificates when people order it.
//
// It guarantees that a certificate leaves it only once its entry in the signed
// journal is on stable storage; that an identity comes from a verified
// certificate, or from a person's signed token, and never from a request; that
// what is revoked gets nothing; that every order is carried out once, and is in
// the journal before it is; that the number of the revocation list never falls,
// unless the people's authority says that clocks were ahead.
// Everything that it decides by follows from the journal, so a process that was
// killed at any moment goes on where it was.
//
// It publishes the list each minute and on change, and renews its own
// certificate by itself. It renews no people. It holds the key of its site's
// machines: who captures it can mint machines of that site, and docs/issuing.md
// says what then still holds.
package issuer
