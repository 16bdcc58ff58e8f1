"""Runs test vectors: test/vectors/README.md."""
import base64
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from . import digests, payload as strict
from .encoding import hex_key
from .grammar import MAX_MESSAGE
from .receiving import ACCEPTED, DEFAULT_SKEW, REASONS, Delivery, Receiver
from .signing import OpensslMissing

MAX_FILE = 16 * 1024 * 1024
MAX_FILES = 100000
CASE_MEMBERS = {"name", "says", "section", "receiver", "messages"}
RECEIVER_MEMBERS = {"site", "start", "skew", "keys", "own", "root", "pins", "minimum"}
DIGEST_MEMBERS = {"name", "says", "nonce", "payload", "seen", "expect", "missing"}
SEEN_MEMBERS = {"boot", "seq", "raw"}
MESSAGE_MEMBERS = {"now", "topic", "publisher", "max_bytes", "signed", "statement", "raw", "expect"}
TRUST_DOMAIN = "bank.example"     # of the certificates of all cases


class CaseError(ValueError):
    """A file that is not a case as the README describes it."""


@dataclass
class Tally:
    """What came of a run."""

    cases: int = 0
    messages: int = 0
    failures: List[str] = field(default_factory=list)
    skipped: List[str] = field(default_factory=list)


def run(directory: Path) -> Tally:
    """Runs every case of a directory and of digests below it, in the order of their names."""
    tally = Tally()
    for path in sorted(directory.glob("*.json"))[:MAX_FILES]:
        tally.cases += 1
        try:
            count, wrong = run_case(_load(path))
            tally.messages += count
            tally.failures += ["%s: %s" % (path.name, line) for line in wrong]
        except OpensslMissing as err:
            tally.skipped.append(path.name)
            print("SKIPPED %s: %s" % (path.name, err), file=sys.stderr)
        except (CaseError, OSError) as err:
            tally.failures.append("%s: not a case: %s" % (path.name, err))
    for path in sorted(directory.glob("digests/*.json"))[:MAX_FILES]:
        tally.cases += 1
        try:
            tally.failures += ["%s: %s" % (path.name, line) for line in run_digest(_load(path))]
        except (CaseError, OSError, strict.PayloadError) as err:
            tally.failures.append("%s: not a case: %s" % (path.name, err))
    return tally


def run_digest(case: Mapping[str, Any]) -> List[str]:
    """What went wrong with a case of section 8, at most one line."""
    _members(case, DIGEST_MEMBERS)
    seen: Dict[Tuple[str, int], bytes] = {}
    for item in _typed(case.get("seen", []), list, "seen"):
        _members(item, SEEN_MEMBERS)
        digests.note(seen, _typed(item.get("boot"), str, "boot"), _typed(item.get("seq"), int, "seq"), _base64(item.get("raw")))
    boot, _, seq = _typed(case.get("nonce"), str, "nonce").partition("-")
    try:
        nonce = (int(boot, 16), int(seq))
    except ValueError as err:
        raise CaseError("no nonce") from err
    value = strict.parse(_typed(case.get("payload"), str, "payload").encode("utf-8"))
    expected = (_typed(case.get("expect"), str, "expect"), _typed(case.get("missing", 0), int, "missing"))
    try:
        verdict = digests.check(digests.read(value, nonce), seen)
        found = (verdict.status, len(verdict.missing))
    except digests.Malformed:
        found = ("malformed", 0)
    return [] if found == expected else ["expected %s and %d missing, found %s and %d" % (expected + found)]


def run_case(case: Mapping[str, Any]) -> Tuple[int, List[str]]:
    """How many messages a case has, and a description of all that went wrong, at most one line of it."""
    _members(case, CASE_MEMBERS)
    receiver = make_receiver(case.get("receiver", {}))
    messages = _typed(case.get("messages"), list, "messages")
    wrong = []
    for number, message in enumerate(messages, 1):
        expected = _typed(message, dict, "message").get("expect")
        if expected != ACCEPTED and expected not in REASONS:
            raise CaseError("no reason of the page: %r" % (expected,))
        result = receiver.open(make_delivery(message)).result
        if result != expected:
            wrong.append("message %d: expected %s, found %s" % (number, expected, result))
    return len(messages), ["; ".join(wrong)] if wrong else []


def make_receiver(text: Mapping[str, Any]) -> Receiver:
    """A receiver with fresh windows from its description."""
    _members(text, RECEIVER_MEMBERS)
    try:
        keys = {role: hex_key(key) for role, key in _typed(text.get("keys", {}), dict, "keys").items()}
    except (TypeError, ValueError) as err:
        raise CaseError(str(err)) from err
    root = text.get("root")
    return Receiver(
        site=_typed(text.get("site", ""), str, "site"),
        keys=keys,
        root=None if root is None else _base64(root),
        pins=_table(text, "pins", str),
        minimum=_table(text, "minimum", int),
        skew=_typed(text.get("skew", DEFAULT_SKEW), int, "skew"),
        start=_start(text.get("start")),
        trust_domain=TRUST_DOMAIN,
        own=_own(text.get("own")),
    )


def _own(text: Any) -> Optional[Tuple[str, bytes]]:
    """A receiver's own site/role/name and key."""
    if text is None:
        return None
    _members(text, {"kid", "key"})
    try:
        return _typed(text.get("kid"), str, "kid").rpartition("/")[0], hex_key(text.get("key"))
    except (TypeError, ValueError) as err:
        raise CaseError(str(err)) from err


def make_delivery(text: Mapping[str, Any]) -> Delivery:
    """A delivery from its description. A topic or publisher that is absent is nobody's: it matches nothing."""
    _members(text, MESSAGE_MEMBERS)
    return Delivery(
        raw=_base64(text.get("raw", "")),
        topic=_typed(text.get("topic", ""), str, "topic"),
        now=_typed(text.get("now", 0), int, "now"),
        publisher=_typed(text.get("publisher", ""), str, "publisher"),
        max_bytes=_typed(text.get("max_bytes", MAX_MESSAGE), int, "max_bytes"),
        must_be_signed=_typed(text.get("signed", False), bool, "signed"),
        statement=_typed(text.get("statement", False), bool, "statement"),
    )


def decode_line(line: str) -> str:
    """One line of the mode open-lines: a receiver and one message in one object; the answer is its reason."""
    text = _typed(_json(line), dict, "line")
    _members(text, RECEIVER_MEMBERS | MESSAGE_MEMBERS)
    receiver = make_receiver({k: v for k, v in text.items() if k in RECEIVER_MEMBERS})
    return receiver.open(make_delivery({k: v for k, v in text.items() if k in MESSAGE_MEMBERS})).result


def _load(path: Path) -> Dict[str, Any]:
    """The object in a file of bounded size."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise CaseError("the file is too large")
    try:
        return _typed(_json(data.decode("utf-8")), dict, "file")
    except UnicodeDecodeError as err:
        raise CaseError("not UTF-8") from err


def _json(text: str) -> Any:
    """JSON in which no member stands twice."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as err:
        raise CaseError("no JSON: %s" % err) from err


def _once(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """An object, if no member stands twice in it."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members


def _members(text: Mapping[str, Any], known: "set[str]") -> None:
    """Nothing is in a case that this program would overlook."""
    unknown = set(_typed(text, dict, "object")) - known
    if unknown:
        raise CaseError("unknown members %s" % ", ".join(sorted(unknown)))


def _typed(value: Any, kind: type, name: str) -> Any:
    """The value, if it is of its type; true is no number."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise CaseError("%s is not %s" % (name, kind.__name__))
    return value


def _table(text: Mapping[str, Any], name: str, kind: type) -> Dict[str, Any]:
    """A member that has one value of a type for each sender."""
    return {sender: _typed(value, kind, name) for sender, value in _typed(text.get(name, {}), dict, name).items()}


def _start(value: Any) -> Optional[int]:
    """The start of the windows, if there is one."""
    return None if value is None else _typed(value, int, "start")


def _base64(text: Any) -> bytes:
    """Bytes out of plain base64."""
    try:
        return base64.b64decode(_typed(text, str, "base64"), validate=True)
    except ValueError as err:
        raise CaseError("no base64") from err
