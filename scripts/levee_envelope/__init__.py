"""A second, independent implementation of the levee envelope, version 1, from docs/envelope.md alone.

    encoding   section 1    base64url in its one spelling, bounded integers
    grammar    section 2    the bytes of a message and of a statement
    payload    section 2    the strict payload
    keys       section 6    key derivation; section 3: the MAC
    certs      section 4    what is read out of certificates
    signing    section 4    signatures and chains, through the openssl command
    sealing    section 3    making messages; section 5: making statements
    statement  section 5    topic, nonce and digest of statements
    receiving  section 7    the checks of a receiver, in their order
    replay     section 9    replay windows, in memory
    digests    section 8    what a digest says about the messages seen
    vectors    test/vectors/README.md
    abnf       sections 1, 2  the page's grammar, run as it stands there, in the tests
"""
