"""Section 9: replay windows, in memory: they live as long as the object does."""
from typing import Dict, Optional, Tuple

WINDOW = 1024          # sequence numbers that a window remembers
TAGGED = 64            # newest of them whose tag is kept
TAG_CHARS = 8          # characters of the MAC that make the tag
MAX_SENDERS = 4096     # the page leaves the number open; above it a message is refused as windows_full

Name = Tuple[str, bool, bool]    # site/role/name, whether anything vouches for it, whether it is backfill


class _Window:
    """What is known of one sender: its boot, when that began, and the numbers that were seen."""

    def __init__(self, boot: int, seq: int, ts: int, tag: bytes, now: int) -> None:
        self.boot = boot
        self.began = min(ts, now)
        self.newest_ts = ts
        self.top = seq
        self.seen = 1          # bit i: top - i was seen
        self.tags: Dict[int, bytes] = {seq: tag}

    def known(self, seq: int, tag: bytes) -> Optional[str]:
        """The reason why a number of this boot is not new; None if it is."""
        age = self.top - seq
        if age < 0:
            return None
        if age >= WINDOW:
            return "replayed"
        if not self.seen >> age & 1:
            return None
        if seq not in self.tags:
            return "replayed"
        return "redelivered" if self.tags[seq] == tag else "nonce_collision"

    def mark(self, seq: int, ts: int, tag: bytes) -> None:
        """Remembers a new number."""
        ahead = seq - self.top
        if ahead >= WINDOW:
            self.seen, self.top = 1, seq
        elif ahead > 0:
            self.seen, self.top = (self.seen << ahead | 1) & ((1 << WINDOW) - 1), seq
        else:
            self.seen |= 1 << -ahead
        self.newest_ts = max(self.newest_ts, ts)
        self.tags[seq] = tag
        self.tags = {n: t for n, t in self.tags.items() if n > self.top - TAGGED}


class Windows:
    """The windows of one receiver. start: when they began to remember; None: they always have."""

    def __init__(self, start: Optional[int] = None, skew: int = 30000, limit: int = MAX_SENDERS) -> None:
        self.start = start
        self.skew = skew
        self.limit = limit
        self._senders: Dict[Name, _Window] = {}

    def admit(self, sender: Name, boot: int, seq: int, ts: int, mac: bytes, now: int) -> Optional[str]:
        """Marks a new nonce and returns None, or the reason why it is refused."""
        tag = mac[:TAG_CHARS]
        if self.start is not None and ts < self.start + self.skew:
            return "before_start"
        window = self._senders.get(sender)
        if window is None and not self._room(now):
            return "windows_full"
        if window is None or boot > window.boot:
            self._senders[sender] = _Window(boot, seq, ts, tag, now)
            return None
        if boot < window.boot:
            return "cloned" if ts > window.began else "replayed"
        reason = window.known(seq, tag)
        if reason is None:
            window.mark(seq, ts, tag)
        return reason

    def _room(self, now: int) -> bool:
        """Whether one more sender fits, after forgetting those of whom nothing could be fresh any more."""
        if len(self._senders) >= self.limit:
            oldest = now - self.skew
            self._senders = {s: w for s, w in self._senders.items() if w.newest_ts >= oldest}
        return len(self._senders) < self.limit
