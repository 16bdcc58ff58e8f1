"""Section 6: keys, each derived from its parent by HKDF-SHA256; section 3: the MAC made with them."""
import hashlib
import hmac

from .encoding import b64url
from .grammar import Kid

KEY_BYTES = 32
SALT = b"levee/v1"
MAC_PREFIX = b"levee/envelope/v1\x00"


def derive(parent: bytes, label: str, *fields: str) -> bytes:
    """One step of section 6. One block of HKDF-Expand is all that 32 bytes need."""
    if len(parent) != KEY_BYTES:
        raise ValueError("a key is 32 bytes")
    info = label.encode("ascii") + b"\x00"
    for field in fields:
        data = field.encode("ascii")
        info += bytes([len(data)]) + data
    extracted = hmac.new(SALT, parent, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def role_key(site_key: bytes, site: str, role: str) -> bytes:
    """The key of a role of a site."""
    return derive(site_key, "role", site, role)


def sender_key(role: bytes, name: str, generation: int) -> bytes:
    """The key of one generation of a sender."""
    return derive(role, "sender", name, str(generation))


def ack_key(receiving_sender: bytes) -> bytes:
    """The key of acknowledgements to a sender."""
    return derive(receiving_sender, "ack")


def key_for(site_key: bytes, kid: Kid) -> bytes:
    """From the site key all the way to the key that kid names."""
    return sender_key(role_key(site_key, kid.site, kid.role), kid.name, kid.generation)


def mac(key: bytes, covered: bytes) -> bytes:
    """The 43 characters of the MAC (section 3); covered is every byte before ,"mac":"."""
    if len(key) != KEY_BYTES:
        raise ValueError("a key is 32 bytes")
    return b64url(hmac.new(key, MAC_PREFIX + covered, hashlib.sha256).digest())


def mac_matches(key: bytes, covered: bytes, characters: bytes) -> bool:
    """Compares the 43 encoded characters in constant time (section 7, check 4)."""
    return hmac.compare_digest(mac(key, covered), characters)
