"""Section 1: base64url in its one canonical spelling."""
import base64
import binascii
import re

_ALPHABET = re.compile(rb"[A-Za-z0-9_-]+")


def b64url(data: bytes) -> bytes:
    """base64url without padding (section 1)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def b64url_decode(text: bytes) -> bytes:
    """The bytes that text spells; ValueError unless text is their one canonical spelling (section 1)."""
    if not _ALPHABET.fullmatch(text) or len(text) % 4 == 1:
        raise ValueError("not base64url")
    try:
        data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error as err:
        raise ValueError("not base64url") from err
    if b64url(data) != text:
        raise ValueError("not the canonical spelling of base64url")
    return data


def hex_key(text: str) -> bytes:
    """A key of 32 bytes from its hexadecimal spelling (section 6: keys are 32 bytes)."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError("a key is 64 hexadecimal digits")
    return bytes.fromhex(text)
