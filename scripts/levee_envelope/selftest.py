"""Checks this implementation against section 11 and against every rule of the page by itself."""
import sys
from typing import Callable, Iterator, List, Tuple

from . import digests, grammar, keys, payload as strict, sealing, selftest_page, selftest_signed
from .encoding import b64url_decode
from .receiving import ACCEPTED, REASONS, Delivery, Receiver
from .replay import Windows
from .signing import OpensslMissing

Check = Tuple[str, bool]

KEY = bytes([0x2A]) * 32
TS = 1729697327822
TOPIC = "melb/bank_server/metrics/ram/web-1"
EXAMPLE = (b'{"v":1,"kid":"melb/sensor/web-1/1","ts":1729697327822,"nonce":"192b9fdc06e-42",'
           b'"topic":"melb/bank_server/metrics/ram/web-1",'
           b'"payload":{"timestamp":1729697327.822,"server":"web-1","ram_usage":41.5}')
# The same of an earlier boot, and one whose boot lies hours above its ts.
BODY = EXAMPLE.replace(b"192b9fdc06e", b"1929c0a7f3e")
AHEAD = EXAMPLE.replace(b"192b9fdc06e", b"192bb0264ce")
EXAMPLE_MAC = "7d485a240e37fb2e1c703a4e504b1c8f1904c7e590c7bc5800b6ebe26ce265c6"
ROLE_KEY = bytes.fromhex("74813f326f37aebf62561302afd4fa4ac999b7a081818a0cc1e17f702b6dfc9e")
SENDER_KEY = bytes.fromhex("89a76d5840e3bfa47b97476f7eae7284d7525c6790348b6573e27355beee26ad")
ACK_KEY = bytes.fromhex("b4ccf680d48a023f3783acc066a52bfb60c485d3eaf7742dce32f4000c759a81")


def run() -> int:
    """Runs all; prints what failed and a summary. The exit codes are those of the command line."""
    groups: List[Callable[[], Iterator[Check]]] = [
        _example, _payloads, _heads, _kids, _trailers, _order, _mutations, _replay, _start_and_limits, _digests,
        selftest_signed.checks, selftest_page.checks]
    count, failed, code = 0, 0, 0
    for group in groups:
        try:
            for name, passed in group():
                count += 1
                if not passed:
                    failed += 1
                    print("FAIL %s: %s" % (group.__name__.strip("_"), name))
        except OpensslMissing as err:
            print("SKIPPED the rest of %s: %s" % (group.__name__.strip("_"), err), file=sys.stderr)
            code = 4
    print("%d checks, %d failed%s" % (count, failed, ", some skipped" if code else ""))
    return 1 if failed else code


def _example() -> Iterator[Check]:
    """Section 11."""
    mac = keys.mac(KEY, EXAMPLE)
    yield "196 bytes", len(EXAMPLE) == 196 and len(keys.MAC_PREFIX) == 18
    yield "mac", b64url_decode(mac).hex() == EXAMPLE_MAC and mac == b"fUhaJA43-y4ccDpOUEscjxkEx-WQx7xYALbr4mziZcY"
    yield "role key", keys.role_key(KEY, "melb", "sensor") == ROLE_KEY
    yield "sender key", keys.sender_key(ROLE_KEY, "web-1", 1) == SENDER_KEY
    yield "acknowledgement key", keys.ack_key(SENDER_KEY) == ACK_KEY
    header = sealing.head("melb/sensor/web-1/1", TS, sealing.nonce(0x192B9FDC06E, 42), TOPIC)
    made = sealing.seal(header, EXAMPLE.split(b'"payload":')[1], SENDER_KEY)
    yield "sealed", made == message_of(EXAMPLE)
    yield "opened", judge(made) == ACCEPTED
    ahead = message_of(AHEAD)
    yield "a boot hours ahead, within the skew", judge(ahead, {"skew": 0x192BB0264CE - TS}) == ACCEPTED
    yield "a boot hours ahead, with the usual skew", judge(ahead) == "future"
    yield "opened, with an earlier boot", judge(message_of(BODY)) == ACCEPTED
    yield "tail", grammar.MAC_TAIL == 53


def message_of(body: bytes, key: bytes = SENDER_KEY) -> bytes:
    """Any body, sealed without asking whether it follows the grammar."""
    return body + b',"mac":"' + keys.mac(key, body) + b'"}'


def receiver(**changes: object) -> Receiver:
    """The receiver of most checks."""
    return Receiver(**{"site": "melb", "keys": {"sensor": ROLE_KEY}, **changes})    # type: ignore[arg-type]


def judge(raw: bytes, changes: "dict[str, object]" = {}, **delivery: object) -> str:
    """The reason for one message at a fresh receiver."""
    asked = {"raw": raw, "topic": TOPIC, "now": TS, "publisher": "melb/sensor/web-1", **delivery}
    return receiver(**changes).open(Delivery(**asked)).result    # type: ignore[arg-type]


def _payloads() -> Iterator[Check]:
    """Section 2: what a payload may and may not be."""
    for text in _good_payloads():
        yield "good %r" % text[:60], _strict(text)
    for text in _bad_payloads():
        yield "bad %r" % text[:60], not _strict(text)
    yield "value", strict.parse(b'{"a":"\\ud83d\\ude00\\n","b":[1,true]}') == {"a": "\U0001F600\n", "b": ["1", True]}


def _strict(data: bytes) -> bool:
    """Whether data is a strict payload."""
    try:
        strict.parse(data)
    except strict.PayloadError:
        return False
    return True


def _members(count: int) -> bytes:
    """An object of so many members."""
    return b"{" + b",".join(b'"m%d":0' % i for i in range(count)) + b"}"


def _good_payloads() -> List[bytes]:
    """Payloads at the inner side of every limit."""
    numbers = [b"0", b"-0", b"1", b"-1.5", b"1e5", b"1E+5", b"0.0e-0", b"123456789012345678901234567890"]
    strings = [b"", b" ", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\xf4\x8f\xbf\xbf", b"\xed\x9f\xbf", b"\xee\x80\x80", b"\x7f", b"/",
               b"\\/", b'\\"\\\\\\b\\f\\n\\r\\t', b"\\u0001", b"\\u001F", b"\\ud83d\\ude00", b"\\uD83D\\uDE00", b"\\\\u0000",
               b"\\\\ud800"]
    return ([b"{}", b'{"a":{},"b":[]}', b'{"%s":0}' % (b"a" * 32), b'{"_":0,"0":1}', b'{"a":{"a":0},"b":{"a":0}}', _members(64),
             b'{"a":' + b"[" * 7 + b"]" * 7 + b"}", b'{"a":' * 8 + b"0" + b"}" * 8, b'{"a":[%s]}' % b",".join([b"0"] * 100)]
            + [b'{"a":%s}' % n for n in numbers] + [b'{"a":"%s"}' % s for s in strings])


def _bad_payloads() -> List[bytes]:
    """One fault each."""
    whole = [b"", b"{", b"[]", b"0", b'"a"', b"{} ", b" {}", b"{}\n", b"{}{}", b"\xef\xbb\xbf{}", b'{"a":1', b'{"a":1,}', b"{,}",
             b'{"a"}',
             b'{"a":}', b'{"a" :1}', b'{"a": 1}', b'{ "a":1}', b'{"a":1 }', b'{"a":1, "b":2}', b'{"a":1,\n"b":2}', b"{a:1}",
             b"{'a':1}", b'{"a":1;"b":2}', b'{"a":1}}', b'{"a":[1}', b'{"a":{1]}']
    names = [b'{"":0}', b'{"A":0}', b'{"a-b":0}', b'{"a.b":0}', b'{"\xc3\xa9":0}', b'{"%s":0}' % (b"a" * 33), b'{"\\u0061":0}',
             b'{"a\x00":0}', b'{"a":0,"a":0}', b'{"b":{"a":0,"a":1}}', b'{"b":[{"a":0,"c":1,"a":0}]}']
    limits = [_members(65), b'{"a":%s}' % _members(65), b'{"a":' * 9 + b"0" + b"}" * 9, b'{"a":' + b"[" * 8 + b"]" * 8 + b"}"]
    values = [b"null", b"[null]", b"[1,]", b"[,1]", b"[1 ,2]", b"[ ]", b"{ }", b"True", b"truex", b"NaN", b"Infinity",
              b"-Infinity", b"01",
              b"-", b"+1", b".5", b"1.", b"1e", b"1e+", b"0x1", b"1_0", b"--1", b"-01", b"1/**/", b"undefined"]
    strings = [b"\x00", b"\x1f", b"\n", b"\t", b"\\u0000", b"a\\u0000b", b"\\x41", b"\\'", b"\\", b"\\u12", b"\\u12g4",
               b"\\U0041",
               b"\\ud800", b"\\udc00", b"\\ude00\\ud83d", b"\\ud83dx\\ude00", b"\\ud83d\\ud83d\\ude00", b"\\ud83d\\n", b"\x80",
               b"\xc3", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xed\xb0\x80", b"\xed\xa0\xbd\xed\xb8\x80",
               b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xff", b"\xfe", b'"']
    return (whole + names + limits + [b'{"a":%s}' % v for v in values] + [b'{"a":"%s"}' % s for s in strings] + [b'{"a":"b}'])


def _heads() -> Iterator[Check]:
    """Section 2: every rule of the head behind kid, each fault under a MAC that matches."""
    long_topic = "/".join(["melb"] + ["a" * 32] * 5 + ["b" * 30])
    yield "topic of 200", len(long_topic) == 200 and judge(
        message_of(BODY.replace(TOPIC.encode(), long_topic.encode())), topic=long_topic) == ACCEPTED
    good = [(b"3e-42", b"3e-1"), (b"3e-42", b"3e-18446744073709551615")]
    bad = [(b'"ts":1', b'"ts":01'), (b'"ts":1', b'"ts":+1'), (b'"ts":1729697327822', b'"ts":-1'),
           (b'"ts":1729697327822', b'"ts":1e3'),
           (b'"ts":1729697327822', b'"ts":9007199254740992'), (b'"ts":1729697327822', b'"ts":"1729697327822"'),
           (b'"ts":', b'"ts": '),
           (b'"ts":1729697327822', b'"ts":17296973278220000'), (b'"ts":1729697327822', b'"ts":'), (b',"ts"', b', "ts"'),
           (b'"ts"', b'"Ts"'),
           (b"1929c0a7f3e-", b"1929C0A7F3E-"), (b"1929c0a7f3e-", b"1929c0a7f3-"), (b"1929c0a7f3e-", b"1929c0a7f3ea-"),
           (b"1929c0a7f3e-", b"00000000000-"), (b"1929c0a7f3e-", b"1929c0a7f3g-"), (b"3e-42", b"3e-0"), (b"3e-42", b"3e-042"),
           (b"3e-42", b"3e-"), (b"3e-42", b"3e-+42"), (b"3e-42", b"3e-18446744073709551616"), (b"3e-42", b"3e42"),
           (b"3e-42", b"3e-99999999999999999999"), (b"3e-42", b"3e-999999999999999999999"), (b"ram/", b"RAM/"),
           (b"ram/", b"ram//"),
           (b"ram/", b"+/"), (b"ram/", b"#/"), (b"ram/", b"r.m/"), (b"ram/", b"r\\u0061m/"), (b'"melb/b', b'"/melb/b'),
           (b'/ram/web-1"', b'/ram/"'), (b"ram/", b"a" * 33 + b"/"), (b"ram/web-1", b"a/b/c/d/e/f"), (b"ram/", b"r\xc3\xa4m/"),
           (b',"payload"', b',"extra":1,"payload"'),
           (b',"payload"', b',"Payload"'), (b',"payload":', b',"payload" :'), (b',"payload":', b',"chain":"","payload":'),
           (b',"payload":', b',"chain":"AAAA","payload":'), (TOPIC.encode(), long_topic.encode() + b"b")]
    for old, new in good:
        yield "good %r" % new, judge(message_of(BODY.replace(old, new, 1))) == ACCEPTED
    for old, new in bad:
        yield "bad %r" % new, BODY.count(old) > 0 and judge(message_of(BODY.replace(old, new, 1))) == "grammar"
    swapped = BODY.replace(b'"ts":1729697327822,"nonce":"1929c0a7f3e-42"', b'"nonce":"1929c0a7f3e-42","ts":1729697327822')
    yield "members in another order", judge(message_of(swapped)) == "grammar"


def _kids() -> Iterator[Check]:
    """Check 2: kid at its place, and its grammar."""
    old = b"melb/sensor/web-1/1"
    good = [b"melb/sensor/a/1", b"melb/sensor/" + b"a" * 24 + b"/1", b"melb/sensor/a--b/4294967295", b"melb/sensor/9/1"]
    bad = [b"", b"melb", b"melb/sensor/web-1", b"melb/sensor/web-1/1/1", b"melb/sensor/web-1/0", b"melb/sensor/web-1/01",
           b"melb/sensor/web-1/4294967296", b"melb/sensor/web-1/99999999999", b"melb/sensor/web-1/-1", b"melb/sensor/web-1/",
           b"melb/sensor/-web/1", b"melb/sensor/web-/1", b"melb/sensor//1", b"melb/sensor/" + b"a" * 25 + b"/1",
           b"Melb/sensor/a/1",
           b"melb/sen_sor/a/1", b"melb/sensor/a\n/1", b"melb/sensor/\xc3\xa9/1", b"public/sensor/a/1", b"ops/sensor/a/1",
           b"melb\\/sensor/a/1"]
    for kid in good:
        yield "good %r" % kid, grammar.read_kid(BODY.replace(old, kid))[0].sender.encode() + b"/" in kid
    for kid in bad:
        yield "bad %r" % kid, judge(message_of(BODY.replace(old, kid))) == "kid"
    for start in (b"", b'{"v":2,"k', b'{"v":"1","k', b'{"k', b' {"v":1,"k', b'\xef\xbb\xbf{"v":1,"k', b'{"v":1, "k',
                  b'{"V":1,"k'):
        yield "start %r" % start, judge(message_of(start + BODY[len(b'{"v":1,"k'):])) == "kid"


def _trailers() -> Iterator[Check]:
    """The end of a message, for a receiver with the key and for one without."""
    whole = message_of(BODY)
    people: "dict[str, object]" = {"keys": {}}
    sig = b',"sig":"' + b"A" * 86 + b'"'
    yield "people", judge(whole, people) == ACCEPTED
    for name, raw in [("newline", whole + b"\n"), ("cut", whole[:-1]), ("no mac", BODY + b"}"), ("twice", whole + whole[-53:]),
                      ("spelling", whole[:-3] + b'V"}'), ("padding", whole[:-2] + b'="}'),
                      ("white space", whole.replace(b',"mac', b', "mac'))]:
        yield name, judge(raw) == "mac"
        yield name + ", people", judge(raw, people) in ("grammar", "payload")
    yield "spelling of the mac", judge(whole[:-3] + b'V"}', people) == "grammar"
    yield "sig without chain", judge(message_of(BODY + sig)) == "payload"
    chained = BODY.replace(b',"payload"', b',"chain":"%s","payload"')
    yield "chain without sig", judge(message_of(chained % b"AAAA")) == "grammar"
    yield "spelling of the chain", judge(message_of(chained % b"AB" + sig)) == "grammar"
    yield "length of the chain", judge(message_of(chained % b"AAAAA" + sig)) == "grammar"
    yield "padded chain", judge(message_of(chained % b"AA==" + sig)) == "grammar"
    yield "spelling of the sig", judge(message_of(chained % b"AAAA" + sig[:-2] + b'B"')) == "grammar"
    yield "short sig", judge(message_of(chained % b"AAAA" + sig[:-2] + b'"')) == "grammar"
    yield "chain of no certificates", judge(message_of(chained % b"AAAA" + sig), {"root": b"0"}) == "signature"
    yield "no root", judge(message_of(chained % b"AAAA" + sig)) == "signature"


def _order() -> Iterator[Check]:
    """Section 7: each reason, and what comes first where a message has two faults."""
    whole, other = message_of(BODY), message_of(BODY, KEY)
    bad_payload, early = message_of(BODY.replace(b"41.5", b"null")), {"now": TS + 30001}
    yield "size", judge(whole, max_bytes=len(whole) - 1) == "size" and judge(whole, max_bytes=len(whole)) == ACCEPTED
    yield "size before kid", judge(b"x" * 5, max_bytes=4) == "size"
    yield "kid before mac", judge(other.replace(b"melb/s", b"Melb/s", 1)) == "kid"
    yield "role", judge(whole, {"keys": {"gateway": ROLE_KEY}}) == "unknown_key"
    yield "site", judge(whole, {"site": "perth"}, topic="perth/x") == "unknown_key"
    yield "mac before grammar", judge(message_of(BODY.replace(b'"ts":1', b'"ts":01'), KEY)) == "mac"
    yield "payload before topic", judge(bad_payload, topic="melb/x") == "payload"
    yield "topic", judge(whole, topic="melb/bank_server/metrics/ram/web-2") == "topic"
    yield "topic of another site", judge(whole, {"site": "perth", "keys": {}}) == "topic"
    yield "topic of nobody before size", judge(b"x", publisher="") == "topic"
    yield "topic of another site before size", judge(b"x", topic="perth/x") == "topic"
    yield "a publisher that is none", judge(whole, publisher="web-1") in ("sender", "unknown_key")
    yield "topic before sender", judge(whole, topic="melb/x", publisher="melb/sensor/web-2") == "topic"
    yield "sender", judge(whole, publisher="melb/sensor/web-2") == "sender"
    yield "sender before generation", judge(whole, {"minimum": {"melb/sensor/web-1": 2}}, publisher="a/b/c") == "sender"
    yield "generation", judge(whole, {"minimum": {"melb/sensor/web-1": 2}}) == "unknown_key"
    yield "unsigned before stale", judge(whole, must_be_signed=True, **early) == "unsigned"
    yield "stale", judge(whole, **early) == "stale" and judge(whole, now=TS + 30000) == ACCEPTED
    yield "future", judge(whole, now=TS - 30001) == "future" and judge(whole, now=TS - 30000) == ACCEPTED
    for boot, reason in ((TS + 30000, ACCEPTED), (TS + 30001, "future")):
        yield "boot %s" % reason, judge(message_of(BODY.replace(b"1929c0a7f3e", b"%011x" % boot))) == reason
    yield "stale before before_start", judge(whole, {"start": TS}, **early) == "stale"
    yield "content", judge(whole, {"content": lambda envelope, value: False}) == "content"


def _mutations() -> Iterator[Check]:
    """No prefix and no message with one other byte is accepted, and none goes without a reason."""
    whole = message_of(BODY)
    people: "dict[str, object]" = {"keys": {}}
    yield "prefixes", all(judge(whole[:n]) in REASONS and judge(whole[:n], people) in REASONS for n in range(len(whole)))
    changed = [whole[:i] + bytes([whole[i] ^ bit]) + whole[i + 1:] for i in range(len(whole)) for bit in (1, 32, 128)]
    yield "one bit", all(judge(raw) in REASONS for raw in changed)
    yield "one bit, people", all(judge(raw, people) in REASONS + (ACCEPTED,) for raw in changed)


def _replay() -> Iterator[Check]:
    """Section 9, as a story of one sender."""
    windows = Windows()
    story = [
        (5, 2000, 100, b"a", None), (5, 2000, 100, b"a", "redelivered"), (5, 2000, 100, b"b", "nonce_collision"),
        (5, 1937, 100, b"c", None), (5, 1937, 100, b"c", "redelivered"), (5, 1936, 100, b"d", None),
             (5, 1936, 100, b"d", "replayed"),
        (5, 977, 100, b"e", None), (5, 977, 100, b"e", "replayed"), (5, 976, 100, b"f", "replayed"), (5, 2001, 100, b"g", None),
        (5, 977, 100, b"e", "replayed"), (5, 978, 100, b"h", None), (5, 1937, 100, b"c", "replayed"), (5, 1938, 100, b"i", None),
        (7, 1, 200, b"j", None), (7, 1, 200, b"j", "redelivered"), (5, 3000, 200, b"k", "replayed"),
             (5, 3001, 201, b"l", "cloned"),
        (7, 5000, 220, b"m", None), (7, 1, 200, b"j", "replayed"), (5, 3001, 201, b"l", "cloned"), (6, 1, 199, b"n", "replayed"),
        (7, 2**64 - 1, 230, b"o", None), (7, 2**64 - 1, 230, b"o", "redelivered"), (8, 900, 231, b"p", None),
    ]
    for number, (boot, seq, ts, tag, wanted) in enumerate(story):
        yield "step %d" % number, windows.admit(("melb/sensor/a", True, False), boot, seq, ts, tag * 43, 250) == wanted
    yield "another sender", windows.admit(("melb/sensor/b", True, False), 5, 1, 100, b"a" * 43, 250) is None
    yield "unproven", windows.admit(("melb/sensor/b", False, False), 5, 1, 100, b"a" * 43, 250) is None
    yield "backfill", windows.admit(("melb/sensor/b", True, True), 5, 1, 100, b"a" * 43, 250) is None
    one, whole = receiver(), message_of(BODY)
    twice = [one.open(Delivery(whole, TOPIC, now, "melb/sensor/web-1")).result for now in (TS, TS + 1, TS + 30001)]
    yield "receiver", twice == [ACCEPTED, "redelivered", "stale"]


def _start_and_limits() -> Iterator[Check]:
    """Section 9: the start of the windows, and no more senders than fit."""
    windows = Windows(start=1000, skew=10, limit=1)
    yield "before start", windows.admit(("a/b/c", True, False), 5, 1, 1009, b"", 1010) == "before_start"
    yield "at start", windows.admit(("a/b/c", True, False), 5, 1, 1010, b"", 1010) is None
    yield "full", windows.admit(("a/b/d", True, False), 5, 1, 1020, b"", 1020) == "windows_full"
    yield "forgotten", windows.admit(("a/b/d", True, False), 5, 1, 1021, b"", 1021) is None


def _digest(*changes: Tuple[bytes, bytes], nonce: Tuple[int, int] = (0x1929C0A7F3E, 2**64 - 1)) -> digests.Digest:
    """A digest over 38 to 41 that declares 40 dropped, with changes."""
    text = (b'{"timestamp":1729697327.822,"boot":"1929c0a7f3e","first":38,"last":41,'
            b'"dropped":[["1929c0a7f3e",40,40]],"hash":"%s"}'
            % digests.make_hash([b"m38", b"m39", b"m41"]).encode())
    for old, new in changes:
        text = text.replace(old, new, 1)
    return digests.read(strict.parse(text), nonce)


def _digests() -> Iterator[Check]:
    """Section 8."""
    digest, boot = _digest(), "1929c0a7f3e"
    seen = {(boot, n): b"m%d" % n for n in (38, 39, 41)}
    yield "confirmed", digests.check(digest, seen) == digests.Verdict("confirmed", (), ())
    yield "contradicted", digests.check(digest, {**seen, (boot, 39): b"x"}).status == "contradicted"
    without = {k: v for k, v in seen.items() if k[1] != 39}
    yield "incomplete", digests.check(digest, without) == digests.Verdict("incomplete", (39,), ())
    yield "disowned", digests.check(digest, {**seen, (boot, 40): b"m40"}) == digests.Verdict("disowned", (), (40,))
    yield "follows", digests.follows(digest, _digest((b":38", b":42"), (b":41", b":42"))) and not digests.follows(digest, digest)
    ranges = b",".join(b'["1929c0a7f3d",%d,%d]' % (n, n) for n in range(1, 513))
    yield "512 ranges", len(_digest((b'["1929c0a7f3e",40,40]', ranges)).dropped) == 512
    yield "16384 numbers", _digest((b":41", b":16421")).last == 16421
    entry, another = b'["1929c0a7f3e",40,40]', b',["1929c0a7f3e",40,40]'
    yield "nothing dropped", _digest((entry, b"")).dropped == ()
    for old, new in [(entry, ranges + another), (b":41", b":16422"), (b":41", b":37"), (b":38", b":0"), (b":38", b":-1"),
                     (b":38", b":38.0"), (b":38", b':"38"'), (b"40,40", b"41,40"), (b"40,40", b"40"), (b"1929", b"192"),
                     (b'"1929c0a7f3e"', b"19290000000"), (b'"dropped":[["1929c0a7f3e",40,40]],', b""), (b"timestamp", b"times"),
                     (b'"dropped":[', b'"x":1,"dropped":[')]:
        yield "malformed %r" % new[:40], _malformed((old, new))
    boot_of_it = 0x1929C0A7F3E
    yield "its own number", not _malformed(nonce=(boot_of_it, 42)) and _malformed(nonce=(boot_of_it, 41))
    yield "its own boot", _malformed(nonce=(boot_of_it + 1, 42)) and _malformed(nonce=(boot_of_it - 1, 42))
    for text in (b"1e400", b"-1e400", b"1e999999999999", b"1.7976931348623159e308"):
        yield "timestamp %r" % text, _malformed((b"1729697327.822", text))
    for text in (b"1e-400", b"0e999999999999", b"1.7976931348623158e308"):
        yield "timestamp %r" % text, not _malformed((b"1729697327.822", text))


def _malformed(*changes: Tuple[bytes, bytes], **nonce: Tuple[int, int]) -> bool:
    """Whether a digest with these changes is malformed."""
    try:
        _digest(*changes, **nonce)
    except digests.Malformed:
        return True
    return False
