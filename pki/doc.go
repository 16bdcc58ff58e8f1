// Package pki says who is who: the grammar of identities, the verification of
// certificate chains, and the tls.Config of servers and clients.
//
// It guarantees that an identity it returns was vouched for by the authority
// of that very site and class, below the one root, for the usage asked for, at
// the time asked for. It does so twice: by crypto/x509 with the name
// constraints of the issuing certificate, and by a second wall of its own
// (VerifyPath) that reads the names from the certificate's bytes and compares
// them without the name and constraint code of the first. Only the first wall
// checks signatures: VerifyPath alone proves nothing.
//
// It does not decide what an identity may do (package policies), does not
// know what was revoked (package pki/revocation, which a verifier of connections
// asks), does not issue anything (package pki/ca), and knows nothing of messages. Whoever holds the key of an issuing authority can mint
// every role of that site and class: no check here can see the difference.
package pki
