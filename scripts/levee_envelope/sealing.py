"""Section 3: making messages; section 5: making statements. Nothing is made that a receiver would call malformed."""
from typing import Optional

from . import grammar, keys, payload as strict, signing
from .certs import split_chain
from .encoding import b64url


class Signer:
    """A private key in PEM and its chain: leaf ‖ issuer, DER."""

    def __init__(self, key_pem: bytes, chain: bytes) -> None:
        self.key_pem = key_pem
        self.chain = chain
        self.algorithm = split_chain(chain)[0].algorithm

    def member(self, signed: bytes) -> bytes:
        """The member `sig` over the signed bytes."""
        return grammar.SIG_MEMBER + b64url(signing.sign(self.key_pem, self.algorithm, signed)) + b'"'


def head(kid: str, ts: int, nonce: str, topic: str) -> bytes:
    """The head as the grammar spells it; sealing reads back what it makes, so that no rule is written twice."""
    text = '{"v":1,"kid":"%s","ts":%d,"nonce":"%s","topic":"%s"' % (kid, ts, nonce, topic)
    return text.encode("ascii")


def nonce(boot: int, seq: int) -> str:
    """boot in 11 lower-case hexadecimal digits, seq in decimal."""
    return "%011x-%d" % (boot, seq)


def seal(header: bytes, payload: bytes, key: bytes, signer: Optional[Signer] = None,
         max_bytes: int = grammar.MAX_MESSAGE) -> bytes:
    """A whole message from its head, its payload and the sender's key; signed, if there is a signer."""
    body = _body(header, payload, signer)
    message = body + grammar.MAC_MEMBER + keys.mac(key, body) + b'"}'
    _check(grammar.read_message(message), payload, max_bytes)
    return message


def state(header: bytes, payload: bytes, signer: Signer) -> bytes:
    """A whole statement (section 5)."""
    statement = _body(header, payload, signer) + b"}"
    _check(grammar.read_statement(statement), payload, grammar.MAX_MESSAGE)
    return statement


def _body(header: bytes, payload: bytes, signer: Optional[Signer]) -> bytes:
    """Everything that the MAC covers."""
    if signer is None:
        return header + grammar.PAYLOAD_MEMBER + payload
    signed = header + grammar.CHAIN_MEMBER + b64url(signer.chain) + b'"' + grammar.PAYLOAD_MEMBER + payload
    return signed + signer.member(signed)


def _check(made: grammar.Envelope, payload: bytes, max_bytes: int) -> None:
    """What was made is read back as what was asked for."""
    if len(made.raw) > min(max_bytes, grammar.MAX_BACKFILL):
        raise ValueError("the message is too long")
    if made.payload != payload:
        raise ValueError("the payload does not stand for itself")
    strict.parse(payload)
