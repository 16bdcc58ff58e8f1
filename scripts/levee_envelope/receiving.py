"""Section 7: the checks of a receiver, in exactly the order of its table."""
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

from . import digests, grammar, keys, payload as strict, signing
from .certs import Certificate, CertificateError
from .replay import Windows

ACCEPTED = "accepted"
REASONS = ("size", "kid", "unknown_key", "mac", "grammar", "payload", "topic", "sender", "unsigned", "signature", "revoked", "pin", "stale",
           "future", "redelivered", "replayed", "nonce_collision", "cloned", "windows_full", "windows_failed", "before_start",
           "content")
PINNED_ROLES = ("monitor", "approver")     # whose key must be pinned, check 12
AUTHORITY_ROLE = "ca"                      # whose certificate the root issues, section 5
DEFAULT_SKEW = 30000

ContentCheck = Callable[[grammar.Envelope, Dict[str, Any]], bool]


class Refused(Exception):
    """A message is refused; the reason is one of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Delivery:
    """A message as it comes: published on topic, at the receiver's time now, with what its class and topic lay down.

    publisher is the site/role/name that alone may publish on the topic; None leaves check 8 out, and the empty one is that of a
    topic which carries nothing. A statement (section 5) has no
    MAC, comes outside the message flow and is read again at any time: of the checks it passes 1, 2, 5 to 9, 11 and 12.
    """

    raw: bytes
    topic: str
    now: int
    publisher: Optional[str] = None
    max_bytes: int = grammar.MAX_MESSAGE
    must_be_signed: bool = False
    statement: bool = False


@dataclass(frozen=True)
class Opened:
    """What became of a message: ACCEPTED or a reason, and the envelope once it was accepted."""

    result: str
    envelope: Optional[grammar.Envelope] = None
    payload: Optional[Dict[str, Any]] = None


def carries(envelope: grammar.Envelope, value: Dict[str, Any]) -> bool:
    """Check 15 as far as the page describes a payload: a digest (section 8) has the form of one."""
    if not digests.on_topic(envelope.topic, envelope.kid):
        return True
    try:
        digests.read(value, (envelope.boot, envelope.seq))
    except digests.Malformed:
        return False
    return True


@dataclass
class Receiver:
    """A receiver. keys are role keys by role; of a role that is not among them checks 3 and 4 are left out."""

    site: str
    keys: Mapping[str, bytes] = field(default_factory=dict)
    root: Optional[bytes] = None
    pins: Mapping[str, str] = field(default_factory=dict)
    minimum: Mapping[str, int] = field(default_factory=dict)
    skew: int = DEFAULT_SKEW
    start: Optional[int] = None
    content: ContentCheck = carries
    trust_domain: Optional[str] = None    # of the leaf's URI; None: any
    own: Optional[Tuple[str, bytes]] = None    # its own site/role/name and key; None: it expects no acknowledgements

    def __post_init__(self) -> None:
        self.windows = Windows(self.start, self.skew)

    def open(self, delivery: Delivery) -> Opened:
        """Judges one message."""
        try:
            return self._open(delivery)
        except Refused as refused:
            return Opened(refused.reason)

    def _open(self, delivery: Delivery) -> Opened:
        """The table of section 7, line by line."""
        self._check_known(delivery)                            # before 1
        _check_size(delivery)                                  # 1
        kid = _read_kid(delivery.raw)                          # 2
        if not delivery.statement:
            self._check_mac(kid, delivery)                     # 3, 4
        envelope = _read_rest(delivery)                        # 5
        value = _read_payload(envelope)                        # 6
        _check_topic(envelope, delivery)                       # 7
        _check_sender(envelope.kid, delivery.publisher)        # 8
        self._check_generation(envelope.kid)                   # 9
        if delivery.must_be_signed and envelope.sig is None:   # 10
            raise Refused("unsigned")
        leaf = self._check_signature(envelope)                 # 11
        self._check_pin(envelope.kid, leaf)                    # 12
        self._check_proof(envelope, delivery)                  # behind 12
        if delivery.statement:
            return Opened(ACCEPTED, envelope, value)
        self._check_time(envelope, delivery.now)               # 13
        self._check_nonce(envelope, delivery)                  # 14
        if not self.content(envelope, value):                  # 15
            raise Refused("content")
        return Opened(ACCEPTED, envelope, value)

    def _holds(self, delivery: Delivery, kid: grammar.Kid) -> bool:
        """Whether the receiver holds the role key of the topic's publisher; where that is unknown, of kid's role."""
        role = kid.role if delivery.publisher is None else "".join(delivery.publisher.split("/")[1:2])
        return role in self.keys

    def _proven(self, envelope: grammar.Envelope, delivery: Delivery) -> bool:
        """Whether a signature vouches for a message that came this far, or a MAC that was checked."""
        return envelope.sig is not None or _peer(delivery.topic) is not None or self._holds(delivery, envelope.kid)

    def _check_known(self, delivery: Delivery) -> None:
        """A topic that is none of ours has no class, so that this comes before the size."""
        if delivery.publisher == "" or delivery.topic.split("/")[0] != self.site:
            raise Refused("topic")

    def _check_mac(self, kid: grammar.Kid, delivery: Delivery) -> None:
        """Checks 3 and 4: the key is found and the MAC matches. The role keys are those of the receiver's own site."""
        peer = _peer(delivery.topic)
        if peer is None and not self._holds(delivery, kid):
            return
        key = self._sender_key(kid) if peer is None else self._ack_key(peer)
        if key is None:
            raise Refused("unknown_key")
        cut = grammar.cut_mac(delivery.raw)
        if cut is None or not keys.mac_matches(key, *cut):
            raise Refused("mac")

    def _sender_key(self, kid: grammar.Kid) -> Optional[bytes]:
        """The key that kid names, if the receiver was issued its role's."""
        role = self.keys.get(kid.role)
        return None if role is None or kid.site != self.site else keys.sender_key(role, kid.name, kid.generation)

    def _ack_key(self, peer: str) -> Optional[bytes]:
        """The key of acknowledgements to peer, if the receiver is that."""
        return None if self.own is None or self.own[0] != peer else keys.ack_key(self.own[1])

    def _check_generation(self, kid: grammar.Kid) -> None:
        """Check 9: the generation still counts."""
        if kid.generation < self.minimum.get(kid.sender, 1):
            raise Refused("unknown_key")

    def _check_signature(self, envelope: grammar.Envelope) -> Optional[Certificate]:
        """Check 11: the leaf of a signed message, which is verified whether or not its class must be signed."""
        if envelope.sig is None or envelope.chain is None or envelope.signed is None:
            return None
        if self.root is None:
            raise Refused("signature")
        try:
            authority = envelope.kid.role == AUTHORITY_ROLE
            leaf = signing.verify(envelope.chain, envelope.sig, envelope.signed, self.root, envelope.ts, root_may_issue=authority)
            identity = leaf.authority(self.trust_domain) if authority else leaf.identity(self.trust_domain)
        except (signing.SignatureError, CertificateError) as err:
            raise Refused("signature") from err
        if identity != envelope.kid.sender:
            raise Refused("sender")
        return leaf

    def _check_pin(self, kid: grammar.Kid, leaf: Optional[Certificate]) -> None:
        """Check 12: the pinned key signed. Of a monitor or an approver without a pin no key is the pinned one."""
        pin = self.pins.get(kid.sender)
        if leaf is None or (pin is None and kid.role not in PINNED_ROLES):
            return
        if leaf.pin != pin:
            raise Refused("pin")

    def _check_proof(self, envelope: grammar.Envelope, delivery: Delivery) -> None:
        """Who holds any role's key takes no unsigned message whose MAC it can not check."""
        if not delivery.statement and self.keys and not self._proven(envelope, delivery):
            raise Refused("unknown_key")

    def _check_time(self, envelope: grammar.Envelope, now: int) -> None:
        """Check 13: the skew is allowed to the full in both directions."""
        if envelope.ts < now - self.skew:
            raise Refused("stale")
        if envelope.ts > now + self.skew or envelope.boot > envelope.ts + self.skew:
            raise Refused("future")

    def _check_nonce(self, envelope: grammar.Envelope, delivery: Delivery) -> None:
        """Check 14: marks the nonce, or says why it is not new."""
        backfill = delivery.topic.split("/")[1:3] == ["bank_server", "backfill"]
        name = (envelope.kid.sender, self._proven(envelope, delivery), backfill)
        reason = self.windows.admit(name, envelope.boot, envelope.seq, envelope.ts, envelope.mac or b"", delivery.now)
        if reason is not None:
            raise Refused(reason)


def _peer(topic: str) -> Optional[str]:
    """Whom an acknowledgement on this topic is for: {site}/bank_server/acks/{name}/{role}/{name}; None: it carries none."""
    levels = topic.split("/")
    return "/".join((levels[0], levels[4], levels[5])) if levels[1:3] == ["bank_server", "acks"] and len(levels) == 6 else None


def _check_topic(envelope: grammar.Envelope, delivery: Delivery) -> None:
    """Check 7: the topic it was published on."""
    if envelope.topic != delivery.topic:
        raise Refused("topic")


def _check_size(delivery: Delivery) -> None:
    """Check 1: the class's bound, and never more or less than any message may have."""
    if not grammar.MIN_MESSAGE <= len(delivery.raw) <= min(delivery.max_bytes, grammar.MAX_BACKFILL):
        raise Refused("size")


def _read_kid(raw: bytes) -> grammar.Kid:
    """Check 2."""
    try:
        return grammar.read_kid(raw)[0]
    except grammar.KidError as err:
        raise Refused("kid") from err


def _read_rest(delivery: Delivery) -> grammar.Envelope:
    """Check 5."""
    try:
        return grammar.read(delivery.raw, delivery.statement)
    except (grammar.GrammarError, grammar.KidError) as err:
        raise Refused("grammar") from err


def _read_payload(envelope: grammar.Envelope) -> Dict[str, Any]:
    """Check 6."""
    try:
        return strict.parse(envelope.payload)
    except strict.PayloadError as err:
        raise Refused("payload") from err


def _check_sender(kid: grammar.Kid, publisher: Optional[str]) -> None:
    """Check 8."""
    if publisher is not None and kid.sender != publisher:
        raise Refused("sender")
