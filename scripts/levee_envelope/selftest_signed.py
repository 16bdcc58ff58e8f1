"""Checks of sections 4 and 5 with certificates made for the purpose, by the openssl command, in a directory of their own."""
import hashlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Iterator, List, Tuple

from . import keys, sealing, signing, statement
from .certs import CertificateError, read_certificate, split_chain
from .encoding import b64url
from .grammar import Kid
from .receiving import ACCEPTED, Delivery, Receiver
from .signing import P256_ORDER, OpensslMissing

Check = Tuple[str, bool]
SITE_KEY = bytes(range(32))
TOPIC = "melb/bank_server/alerts/m1"
CA = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n"
LEAF = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nauthorityKeyIdentifier=keyid\n"


class _Authority:
    """A directory in which openssl makes keys and certificates."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)

    def call(self, *arguments: str) -> None:
        """Runs openssl there; it must succeed."""
        command = shutil.which("openssl")
        if command is None:
            raise OpensslMissing("no openssl command on the path")
        done = subprocess.run([command, *arguments], cwd=self.directory, capture_output=True, check=False,
                              timeout=signing.TIME_LIMIT)
        if done.returncode:
            raise OpensslMissing("openssl %s: %s" % (arguments[0], done.stderr.decode("utf-8", "replace")))

    def make(self, name: str, extensions: str, issuer: str = "", algorithm: str = "ed25519", uris: Tuple[str, ...] = ()) -> bytes:
        """A certificate of a new key, DER; self-signed without an issuer."""
        if uris:
            extensions += "subjectAltName=" + ",".join("URI:" + uri for uri in uris) + "\n"
        if issuer:
            extensions = extensions.replace("Identifier=hash\n", "Identifier=hash\nauthorityKeyIdentifier=keyid\n")
        Path(self.directory, name + ".cnf").write_text("[req]\ndistinguished_name=dn\n[dn]\n[v3]\n" + extensions)
        curve = ["-algorithm", "ed25519"]
        if algorithm != "ed25519":
            curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:" + algorithm]
        self.call("genpkey", *curve, "-out", name + ".key")
        config = ["-config", name + ".cnf"]
        if issuer:
            self.call("req", "-new", "-key", name + ".key", "-subj", "/CN=" + name, "-out", name + ".csr", *config)
            self.call("x509", "-req", "-in", name + ".csr", "-CA", issuer + ".pem", "-CAkey", issuer + ".key", "-set_serial", "7",
                      "-days", "2", "-extfile", name + ".cnf", "-extensions", "v3", "-out", name + ".pem")
        else:
            self.call("req", "-x509", "-new", "-key", name + ".key", "-subj", "/CN=" + name, "-days", "2", "-extensions", "v3",
                      "-out", name + ".pem", *config)
        self.call("x509", "-in", name + ".pem", "-outform", "DER", "-out", name + ".der")
        return Path(self.directory, name + ".der").read_bytes()

    def signer(self, name: str, chain: bytes) -> sealing.Signer:
        """Who signs with the key of that name."""
        return sealing.Signer(Path(self.directory, name + ".key").read_bytes(), chain)


def checks() -> Iterator[Check]:
    """All checks that need openssl."""
    with tempfile.TemporaryDirectory() as directory:
        authority = _Authority(directory)
        root = authority.make("root", CA)
        issuer = authority.make("issuer", CA, "root")
        for algorithm in ("ed25519", "P-256"):
            yield from _signed(authority, root, issuer, algorithm)
        yield from _paths(authority, root, issuer)
        yield from _statements(authority, root)
    yield from _signature_form()


def _now() -> int:
    """The certificates are valid from now."""
    return int(time.time() * 1000) + 1000


def _message(signer: sealing.Signer, kid: str = "melb/monitor/m1/1", ts: int = 0) -> bytes:
    """A signed message of now."""
    ts = ts or _now()
    header = sealing.head(kid, ts, sealing.nonce(min(ts, 2**44 - 1), 1), TOPIC)
    site, role, name, generation = kid.split("/")
    key = keys.sender_key(keys.role_key(SITE_KEY, site, role), name, int(generation))
    return sealing.seal(header, b'{"a":1}', key, signer)


def _judge(raw: bytes, root: bytes, pin: str, publisher: str = "melb/monitor/m1", now: int = 0) -> str:
    """The reason at a receiver that holds the monitors' key and one pin."""
    held = {"monitor": keys.role_key(SITE_KEY, "melb", "monitor")}
    receiver = Receiver("melb", held, root, {"melb/monitor/m1": pin} if pin else {}, trust_domain="bank.example")
    return receiver.open(Delivery(raw, TOPIC, now or _now(), publisher, must_be_signed=True)).result


def _signed(authority: _Authority, root: bytes, issuer: bytes, algorithm: str) -> Iterator[Check]:
    """A good message, and one fault at a time."""
    leaf = authority.make("m1", LEAF, "issuer", algorithm, ("spiffe://melb.bank.example/monitor/m1",))
    signer = authority.signer("m1", leaf + issuer)
    pin, raw = read_certificate(leaf).pin, _message(signer)
    yield algorithm, _judge(raw, root, pin) == ACCEPTED
    yield "wrong pin, " + algorithm, _judge(raw, root, "A" * 43) == "pin"
    yield "a monitor without a pin, " + algorithm, _judge(raw, root, "") == "pin"
    yield "another root, " + algorithm, _judge(raw, authority.make("other", CA), pin) == "signature"
    yield "not yet valid, " + algorithm, _judge(_message(signer, ts=10**12), root, pin, now=10**12) == "signature"
    yield "another name, " + algorithm, _judge(_message(signer, "melb/monitor/m2/1"), root, pin, "melb/monitor/m2") == "sender"
    yield "no such date, " + algorithm, _judge(_message(signer, ts=2**53 - 1), root, pin, now=2**53 - 1) == "signature"
    for name, changed in _tampered(raw):
        yield name + ", " + algorithm, _judge(changed, root, pin) == "signature"


def _tampered(raw: bytes) -> Iterator[Tuple[str, bytes]]:
    """A signed message with a fault that its MAC covers."""
    body = raw[:-53]
    key = keys.key_for(SITE_KEY, _kid())
    sig_at = len(body) - 87
    flipped = body[:sig_at] + (b"B" if body[sig_at:sig_at + 1] == b"A" else b"A") + body[sig_at + 1:]
    zero = body[:sig_at] + b"A" * 86 + b'"'
    for name, changed in [("payload", body.replace(b'"a":1', b'"a":2')), ("signature", flipped), ("all zero", zero)]:
        yield name, changed + b',"mac":"' + keys.mac(key, changed) + b'"}'


def _kid() -> Kid:
    """Whose messages are tampered with."""
    return Kid("melb", "monitor", "m1", 1)


def _paths(authority: _Authority, root: bytes, issuer: bytes) -> Iterator[Check]:
    """Chains that must not reach the root, and URIs that must not name the sender."""
    good = "spiffe://melb.bank.example/monitor/m1"
    leaf = authority.make("leaf", LEAF, "issuer", uris=(good,))
    direct = authority.make("direct", LEAF, "root", uris=(good,))
    stray = authority.make("stray", LEAF, "leaf", uris=(good,))
    stranger = authority.make("stranger", CA)
    wrong: List[Tuple[str, str, bytes]] = [
        ("issuer is missing", "leaf", leaf + root), ("a stranger as issuer", "leaf", leaf + stranger),
        ("a leaf as issuer", "stray", stray + leaf), ("directly under the root", "direct", direct + root),
        ("directly under the root, with an issuer that is not its own", "direct", direct + issuer),
        ("three certificates", "leaf", leaf + issuer + root), ("a byte too many", "leaf", leaf + issuer + b"\x00"),
        ("one certificate", "leaf", leaf), ("issuer first", "leaf", issuer + leaf)]
    for name, key, chain in wrong:
        raw = _with_chain(authority, key, leaf + issuer, chain)
        yield name, _judge(raw, root, read_certificate(leaf).pin) == "signature"
    curve = authority.make("p384", LEAF, "issuer", "P-384", (good,))
    raw = _with_chain(authority, "leaf", leaf + issuer, curve + issuer)
    yield "another curve", _judge(raw, root, read_certificate(curve).pin) == "signature"
    yield from _uris(authority, root, issuer, good)


def _with_chain(authority: _Authority, key: str, known: bytes, chain: bytes) -> bytes:
    """A message whose signature, by that Ed25519 key, covers any chain at all."""
    signer = authority.signer(key, known)
    signer.chain = chain
    return _message(signer)


def _uris(authority: _Authority, root: bytes, issuer: bytes, good: str) -> Iterator[Check]:
    """The leaf's one URI."""
    others = [good + "0", good.replace("monitor", "sensor"), good.replace("melb", "perth")]
    nobody = [good.replace(".bank.example", ""), good.replace("example", "example.org"), good.replace("spiffe", "https"),
              good + "/x"]
    lists: List[Tuple[str, ...]] = [(uri,) for uri in others + nobody] + [(), (good, good)]
    for number, uris in enumerate(lists):
        leaf = authority.make("u%d" % number, LEAF, "issuer", uris=uris)
        raw = _message(authority.signer("u%d" % number, leaf + issuer))
        reason = "sender" if number < 3 else "signature"
        yield "uris %s" % (uris,), _judge(raw, root, read_certificate(leaf).pin) == reason


def _statements(authority: _Authority, root: bytes) -> Iterator[Check]:
    """Section 5: the site document, whose leaf is the people CA and whose issuer is the root."""
    people = authority.make("people", CA, "root", uris=("spiffe://ops.melb.bank.example",))
    signer, ts = authority.signer("people", people + root), _now()

    topic = statement.topic("melb", "site")
    raw = sealing.state(sealing.head("melb/ca/people/3", ts, statement.nonce(ts), topic), b'{"id":"0"}', signer)

    def judged(changed: bytes, now: int = ts, publisher: str = "melb/ca/people", trusted: bytes = root) -> str:
        """The reason at a receiver without keys."""
        delivery = Delivery(changed, topic, now, publisher, statement=True)
        return Receiver("melb", root=trusted, trust_domain="bank.example").open(delivery).result

    yield "site document", judged(raw) == ACCEPTED
    yield "site document, years later", judged(raw, ts + 10**12) == ACCEPTED
    yield "digest", statement.digest(raw) == hashlib.sha256(b"levee/signature/v1\x00" + raw[:-96]).digest()
    yield "another generation", judged(raw.replace(b"people/3", b"people/4")) == "signature"
    yield "another sender", judged(raw, publisher="melb/ca/machines") == "sender"
    yield "another root", judged(raw, trusted=authority.make("other", CA)) == "signature"
    yield "another topic", judged(raw.replace(b"bank_server", b"bank_serves")) == "topic"
    yield "a generation on another topic", judged(raw.replace(b"/site", b"/sale")) == "grammar"
    for name, changed in [("newline", raw + b"\n"), ("no brace", raw[:-1]), ("unsigned", raw[:-96] + b"}"), ("twice", raw + b"}"),
                          ("mac", raw[:-1] + b',"mac":"' + b"A" * 43 + b'"}')]:
        yield name, judged(changed) == "grammar"


def _signature_form() -> Iterator[Check]:
    """r ‖ s: the range of both, and the lower half for s."""
    half = P256_ORDER // 2
    for r, s, good in [(1, 1, True), (P256_ORDER - 1, half, True), (0, 1, False), (1, 0, False), (P256_ORDER, 1, False),
                       (1, half + 1, False), (1, P256_ORDER - 1, False), (2**256 - 1, 1, False)]:
        yield "r %x s %x" % (r, s), _der(r, s) == good
    high = b"\x30\x26\x02\x01\x01\x02\x21\x00" + (P256_ORDER - 5).to_bytes(32, "big")
    yield "brought down", signing.ecdsa_from_der(high) == (1).to_bytes(32, "big") + (5).to_bytes(32, "big")
    for text in (b"", b"0", b"\x30\x80", b"\x30\x81", b"\x30\x84\x00\x00\x00\x01\x00", b"\x30\x81\x05aaaaa", b"\x30\x05aaa",
                 b"\x3f\x1f\x00\x00"):
        yield "DER %r" % text, _no_chain(text)
    yield "pins are base64url", len(b64url(bytes(32))) == 43


def _der(r: int, s: int) -> bool:
    """Whether r ‖ s has the form of a signature."""
    try:
        signing.ecdsa_to_der(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    except signing.SignatureError:
        return False
    return True


def _no_chain(data: bytes) -> bool:
    """Whether data is refused as a chain, and by nothing but the error that says so."""
    try:
        split_chain(data)
    except CertificateError:
        return True
    return False
