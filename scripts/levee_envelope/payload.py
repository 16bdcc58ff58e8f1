"""Section 2: the strict payload. A parser of its own, since json.loads accepts much that the page forbids."""
import re
from typing import Any, Dict, List, Union

MAX_DEPTH = 8        # levels of objects and arrays, the payload itself being the first
MAX_MEMBERS = 64     # members of one object
MAX_INTEGER_DIGITS = 20

_NAME = re.compile(rb'"([a-z0-9_]{1,32})":')
_STRING = re.compile(rb'"((?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*)"')
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_PAIR = re.compile("([\ud800-\udbff])([\udc00-\udfff])")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHORT = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class PayloadError(ValueError):
    """The payload is not a strict object; says why and at which byte."""


class Number(str):
    """A number as it is spelt: the page bounds neither its size nor its precision, so nothing is rounded here."""

    def integer(self) -> int:
        """The value, if it is spelt as an integer without sign and of at most 20 digits."""
        if not re.fullmatch(r"0|[1-9][0-9]*", self) or len(self) > MAX_INTEGER_DIGITS:
            raise ValueError("not an integer of at most 20 digits")
        return int(self)


Value = Union[Dict[str, Any], List[Any], str, Number, bool]


def parse(data: bytes) -> Dict[str, Value]:
    """The object that data spells, or a PayloadError."""
    reader = _Reader(data)
    if data[:1] != b"{":
        reader.fail("not an object")
    value = reader.object(1)
    if reader.pos != len(data):
        reader.fail("something follows the object")
    return value


class _Reader:
    """Recursive descent, never deeper than MAX_DEPTH."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 0

    def fail(self, why: str) -> None:
        """Gives up at the present byte."""
        raise PayloadError("%s at byte %d" % (why, self.pos))

    def take(self, literal: bytes) -> bool:
        """Steps over literal if it stands here."""
        if not self.data.startswith(literal, self.pos):
            return False
        self.pos += len(literal)
        return True

    def value(self, depth: int) -> Value:
        """One value; an object or array in it has the level depth."""
        first = self.data[self.pos:self.pos + 1]
        if first == b"{":
            return self.object(depth)
        if first == b"[":
            return self.array(depth)
        if first == b'"':
            return self.string()
        if self.take(b"true"):
            return True
        if self.take(b"false"):
            return False
        if self.take(b"null"):
            self.fail("null")
        return self.number()

    def object(self, depth: int) -> Dict[str, Value]:
        """An object: members with strict names, none twice, at most 64."""
        self.enter(depth, b"{")
        members: Dict[str, Value] = {}
        if self.take(b"}"):
            return members
        while True:
            name = self.name()
            if name in members:
                self.fail("a member stands twice")
            if len(members) == MAX_MEMBERS:
                self.fail("too many members")
            members[name] = self.value(depth + 1)
            if self.take(b"}"):
                return members
            if not self.take(b","):
                self.fail("no comma or closing brace")

    def array(self, depth: int) -> List[Value]:
        """An array; only the size of the message bounds its length."""
        self.enter(depth, b"[")
        items: List[Value] = []
        if self.take(b"]"):
            return items
        while True:
            items.append(self.value(depth + 1))
            if self.take(b"]"):
                return items
            if not self.take(b","):
                self.fail("no comma or closing bracket")

    def enter(self, depth: int, bracket: bytes) -> None:
        """One level down."""
        if depth > MAX_DEPTH:
            self.fail("too deep")
        self.take(bracket)

    def name(self) -> str:
        """The name of a member, written without escapes, and its colon."""
        match = _NAME.match(self.data, self.pos)
        if not match:
            self.fail("no strict member name")
        self.pos = match.end()
        return match.group(1).decode("ascii")

    def string(self) -> str:
        """A string: valid UTF-8, no control character, no \\u0000, no lone surrogate."""
        match = _STRING.match(self.data, self.pos)
        if not match:
            self.fail("no string")
        try:
            text = match.group(1).decode("utf-8")
        except UnicodeDecodeError:
            self.fail("no valid UTF-8")
        text = _PAIR.sub(_join, _ESCAPE.sub(_unescape, text))
        if "\x00" in text:
            self.fail("an escaped zero")
        if _SURROGATE.search(text):
            self.fail("a lone surrogate")
        self.pos = match.end()
        return text

    def number(self) -> Number:
        """A number by the grammar of RFC 8259, kept as it is spelt."""
        match = _NUMBER.match(self.data, self.pos)
        if not match:
            self.fail("no value")
        self.pos = match.end()
        return Number(match.group().decode("ascii"))


def _unescape(match: "re.Match[str]") -> str:
    """The character that an escape stands for; half of a pair stays half for now."""
    return chr(int(match.group(1), 16)) if match.group(1) else _SHORT[match.group(2)]


def _join(match: "re.Match[str]") -> str:
    """The character that a pair of escaped surrogates stands for."""
    high, low = ord(match.group(1)), ord(match.group(2))
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
