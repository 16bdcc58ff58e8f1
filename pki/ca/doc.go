// Package ca issues the certificates that package pki verifies: the root, the
// two authorities of a site, and leaves.
//
// It guarantees that every certificate it returns passes pki's second wall,
// carries a random serial number of 128 bits, and ends no later than its
// issuer; and that an issuer's key signs nothing else. It signs through
// crypto.Signer, so a key may lie in a file, a token or a service.
//
// It does not ask whether the holder of a public key is who the identity says,
// or holds the private key: its callers decide what to issue to whom. It keeps
// no record of what it issued, decides no file layout, and seals no keys.
package ca
