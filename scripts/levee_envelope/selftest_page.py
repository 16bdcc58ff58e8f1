"""Holds the page to what it says: its grammar, run as it stands there, against the vectors; its signed example, made again.

The grammar decides by itself; nothing of this implementation but the vectors' reading is asked.
"""
import base64
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from . import abnf, grammar, keys, sealing, signing
from .certs import split_chain

Check = Tuple[str, bool]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "envelope.md"
VECTORS = ROOT / "test" / "vectors"
EXAMPLE = "honest-signed-reading"
MAX_MEMBERS, MAX_DEPTH = 64, 8
# RFC 8410, section 7: a private key of Ed25519 is this and its seed.
ED25519_PRIVATE = bytes.fromhex("302e020100300506032b657004220420")
ENDED_EARLIER = ("size", "mac")     # of the message behind kid, these say nothing


def checks() -> Iterator[Check]:
    """All checks of the page."""
    if not PAGE.is_file():
        print("SKIPPED the page's grammar: %s is not there" % PAGE, file=sys.stderr)
        return
    page = PAGE.read_text("utf-8")
    rules = re.search(r"```abnf\n(.*?)```", page, re.DOTALL)
    yield "the page has a grammar", rules is not None
    if rules is None:
        return
    found = abnf.Grammar(rules.group(1))
    count: Dict[str, int] = {}
    for case in _cases():
        for number, message in enumerate(case["messages"], 1):
            count[message["expect"]] = count.get(message["expect"], 0) + 1
            raw = base64.b64decode(message["raw"])
            if message["expect"] == "topic" and not (message.get("publisher") or "").startswith(case["receiver"]["site"] + "/"):
                continue    # none of ours: nothing of the message is looked at
            yield "%s, message %d, by the grammar" % (case["name"], number), _judged(found, raw, message)
    yield "there are vectors", min(count.get(reason, 0) for reason in ("accepted", "kid", "grammar", "payload")) > 10
    yield from _example(page)


def _cases() -> List[Dict[str, Any]]:
    """The vectors of messages and statements."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(VECTORS.glob("*.json"))]


def _judged(found: abnf.Grammar, raw: bytes, message: Dict[str, Any]) -> bool:
    """Whether the grammar says of a message what the vector expects of checks 2, 5 and 6."""
    expect, start = message["expect"], "statement" if message.get("statement") else "message"
    opening = bool(found.ends("opening", raw))
    if expect == "kid":
        return not opening
    if expect in ENDED_EARLIER:
        return True
    if expect == "grammar":
        return opening and not _matches_around(found, start, raw)
    if expect == "payload":
        return opening and _matches_around(found, start, raw) and not _strict(found, start, raw)
    return opening and _strict(found, start, raw)


def _matches_around(found: abnf.Grammar, start: str, raw: bytes) -> bool:
    """Whether the grammar matches with any bytes as the object, as check 5 takes it."""
    strict = found.rules["object"]
    found.rules["object"] = lambda data, pos: set(range(pos, len(data) + 1))
    try:
        return found.matches(start, raw) and (start == "message" or _head_of_statement(raw))
    finally:
        found.rules["object"] = strict


def _head_of_statement(raw: bytes) -> bool:
    """What section 5 says beyond the grammar: boot is ts, seq is 1, and so is the generation, but for the site document."""
    head = re.search(rb'/([0-9]+)","ts":([0-9]+),"nonce":"([0-9a-f]{11})-([0-9]+)","topic":"([^"]*)"', raw)
    return (head is not None and int(head.group(2)) == int(head.group(3), 16) and head.group(4) == b"1"
            and (head.group(1) == b"1" or head.group(5).endswith(b"/statement/site")))


def _strict(found: abnf.Grammar, start: str, raw: bytes) -> bool:
    """Whether the grammar matches, and the payload keeps to what the page says beyond it."""
    try:
        if not found.matches(start, raw):
            return False
    except RecursionError:    # far deeper than 8
        return False
    try:
        return _within_limits(json.loads(raw, object_pairs_hook=_Object)["payload"], 1)
    except ValueError:
        return True    # a grammar that lets through what is no JSON has not refused it


class _Object(List[Tuple[str, Any]]):
    """The members of an object, in order."""

    def __getitem__(self, name: Any) -> Any:
        return dict(self)[name]


def _within_limits(value: Any, depth: int) -> bool:
    """No name twice in one object, at most 64 members in one, at most 8 levels."""
    if isinstance(value, _Object):
        names = [name for name, _ in value]
        inner = [item for _, item in value]
        if len(names) > MAX_MEMBERS or len(set(names)) != len(names):
            return False
    elif isinstance(value, list):
        inner = value
    else:
        return True
    return depth <= MAX_DEPTH and all(_within_limits(item, depth + 1) for item in inner)


def _example(page: str) -> Iterator[Check]:
    """The signed example of section 11, made again from its seed and keys, and every number that stands there."""
    case = json.loads((VECTORS / (EXAMPLE + ".json")).read_text("utf-8"))
    raw = base64.b64decode(case["messages"][0]["raw"])
    yield "the signed example is the vector", "\n    %s\n" % raw.decode("ascii") in page
    seeds = re.findall(r"\n    ([0-9a-f]{64})\n", page[page.index("**Signed**"):])
    yield "the signed example has a seed", len(seeds) == 1
    envelope = grammar.read_message(raw)
    assert envelope.chain and envelope.sig and envelope.signed and envelope.mac
    leaf, issuer = split_chain(envelope.chain)
    private = signing.pem("PRIVATE KEY", ED25519_PRIVATE + bytes.fromhex(seeds[0]))
    signer = sealing.Signer(private, envelope.chain)
    header = raw[:raw.index(b',"chain"')]
    key = keys.key_for(bytes([0x2A]) * 32, envelope.kid)
    yield "the signed example, made again", sealing.seal(header, envelope.payload, key, signer) == raw
    mac = base64.urlsafe_b64decode(envelope.mac + b"=").hex()
    for name, text in (
            ("public key", leaf.key[-32:].hex()), ("leaf", hashlib.sha256(leaf.der).hexdigest()),
            ("issuer", hashlib.sha256(issuer.der).hexdigest()), ("signed bytes", signing.digest(envelope.signed).hex()),
            ("first half", envelope.sig[:32].hex()), ("second half", envelope.sig[32:].hex()), ("mac", mac)):
        yield "the page shows the example's %s" % name, "| `%s` |" % text in page
    for number in (len(leaf.der), len(issuer.der), len(envelope.signed), len(raw) - 53):
        yield "the page counts %d bytes" % number, " {:,} bytes".format(number) in page
