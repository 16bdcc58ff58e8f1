"""Section 4: what a receiver reads out of certificates itself: the key, the names, the URIs and the validity.

openssl judges the path.
"""
import calendar
import hashlib
import re
import time
from dataclasses import dataclass
from typing import List, Optional, Tuple

from .encoding import b64url

UTC_TIME, GENERALIZED_TIME = 0x17, 0x18
SEQUENCE, OID, OCTETS, EXPLICIT_0, EXPLICIT_3, URI = 0x30, 0x06, 0x04, 0xA0, 0xA3, 0x86
SUBJECT_ALT_NAME = bytes.fromhex("551d11")
ED25519_KEY = bytes.fromhex("302a300506032b6570032100")
P256_KEY = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_NAME = r"([a-z0-9](?:[a-z0-9-]{0,22}[a-z0-9])?)"
_HOST = r"spiffe://(ops\.)?%s\.([a-z0-9]+(?:[.-][a-z0-9]+)*)" % _NAME
_IDENTITY = re.compile(r"%s/%s/%s" % (_HOST, _NAME, _NAME))
_AUTHORITY = re.compile(_HOST)
MACHINES = {"broker", "sensor", "monitor", "controller", "approver", "issuer", "recorder", "console", "guest"}
PEOPLE = {"operator", "viewer", "auditor"}
MAX_ELEMENTS = 128    # extensions of a certificate, alternative names of a leaf


class CertificateError(ValueError):
    """Not the certificates that section 4 speaks of."""


@dataclass(frozen=True)
class Element:
    """A DER element: where it starts and ends, and where its content starts."""

    tag: int
    start: int
    content: int
    end: int


@dataclass(frozen=True)
class Certificate:
    """The parts of a certificate that the envelope needs."""

    der: bytes
    issuer: bytes
    subject: bytes
    key: bytes             # SubjectPublicKeyInfo
    uris: Tuple[str, ...]
    not_before: int        # ms since the epoch
    not_after: int

    def valid_at(self, ts: int) -> bool:
        """Both ends are included, and both are whole seconds."""
        return self.not_before <= ts <= self.not_after

    @property
    def pin(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, as pins are written."""
        return b64url(hashlib.sha256(self.key).digest()).decode("ascii")

    @property
    def algorithm(self) -> str:
        """Which signature follows from the key."""
        if self.key.startswith(ED25519_KEY) and len(self.key) == len(ED25519_KEY) + 32:
            return "Ed25519"
        if self.key.startswith(P256_KEY) and len(self.key) == len(P256_KEY) + 64:
            return "P-256"
        raise CertificateError("neither an Ed25519 nor a P-256 key")

    def identity(self, trust_domain: Optional[str]) -> str:
        """site/role/name out of the one URI of a machine or a person; None allows any trust domain."""
        match = _IDENTITY.fullmatch(self.uris[0]) if len(self.uris) == 1 else None
        if not match or trust_domain not in (None, match.group(3)):
            raise CertificateError("the certificate names no identity, or more than one")
        if match.group(4) not in (PEOPLE if match.group(1) else MACHINES):
            raise CertificateError("a role of the other class, or none")
        return "/".join(match.group(2, 4, 5))

    def authority(self, trust_domain: Optional[str]) -> str:
        """site/ca/people out of the one URI of a people's authority (section 5)."""
        match = _AUTHORITY.fullmatch(self.uris[0]) if len(self.uris) == 1 else None
        if not match or not match.group(1) or trust_domain not in (None, match.group(3)):
            raise CertificateError("not a people's authority")
        return match.group(2) + "/ca/people"


def split_chain(chain: bytes) -> Tuple[Certificate, Certificate]:
    """Leaf and issuer; nothing may follow them."""
    leaf = _element(chain, 0, len(chain), SEQUENCE)
    issuer = _element(chain, leaf.end, len(chain), SEQUENCE)
    if issuer.end != len(chain):
        raise CertificateError("something follows the issuer")
    return read_certificate(chain[:leaf.end]), read_certificate(chain[leaf.end:])


def read_certificate(der: bytes) -> Certificate:
    """The certificate's parts (RFC 5280, section 4.1)."""
    whole = _element(der, 0, len(der), SEQUENCE)
    body = _element(der, whole.content, whole.end, SEQUENCE)
    parts = _elements(der, body)
    if whole.end != len(der) or len(parts) < 7 or parts[0].tag != EXPLICIT_0:
        raise CertificateError("not an X.509 certificate of version 3")
    issuer, validity, subject, key = (parts[i] for i in (3, 4, 5, 6))
    if any(part.tag != SEQUENCE for part in (issuer, validity, subject, key)):
        raise CertificateError("not an X.509 certificate")
    times = _elements(der, validity)
    if len(times) != 2:
        raise CertificateError("not a validity")
    return Certificate(der, der[issuer.start:issuer.end], der[subject.start:subject.end], der[key.start:key.end],
                       tuple(_uris(der, parts[7:])), *(_time(part.tag, der[part.content:part.end]) for part in times))


def _uris(der: bytes, parts: List[Element]) -> List[str]:
    """The URIs among the subject's alternative names."""
    found: List[str] = []
    for wrapper in (part for part in parts if part.tag == EXPLICIT_3):
        for extension in _elements(der, _element(der, wrapper.content, wrapper.end, SEQUENCE)):
            members = _elements(der, extension)
            if len(members) < 2 or members[0].tag != OID or members[-1].tag != OCTETS:
                raise CertificateError("not an extension")
            if der[members[0].content:members[0].end] == SUBJECT_ALT_NAME:
                names = _element(der, members[-1].content, members[-1].end, SEQUENCE)
                found += [_ascii(der[n.content:n.end]) for n in _elements(der, names) if n.tag == URI]
    return found


def _time(tag: int, data: bytes) -> int:
    """A time as RFC 5280, section 4.1.2.5, writes it, in ms since the epoch."""
    text = _ascii(data)
    if tag == UTC_TIME and re.fullmatch("[0-9]{12}Z", text):
        text = ("19" if text[0] >= "5" else "20") + text
    elif tag != GENERALIZED_TIME or not re.fullmatch("[0-9]{14}Z", text):
        raise CertificateError("not a time")
    try:
        return calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")) * 1000
    except ValueError as err:
        raise CertificateError("not a time") from err


def _ascii(data: bytes) -> str:
    """An IA5String."""
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as err:
        raise CertificateError("a URI that is not ASCII") from err


def _elements(der: bytes, outer: Element) -> List[Element]:
    """The elements inside a constructed one."""
    found: List[Element] = []
    pos = outer.content
    while pos < outer.end:
        if len(found) == MAX_ELEMENTS:
            raise CertificateError("too many elements")
        found.append(_element(der, pos, outer.end))
        pos = found[-1].end
    return found


def _element(der: bytes, pos: int, end: int, tag: int = -1) -> Element:
    """One element at pos that ends by end; of the given tag, if one is given."""
    if pos + 2 > end:
        raise CertificateError("DER ends too soon")
    length, content = der[pos + 1], pos + 2
    if length & 0x80:
        count = length & 0x7F
        digits = der[content:content + count]
        length, content = int.from_bytes(digits, "big"), content + count
        if not 1 <= count <= 3 or content > end or digits[0] == 0 or length < 0x80:
            raise CertificateError("not the length of DER")
    if content + length > end or der[pos] & 0x1F == 0x1F or tag not in (-1, der[pos]):
        raise CertificateError("not the DER that was expected")
    return Element(der[pos], pos, content, content + length)
