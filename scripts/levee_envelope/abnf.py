"""ABNF (RFC 5234, with the case-sensitive strings of RFC 7405), as far as section 2 needs it: a matcher for whole grammars.

What a rule's comment says as `at most N`, `at most N characters` or `not "X"` binds as well (section 1).
"""
import re
from typing import Callable, Dict, FrozenSet, List, Optional, Set, Tuple

# Where what is matched from a position may end.
Matcher = Callable[[bytes, int], Set[int]]
Bound = Callable[[bytes], bool]

CORE = """
ALPHA = %x41-5A / %x61-7A
DIGIT = %x30-39
DQUOTE = %x22
HEXDIG = DIGIT / "A" / "B" / "C" / "D" / "E" / "F"
"""
_TOKEN = re.compile(r'\s*(?:(%s)?"([^"]*)"|%x([0-9A-F]+(?:-[0-9A-F]+)?)|([A-Za-z][A-Za-z0-9-]*)|(\d*\*\d*|\d+)|([/()\[\]]))')


class AbnfError(ValueError):
    """Not the ABNF that this module reads."""


class Grammar:
    """The rules of one text."""

    def __init__(self, text: str) -> None:
        self.rules: Dict[str, Matcher] = {}
        self.bytes: Dict[str, FrozenSet[int]] = {}    # of the rules that match one byte out of a set
        lines = _lines(CORE) + _lines(text)
        if len({name for name, _, _ in lines}) != len(lines):
            raise AbnfError("a rule stands twice")
        for _ in range(2):    # the second time it is known which rules are sets of bytes
            for name, body, comment in lines:
                matcher, one = _Reader(self, body).whole()
                self.rules[name] = _bounded(matcher, _bounds(comment))
                if one is not None:
                    self.bytes[name] = one
        unknown = set(re.findall(r"[A-Za-z][A-Za-z0-9-]*", " ".join(_bare(body) for _, body, _ in lines))) - set(self.rules)
        if unknown:
            raise AbnfError("no rule is called %s" % ", ".join(sorted(unknown)))

    def ends(self, rule: str, data: bytes, pos: int = 0) -> Set[int]:
        """Where a match of the rule from pos may end."""
        return self.rules[rule](data, pos)

    def matches(self, rule: str, data: bytes) -> bool:
        """Whether the whole of data is one match of the rule."""
        return len(data) in self.ends(rule, data)


def _lines(text: str) -> List[Tuple[str, str, str]]:
    """Name, body and comment of each rule; a line that begins with white space goes on with the one before."""
    found: List[Tuple[str, str, str]] = []
    for line in text.splitlines():
        body, comment = re.fullmatch(r'((?:[^;"]|"[^"]*")*)(?:;(.*))?', line).groups()    # type: ignore[union-attr]
        head = re.match(r"([A-Za-z][A-Za-z0-9-]*)\s*=\s", body)
        if head:
            found.append((head.group(1), body[head.end():], comment or ""))
        elif body.strip() and line[0] in " \t" and found:
            name, start, earlier = found[-1]
            found[-1] = (name, start + " " + body, earlier + " " + (comment or ""))
        elif body.strip():
            raise AbnfError("not a rule: %s" % line)
    return found


def _bare(body: str) -> str:
    """A body without its strings and values, in which only names are words."""
    return re.sub(r'(?:%s)?"[^"]*"|%x[0-9A-F-]+', " ", body)


def _bounds(comment: str) -> List[Bound]:
    """What a comment demands of the text that its rule matched."""
    found: List[Bound] = []
    for number, characters in re.findall(r"at most (\d+)( characters)?", comment):
        limit = int(number)
        found.append((lambda text, n=limit: len(text) <= n) if characters else (lambda text, n=limit: int(text) <= n))
    for word in re.findall(r'not "([^"]*)"', comment):
        found.append(lambda text, other=word.encode("ascii"): text != other)
    return found


def _bounded(matcher: Matcher, bounds: List[Bound]) -> Matcher:
    """A matcher whose matches the bounds allow."""
    if not bounds:
        return matcher
    return lambda data, pos: {end for end in matcher(data, pos) if all(bound(data[pos:end]) for bound in bounds)}


Part = Tuple[Matcher, Optional[FrozenSet[int]]]


class _Reader:
    """Reads the right side of one rule. Each part is a matcher, and the set of bytes if it matches one of them."""

    def __init__(self, grammar: Grammar, body: str) -> None:
        self.grammar = grammar
        self.tokens: List[Tuple[Optional[str], ...]] = []
        pos, body = 0, body.rstrip()
        while pos < len(body):
            match = _TOKEN.match(body, pos)
            if not match:
                raise AbnfError("not ABNF: %s" % body[pos:])
            self.tokens.append(match.groups())
            pos = match.end()

    def whole(self) -> Part:
        """All of it."""
        part = self.alternation()
        if self.tokens:
            raise AbnfError("something follows: %s" % (self.tokens[0],))
        return part

    def sign(self, *signs: str) -> bool:
        """Whether one of these comes next."""
        return bool(self.tokens) and self.tokens[0][5] in signs

    def alternation(self) -> Part:
        """One of several; sets of bytes become one set."""
        parts = [self.concatenation()]
        while self.sign("/"):
            self.tokens.pop(0)
            parts.append(self.concatenation())
        if all(one is not None for _, one in parts):
            return _byte(frozenset().union(*(one for _, one in parts if one)))
        matchers = [_byte(frozenset().union(*(one for _, one in parts if one)))[0]] + [m for m, one in parts if one is None]
        return lambda data, pos: set().union(*(m(data, pos) for m in matchers)), None

    def concatenation(self) -> Part:
        """One after the other."""
        parts = []
        while self.tokens and not self.sign("/", ")", "]"):
            parts.append(self.repetition())
        if len(parts) == 1:
            return parts[0]
        matchers = [m for m, _ in parts]

        def run(data: bytes, pos: int) -> Set[int]:
            ends = {pos}
            for matcher in matchers:
                ends = set().union(*(matcher(data, end) for end in ends))
                if not ends:
                    break
            return ends
        return run, None

    def repetition(self) -> Part:
        """An element, as often as the number before it says."""
        times = self.tokens.pop(0)[4] if self.tokens[0][4] else None
        matcher, one = self.element()
        if times is None:
            return matcher, one
        low, star, high = times.partition("*")
        least = int(low or 0)
        most = (int(high) if high else None) if star else least
        return (_run(one, least, most) if one is not None else _repeat(matcher, least, most)), None

    def element(self) -> Part:
        """A string, a value, a name, a group or an option."""
        sensitive, text, value, name, _, sign = self.tokens.pop(0)
        if text is not None:
            return _string(text.encode("ascii"), bool(sensitive))
        if value is not None:
            first, _, last = value.partition("-")
            return _byte(frozenset(range(int(first, 16), int(last or first, 16) + 1)))
        if name is not None:
            one = self.grammar.bytes.get(name)
            return (_byte(one)[0], one) if one is not None else (lambda data, pos: self.grammar.rules[name](data, pos), None)
        if sign not in ("(", "["):
            raise AbnfError("an element is missing")
        matcher, one = self.alternation()
        if not self.sign(")" if sign == "(" else "]"):
            raise AbnfError("a bracket is missing")
        self.tokens.pop(0)
        return (matcher, one) if sign == "(" else (lambda data, pos: matcher(data, pos) | {pos}, None)


def _byte(allowed: FrozenSet[int]) -> Part:
    """One byte of a set."""
    return lambda data, pos: {pos + 1} if pos < len(data) and data[pos] in allowed else set(), allowed


def _string(text: bytes, sensitive: bool) -> Part:
    """A string; without %s its letters are of either case."""
    if len(text) == 1:
        return _byte(frozenset(text if sensitive else text.lower() + text.upper()))
    wanted = text if sensitive else text.lower()

    def run(data: bytes, pos: int) -> Set[int]:
        found = data[pos:pos + len(wanted)]
        return {pos + len(wanted)} if (found if sensitive else found.lower()) == wanted else set()
    return run, None


def _run(allowed: FrozenSet[int], least: int, most: Optional[int]) -> Matcher:
    """Bytes of a set."""
    def run(data: bytes, pos: int) -> Set[int]:
        limit = len(data) if most is None else min(len(data), pos + most)
        end = pos
        while end < limit and data[end] in allowed:
            end += 1
        return set(range(pos + least, end + 1))
    return run


def _repeat(matcher: Matcher, least: int, most: Optional[int]) -> Matcher:
    """Anything else, again and again."""
    def run(data: bytes, pos: int) -> Set[int]:
        found, ends, count = ({pos} if least == 0 else set()), {pos}, 0
        while ends and count != most:
            ends = set().union(*(matcher(data, end) for end in ends))
            count += 1
            if count >= least:
                ends -= found
                found |= ends
        return found
    return run
