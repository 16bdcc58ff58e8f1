"""Section 2: the byte grammar of messages and statements.

A message is taken apart from both ends: the head, and the chain if there is one, from the front; the MAC, and the signature if
there is one, from the back, since these have a fixed length. What remains between is the payload, which module payload judges.
"""
import re
from dataclasses import dataclass
from typing import Optional, Tuple

from .encoding import b64url_decode

MAX_MESSAGE = 32768           # bytes of a message
MIN_MESSAGE = 67              # bytes of the shortest thing that check 1 lets through
MAX_BACKFILL = 65536          # bytes of a message on a backfill topic: no message at all is longer
MAX_TOPIC = 200               # bytes of a topic
MAX_CHAIN = 10923             # characters of a chain: 8,192 bytes
MAX_GENERATION = 2**32 - 1
MAX_TS = 2**53 - 1
MAX_SEQ = 2**64 - 1
RESERVED_SITES = (b"public", b"ops")

MAC_MEMBER = b',"mac":"'
SIG_MEMBER = b',"sig":"'
CHAIN_MEMBER = b',"chain":"'
PAYLOAD_MEMBER = b',"payload":'
MAC_CHARS = 43
SIG_CHARS = 86
MAC_TAIL = len(MAC_MEMBER) + MAC_CHARS + len(b'"}')   # 53, as section 3 says
SIG_TAIL = len(SIG_MEMBER) + SIG_CHARS + len(b'"')    # 95

_NAME = rb"[a-z0-9](?:[a-z0-9-]{0,22}[a-z0-9])?"
_INTEGER = rb"0|[1-9][0-9]{0,%d}"
_LEVEL = rb"[a-z0-9_-]{1,32}"
_KID = re.compile(rb'\{"v":1,"kid":"(%s)/(%s)/(%s)/(%s)"' % (_NAME, _NAME, _NAME, _INTEGER % 9))
_REST = re.compile(
    rb',"ts":(%s),"nonce":"([0-9a-f]{11})-(%s)","topic":"(%s(?:/%s){0,7})"'
    % (_INTEGER % 15, _INTEGER % 19, _LEVEL, _LEVEL)
)
_CHAIN = re.compile(rb',"chain":"([A-Za-z0-9_-]+)"')


class KidError(ValueError):
    """`kid` does not stand at its place or does not follow the grammar (section 7, check 2)."""


class GrammarError(ValueError):
    """The rest does not follow the grammar (section 7, check 5)."""


@dataclass(frozen=True)
class Kid:
    """Whose key it is: site, role and name of the sender, and the generation of its key."""

    site: str
    role: str
    name: str
    generation: int

    @property
    def sender(self) -> str:
        """`site/role/name`."""
        return "/".join((self.site, self.role, self.name))


@dataclass(frozen=True)
class Envelope:
    """A message or statement taken apart; `raw` is the whole of it."""

    raw: bytes
    kid: Kid
    ts: int
    boot: int
    seq: int
    topic: str
    chain: Optional[bytes]     # leaf and issuer, DER
    payload: bytes
    sig: Optional[bytes]       # 64 bytes
    signed: Optional[bytes]    # every byte before ,"sig":"
    mac: Optional[bytes]       # 43 characters; None in a statement


def read_kid(raw: bytes) -> Tuple[Kid, int]:
    """Reads `kid` at its fixed place and nothing else; also where it ends, behind its closing quote."""
    match = _KID.match(raw)
    if not match:
        raise KidError("no kid at its place")
    site, role, name, digits = match.groups()
    generation = int(digits)
    if not 1 <= generation <= MAX_GENERATION:
        raise KidError("the generation is out of range")
    if site in RESERVED_SITES:
        raise KidError("no site has this name")
    return Kid(site.decode("ascii"), role.decode("ascii"), name.decode("ascii"), generation), match.end()


def cut_mac(raw: bytes) -> Optional[Tuple[bytes, bytes]]:
    """What the MAC covers, and its 43 characters whatever they are (section 3); None where no MAC stands at the end."""
    body, tail = raw[:-MAC_TAIL], raw[-MAC_TAIL:]
    if not body or not tail.startswith(MAC_MEMBER) or not tail.endswith(b'"}'):
        return None
    return body, tail[len(MAC_MEMBER):-2]


def read_message(raw: bytes) -> Envelope:
    """Takes a message apart: head [chain] payload [sig] mac."""
    cut = cut_mac(raw)
    if cut is None:
        raise GrammarError("no mac at the end")
    body, mac = cut
    _canonical(mac)
    return _read_body(raw, body, mac)


def read_statement(raw: bytes) -> Envelope:
    """Takes a statement apart: head chain payload sig "}"."""
    if not raw.endswith(b'"}'):
        raise GrammarError("no signature at the end")
    statement = _read_body(raw, raw[:-1], None)
    if statement.sig is None:
        raise GrammarError("a statement is always signed")
    if (statement.boot, statement.seq) != (statement.ts, 1):
        raise GrammarError("the nonce of a statement is its ts and 1")
    if statement.kid.generation != 1 and not statement.topic.endswith("/statement/site"):
        raise GrammarError("the generation of a statement is 1")
    return statement


def read(raw: bytes, statement: bool) -> Envelope:
    """Takes a message or a statement apart."""
    return read_statement(raw) if statement else read_message(raw)


def _read_body(raw: bytes, body: bytes, mac: Optional[bytes]) -> Envelope:
    """Everything before the MAC, or before the last brace of a statement."""
    kid, pos = read_kid(body)
    match = _REST.match(body, pos)
    if not match:
        raise GrammarError("the head does not follow the grammar")
    ts, boot, seq, topic = _head_values(*match.groups())
    chain, pos = _read_chain(body, match.end())
    # Without a chain, what stands at the end is the end of a payload, whatever it looks like, and makes it none.
    sig, signed = _read_sig(body) if chain is not None else (None, None)
    if chain is not None and sig is None:
        raise GrammarError("a chain without a sig")
    if not body.startswith(PAYLOAD_MEMBER, pos):
        raise GrammarError("no payload at its place")
    pos += len(PAYLOAD_MEMBER)
    end = len(body) if signed is None else len(signed)
    if pos > end:
        raise GrammarError("no room for a payload")
    return Envelope(raw, kid, ts, boot, seq, topic, chain, body[pos:end], sig, signed, mac)


def _head_values(ts: bytes, boot: bytes, seq: bytes, topic: bytes) -> Tuple[int, int, int, str]:
    """The bounds that the grammar gives in words."""
    values = int(ts), int(boot, 16), int(seq), topic.decode("ascii")
    if not 1 <= values[0] <= MAX_TS:
        raise GrammarError("ts is out of range")
    if values[1] == 0:
        raise GrammarError("boot is all zero")
    if not 1 <= values[2] <= MAX_SEQ:
        raise GrammarError("seq is out of range")
    if len(topic) > MAX_TOPIC:
        raise GrammarError("the topic is too long")
    return values


def _read_chain(body: bytes, pos: int) -> Tuple[Optional[bytes], int]:
    """The decoded chain, if there is one, and where the reading goes on."""
    if not body.startswith(CHAIN_MEMBER, pos):
        return None, pos
    match = _CHAIN.match(body, pos)
    if not match or len(match.group(1)) > MAX_CHAIN:
        raise GrammarError("the chain does not follow the grammar")
    return _canonical(match.group(1)), match.end()


def _read_sig(body: bytes) -> Tuple[Optional[bytes], Optional[bytes]]:
    """The decoded signature at the end of the body and what stands before it.

    The body of an unsigned message ends with the brace of its payload, so that a signature can not be mistaken.
    """
    tail = body[-SIG_TAIL:]
    if len(tail) < SIG_TAIL or not tail.startswith(SIG_MEMBER) or not tail.endswith(b'"'):
        return None, None
    return _canonical(tail[len(SIG_MEMBER):-1]), body[:-SIG_TAIL]


def _canonical(text: bytes) -> bytes:
    """base64url, or a GrammarError."""
    try:
        return b64url_decode(text)
    except ValueError as err:
        raise GrammarError(str(err)) from err
