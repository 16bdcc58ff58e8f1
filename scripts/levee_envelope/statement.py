"""Section 5: what is particular to statements. Module sealing makes them, module receiving checks them."""
from . import grammar, signing


def topic(site: str, kind: str) -> str:
    """Where a statement of this type belongs."""
    return "%s/bank_server/statement/%s" % (site, kind)


def nonce(now: int) -> str:
    """`{now}-1`; an identifier in the payload makes the statement unique."""
    return "%011x-1" % now


def digest(raw: bytes) -> bytes:
    """SHA-256 over the signed bytes of a statement, prefix included: what other statements refer to it by."""
    return signing.digest(grammar.read_statement(raw).signed or b"")
