"""Section 8: what a signed digest says about the messages that somebody has seen."""
import hashlib
import re
from dataclasses import dataclass
from typing import Any, List, Mapping, Tuple

from .encoding import b64url, b64url_decode
from .grammar import MAX_SEQ, Kid
from .payload import Number

MAX_RANGES = 512         # dropped ranges in one digest
MAX_NUMBERS = 16384      # numbers that one digest is over
REQUIRED = {"timestamp", "boot", "first", "last", "hash"}

Range = Tuple[str, int, int]


class Malformed(ValueError):
    """Not a digest."""


@dataclass(frozen=True)
class Digest:
    """A digest: a range of one boot, what was dropped, and the hash over the rest."""

    boot: str
    first: int
    last: int
    dropped: Tuple[Range, ...]
    hash: str


@dataclass(frozen=True)
class Verdict:
    """status is confirmed, incomplete or contradicted; disowned are messages seen that the digest declares dropped."""

    status: str
    missing: Tuple[int, ...]
    disowned: Tuple[Tuple[str, int], ...]


def on_topic(topic: str, kid: Kid) -> bool:
    """Whether a topic is that of the sender's digests: it ends in digests/{role}/{name}."""
    return topic.split("/")[-3:] == ["digests", kid.role, kid.name]


def read(value: Mapping[str, Any]) -> Digest:
    """A digest from its payload, or Malformed. `dropped` may be absent: nothing was dropped."""
    if not REQUIRED <= set(value) <= REQUIRED | {"dropped"} or not isinstance(value["timestamp"], Number):
        raise Malformed("not the members of a digest")
    boot, first, last = _range([value["boot"], value["first"], value["last"]])
    dropped = value.get("dropped", [])
    if not isinstance(dropped, list) or len(dropped) > MAX_RANGES or last - first >= MAX_NUMBERS:
        raise Malformed("too large")
    text = value["hash"]
    try:
        if isinstance(text, Number) or len(b64url_decode(text.encode("ascii"))) != 32:
            raise Malformed("the hash is not 32 bytes")
    except (AttributeError, ValueError) as err:
        raise Malformed("the hash is not base64url") from err
    return Digest(boot, first, last, tuple(_range(item) for item in dropped), text)


def follows(earlier: Digest, later: Digest) -> bool:
    """Ranges of one boot follow each other without a gap; a newer boot begins its own."""
    if later.boot == earlier.boot:
        return later.first == earlier.last + 1
    return later.boot > earlier.boot and later.first == 1


def make_hash(messages: List[bytes]) -> str:
    """The hash over whole messages in the order of seq."""
    parts = b"".join(hashlib.sha256(message).digest() for message in messages)
    return b64url(hashlib.sha256(parts).digest()).decode("ascii")


def check(digest: Digest, seen: Mapping[Tuple[str, int], bytes]) -> Verdict:
    """What a digest says about the messages seen, by boot and seq."""
    gone = digest.dropped
    disowned = tuple(key for key in sorted(seen) if _within(key, gone))
    wanted = [n for n in range(digest.first, digest.last + 1) if not _within((digest.boot, n), gone)]
    missing = tuple(n for n in wanted if (digest.boot, n) not in seen)
    if missing:
        return Verdict("incomplete", missing, disowned)
    same = make_hash([seen[(digest.boot, n)] for n in wanted]) == digest.hash
    return Verdict("confirmed" if same else "contradicted", (), disowned)


def _within(key: Tuple[str, int], ranges: Tuple[Range, ...]) -> bool:
    """Whether one of the ranges has this boot and number."""
    return any(boot == key[0] and first <= key[1] <= last for boot, first, last in ranges)


def _range(item: Any) -> Range:
    """[boot, first, last], ends included."""
    if not isinstance(item, list) or len(item) != 3:
        raise Malformed("not a range")
    boot, first, last = item
    if type(boot) is not str or not re.fullmatch("[0-9a-f]{11}", boot) or not int(boot, 16):
        raise Malformed("not a boot")    # nor is a JSON number of eleven digits one
    if not isinstance(first, Number) or not isinstance(last, Number):
        raise Malformed("not a range of numbers")
    try:
        low, high = first.integer(), last.integer()
    except ValueError as err:
        raise Malformed(str(err)) from err
    if not 1 <= low <= high <= MAX_SEQ:
        raise Malformed("not a range of seq")
    return boot, low, high
