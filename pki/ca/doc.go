// Package ca issues the certificates that package pki verifies: the root, the
// two authorities of a site, and leaves. It seals and opens the keys that
// issue them, and speaks the formats of issuing: requests (PKCS#10) and
// revocation lists (X.509).
//
// It guarantees that every certificate it returns passes pki's second wall,
// carries a random serial number of 128 bits, and ends no later than its
// issuer; that an issuer's key signs nothing else but revocation lists; and
// that what is read from a request is only its key, or is computed anew before
// it is signed. It signs through crypto.Signer, so a key may lie in a file, a
// token or a service.
//
// It does not ask whether the holder of a public key is who the identity says:
// its callers decide what to issue to whom. It keeps no record of what it
// issued or revoked, writes no file, and decides no file layout.
package ca
