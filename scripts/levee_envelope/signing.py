"""Section 4: signatures and certificate chains, through the openssl command.

openssl verifies; this module decides what it is asked. Every run has a time limit and works on files in a directory of its own.
"""
import base64
import functools
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import List, Sequence, Tuple

from .certs import ED25519_KEY, Certificate, CertificateError, read_certificate, split_chain

SIGNATURE_PREFIX = b"levee/signature/v1\x00"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
TIME_LIMIT = 20    # seconds for one run of openssl

# RFC 8032, section 7.1, test 2: shows whether this openssl can verify Ed25519 at all.
_PROBE_KEY = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
_PROBE_SIG = bytes.fromhex("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
                           "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00")


class SignatureError(ValueError):
    """The signature does not match or the chain does not reach the root."""


class OpensslMissing(RuntimeError):
    """There is no openssl command, or it can not do what is asked: nothing is known about the signature."""


def digest(signed: bytes) -> bytes:
    """SHA-256 over the signed bytes, prefix included (section 5)."""
    return hashlib.sha256(SIGNATURE_PREFIX + signed).digest()


def verify(chain: bytes, sig: bytes, signed: bytes, root: bytes, ts: int, root_may_issue: bool) -> Certificate:
    """The leaf, if its key made sig and it chains through the issuer to the root at ts; else a SignatureError.

    Only for the site document is the root itself the issuer (section 5).
    """
    try:
        leaf, issuer = split_chain(chain)
        if issuer.der == root and not root_may_issue:
            raise SignatureError("the root stands in the place of the issuer")
        check_signature(leaf.key, leaf.algorithm, sig, SIGNATURE_PREFIX + signed)
        _check_path(leaf, issuer, read_certificate(root), ts)
    except CertificateError as err:
        raise SignatureError(str(err)) from err
    return leaf


def check_signature(key: bytes, algorithm: str, sig: bytes, data: bytes) -> None:
    """Checks 64 bytes of signature over data with a SubjectPublicKeyInfo."""
    if len(sig) != 64:
        raise SignatureError("a signature is 64 bytes")
    _probe()
    if algorithm == "P-256":
        sig = ecdsa_to_der(sig)
    if not _verify_with_openssl(key, algorithm, sig, data):
        raise SignatureError("the signature does not match")


def ecdsa_to_der(sig: bytes) -> bytes:
    """r ‖ s as openssl wants it. Both must be in range, and s at most half the group order."""
    r, s = int.from_bytes(sig[:32], "big"), int.from_bytes(sig[32:], "big")
    if not 1 <= r < P256_ORDER or not 1 <= s <= P256_ORDER // 2:
        raise SignatureError("r or s is out of range")
    body = b"".join(_der_integer(n) for n in (r, s))
    return bytes([0x30, len(body)]) + body


def ecdsa_from_der(der: bytes) -> bytes:
    """r ‖ s out of what openssl made, with s brought down to at most half the group order."""
    pos, numbers = 2, []
    for _ in range(2):
        length = der[pos + 1]
        numbers.append(int.from_bytes(der[pos + 2:pos + 2 + length], "big"))
        pos += 2 + length
    r, s = numbers
    return r.to_bytes(32, "big") + min(s, P256_ORDER - s).to_bytes(32, "big")


def sign(key_pem: bytes, algorithm: str, signed: bytes) -> bytes:
    """The 64 bytes of signature over the prefix and the signed bytes."""
    with tempfile.TemporaryDirectory() as name:
        key, data, out = _files(name, key_pem, SIGNATURE_PREFIX + signed, b"")
        if algorithm == "Ed25519":
            command = ["pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", data, "-out", out]
        else:
            command = ["dgst", "-sha256", "-sign", key, "-out", out, data]
        if not openssl(command):
            raise SignatureError("openssl does not sign with this key")
        made = Path(out).read_bytes()
    return made if algorithm == "Ed25519" else ecdsa_from_der(made)


def openssl(arguments: Sequence[str]) -> bool:
    """Runs the openssl command; whether it succeeded."""
    command = shutil.which("openssl")
    if command is None:
        raise OpensslMissing("no openssl command on the path")
    try:
        done = subprocess.run([command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=TIME_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise OpensslMissing("openssl does not run: %s" % err) from err
    return done.returncode == 0


def pem(label: str, der: bytes) -> bytes:
    """DER as PEM."""
    text = base64.b64encode(der).decode("ascii")
    lines = [text[i:i + 64] for i in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN %s-----" % label, *lines, "-----END %s-----" % label, ""]).encode("ascii")


def _check_path(leaf: Certificate, issuer: Certificate, root: Certificate, ts: int) -> None:
    """RFC 5280's path from the leaf through the issuer to the root at ts, and to no other root.

    Of the times openssl is not asked: it takes notAfter for excluded, and knows no milliseconds.

    The issuer is checked by itself as well, so that a leaf under the root can not carry a stranger as its issuer.
    """
    if leaf.issuer != issuer.subject or issuer.issuer != root.subject:
        raise SignatureError("the chain does not reach the root by name")
    if not all(c.valid_at(ts) for c in (leaf, issuer, root)):
        raise SignatureError("a certificate is not valid at that time")
    with tempfile.TemporaryDirectory() as name:
        files = _files(name, *(pem("CERTIFICATE", c.der) for c in (leaf, issuer, root)))
        common = ["verify", "-x509_strict", "-no_check_time", "-trusted", files[2]]
        if not openssl([*common, files[1]]) or not openssl([*common, "-untrusted", files[1], files[0]]):
            raise SignatureError("the chain does not reach the root")


def _verify_with_openssl(key: bytes, algorithm: str, sig: bytes, data: bytes) -> bool:
    """One signature, in the form that openssl wants."""
    with tempfile.TemporaryDirectory() as name:
        key_file, sig_file, data_file = _files(name, pem("PUBLIC KEY", key), sig, data)
        if algorithm == "Ed25519":
            return openssl(["pkeyutl", "-verify", "-pubin", "-inkey", key_file, "-rawin", "-in", data_file,
                            "-sigfile", sig_file])
        return openssl(["dgst", "-sha256", "-verify", key_file, "-signature", sig_file, data_file])


@functools.lru_cache(maxsize=1)
def _probe() -> None:
    """An openssl that refuses a signature known to be good must not pass for one that found a bad one."""
    if not _verify_with_openssl(ED25519_KEY + _PROBE_KEY, "Ed25519", _PROBE_SIG, b"\x72"):
        raise OpensslMissing("this openssl can not verify Ed25519")


def _files(directory: str, *contents: bytes) -> Tuple[str, ...]:
    """Writes each of contents to a file of its own."""
    names: List[str] = []
    for number, content in enumerate(contents):
        path = Path(directory, str(number))
        path.write_bytes(content)
        names.append(str(path))
    return tuple(names)


def _der_integer(number: int) -> bytes:
    """A positive INTEGER of at most 33 bytes."""
    data = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return bytes([0x02, len(data)]) + data
