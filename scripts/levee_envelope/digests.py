"""Section 8: what a signed digest says about the messages that somebody has seen."""
import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Tuple

from .encoding import b64url
from .grammar import MAX_SEQ, Kid
from .payload import Number

MAX_RANGES = 512         # dropped ranges in one digest
MAX_NUMBERS = 16384      # numbers that one digest is over
MEMBERS = {"timestamp", "boot", "first", "last", "dropped", "hash"}

CONTESTED = b""           # no message is empty

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
    """status is confirmed, incomplete, contradicted or disowned; what is disowned was seen and is declared dropped."""

    status: str
    missing: Tuple[int, ...]
    disowned: Tuple[int, ...]


def on_topic(topic: str, kid: Kid) -> bool:
    """Whether a topic is that of the sender's digests: it ends in digests/{role}/{name}."""
    return topic.split("/")[-3:] == ["digests", kid.role, kid.name]


def read(value: Mapping[str, Any], nonce: Tuple[int, int]) -> Digest:
    """A digest from its payload and the boot and seq of its envelope, or Malformed."""
    if set(value) != MEMBERS or not isinstance(value["timestamp"], Number) or type(value["hash"]) is not str:
        raise Malformed("not the members of a digest")
    if math.isinf(float(value["timestamp"])):
        raise Malformed("a timestamp that no double holds")
    boot, first, last = own = _range([value["boot"], value["first"], value["last"]])
    if int(boot, 16) != nonce[0] or last >= nonce[1]:
        raise Malformed("not of its envelope's boot, or not over lower numbers than its own")
    dropped = value["dropped"]
    if not isinstance(dropped, list) or len(dropped) > MAX_RANGES or last - first >= MAX_NUMBERS or last == MAX_SEQ:
        raise Malformed("too large")
    ranges = sorted(_range(item) for item in dropped)
    for item in ranges:
        if not _earlier(item, own) and not (item[0] == boot and first <= item[1] and item[2] <= last):
            raise Malformed("a dropped range that is neither of this range nor of an earlier one")
    if any(a[0] == b[0] and b[1] <= a[2] for a, b in zip(ranges, ranges[1:])):
        raise Malformed("dropped ranges overlap")
    return Digest(boot, first, last, tuple(ranges), value["hash"])


def follows(earlier: Digest, later: Digest) -> bool:
    """Ranges of one boot follow each other without a gap; a newer boot begins its own."""
    if later.boot == earlier.boot:
        return later.first == earlier.last + 1
    return later.boot > earlier.boot and later.first == 1


def note(seen: Dict[Tuple[str, int], bytes], boot: str, seq: int, raw: bytes) -> None:
    """Adds a message to those seen. Two different ones under one number are one that no hash is over."""
    seen[(boot, seq)] = raw if seen.get((boot, seq), raw) == raw else CONTESTED


def make_hash(messages: List[bytes]) -> str:
    """The hash over whole messages in the order of seq."""
    parts = b"".join(hashlib.sha256(message).digest() for message in messages)
    return b64url(hashlib.sha256(parts).digest()).decode("ascii")


def check(digest: Digest, seen: Mapping[Tuple[str, int], bytes]) -> Verdict:
    """What a digest says about the messages seen, by boot and seq."""
    numbers = range(digest.first, digest.last + 1)
    gone = {n for boot, first, last in digest.dropped if boot == digest.boot and first >= digest.first
            for n in range(first, last + 1)}
    wanted = [n for n in numbers if n not in gone]
    missing = tuple(n for n in wanted if (digest.boot, n) not in seen)
    disowned = tuple(n for n in numbers if n in gone and (digest.boot, n) in seen)
    if missing:
        return Verdict("incomplete", missing, disowned)
    if make_hash([seen[(digest.boot, n)] for n in wanted]) != digest.hash:
        return Verdict("contradicted", (), disowned)
    return Verdict("disowned" if disowned else "confirmed", (), disowned)


def _earlier(item: Range, own: Range) -> bool:
    """Whether a range lies before another: of an earlier boot, or of the same and below."""
    return item[0] < own[0] or (item[0] == own[0] and item[2] < own[1])


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
