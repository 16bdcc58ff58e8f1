package seal

// Parse is the parser alone, for the fuzzer.
var Parse = parse

// Equal compares two passphrases.
func Equal(a, b Passphrase) bool { return a.equal(b) }
