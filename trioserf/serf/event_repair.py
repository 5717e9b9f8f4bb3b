"""Notice missed user events soon, and ask for a push/pull (see serf/README.md, § Repair).

Pings and acks carry a digest of the newest events. A push/pull brings what this node has missed,
up to half a minute before the next regular one would.

Two members never compare what either cannot know. A digest names its Lamport times: they begin
after the member's start, and end where its clock stood a second ago, so that gossip about them is
over. A member that knows these times compares the hash of its own events with the received one.

Any host can forge a digest. It costs a comparison, of which there are at most fifty a second, or
a push/pull, of which there is at most one a second, and one in ten seconds with each member. After
push/pulls that did not bring what was missed they become rare: an event over a limit stays missed.
"""

import math
import random
from collections import deque
from collections.abc import Callable
from typing import Final

import attrs

from trioserf.address import Address
from trioserf.serf.user_events import UserEvents
from trioserf.wire.event_digest import MAX_TIMES, EventDigest, decode_digest, encode_digest

SETTLE_TIME: Final = 1.0
"""Seconds until gossip about an event is over."""
_STEP: Final = 0.1
"""Seconds between two records of where the clock stood, of which at most eleven are kept."""
_AHEAD_TIME: Final = 0.5
"""Seconds for which the clock of another member may be ahead of our clock."""
_DIFFERENCES: Final = 2
"""Different digests in succession: one may have been overtaken by an event."""
_OBSERVE_INTERVAL: Final = 0.02
"""Least seconds between two comparisons; a member gets about two digests a second."""
_INTERVAL, _MAX_INTERVAL = 1.0, 60.0
"""Least seconds between two push/pulls; doubled up to the second after each that was of no use."""
_PEER_INTERVAL: Final = 10.0
"""Least seconds between two push/pulls with one member."""
_JITTER: Final = 0.2
"""Seconds within which members that have missed the same event ask for it; longer if many."""
_JITTER_MEMBERS: Final = 32
"""The jitter grows with the logarithm of the cluster size, from twice this size."""


@attrs.frozen(eq=False, repr=False)
class _Due:
    """A push/pull to come: when, with whom, and the digest that is its reason."""

    at: float
    peer: Address
    digest: EventDigest


class EventRepair:
    """Compares digests with our own events, and decides on push/pulls.

    Args:
        events: our user events.
        member_count: returns the number of members.
        rng: randomness.
    """

    def __init__(
        self, events: UserEvents, member_count: Callable[[], int], rng: random.Random
    ) -> None:
        self._events = events
        self._member_count = member_count
        self._rng = rng
        self._settled = 0
        self._settling: deque[tuple[float, int]] = deque()
        self._encoded: tuple[tuple[int, int, int], bytes] = ((0, 0, 0), b"")
        self._differences = 0
        self._observe_at = -math.inf
        self._exchange_at = -math.inf
        self._interval = _INTERVAL
        self._due: _Due | None = None
        self._last: EventDigest | None = None
        self._asked: dict[Address, float] = {}

    # --- our own digest ---

    def digest(self, now: float) -> bytes:
        """Return our encoded digest; empty before the first event."""
        clock = self._events.window.clock.time
        if clock <= 1:
            return b""
        self._settle(clock - 1, now)
        key = (clock, self._settled, self._events.accepted)
        if key != self._encoded[0]:
            last = self._settled
            first = min(max(self._events.oldest_known - 1, last - MAX_TIMES, 0), last)
            digest = EventDigest(clock, first, last, self._events.hash(first, last))
            self._encoded = key, encode_digest(digest)
        return self._encoded[1]

    def _settle(self, latest: int, now: float) -> None:
        """Advance the last settled time to where the clock stood `SETTLE_TIME` ago."""
        settling = self._settling
        if (settling[-1][1] if settling else self._settled) > latest:  # the clock has wrapped
            self._settled = 0
            settling.clear()
        while settling and now - settling[0][0] >= SETTLE_TIME:
            self._settled = settling.popleft()[1]
        since, time = settling[-1] if settling else (-math.inf, self._settled)
        if time != latest and now - since >= _STEP:
            settling.append((now, latest))

    # --- those of others ---

    def observe(self, peer: Address, data: bytes, now: float) -> None:
        """Compare the digest of a member with our events.

        Raises:
            WireError: it is malformed.
        """
        digest = decode_digest(data)
        if now < self._observe_at:
            return
        self._observe_at = now + _OBSERVE_INTERVAL
        if digest.clock > self._events.window.clock.time:
            self._schedule(peer, digest, now + _AHEAD_TIME)
        is_same = self._is_same(digest)
        if is_same is None:
            return
        self._differences = 0 if is_same else self._differences + 1
        if self._differences >= _DIFFERENCES:
            self._schedule(peer, digest, now)

    def _is_same(self, digest: EventDigest) -> bool | None:
        """Return whether we have the events of a digest; None if that cannot be known."""
        if digest.last == digest.first or digest.first < self._events.oldest_known - 1:
            return None
        return self._events.hash(digest.first, digest.last) == digest.hash

    def _misses(self, digest: EventDigest) -> bool:
        """Return whether we have certainly missed an event of a digest."""
        return digest.clock > self._events.window.clock.time or self._is_same(digest) is False

    def _schedule(self, peer: Address, digest: EventDigest, at: float) -> None:
        if at < self._asked.get(peer, -math.inf) + _PEER_INTERVAL:
            return
        jitter = _JITTER * max(1.0, math.log2(max(1, self._member_count()) / _JITTER_MEMBERS))
        at = max(at, self._exchange_at) + self._rng.random() * jitter
        if self._due is None or at < self._due.at:
            self._due = _Due(at, peer, digest)

    # --- push/pulls ---

    @property
    def next_deadline(self) -> float | None:
        """The time at which `next_exchange` may return a member, or None."""
        return None if self._due is None else self._due.at

    def next_exchange(self, now: float) -> Address | None:
        """Return the member to exchange states with now, if we still miss events."""
        due = self._due
        if due is None or due.at > now:
            return None
        self._due = None
        if not self._misses(due.digest):
            return None
        is_useless = self._last is not None and self._misses(self._last)
        self._interval = min(2 * self._interval, _MAX_INTERVAL) if is_useless else _INTERVAL
        self._last = due.digest
        self._differences = 0
        self._exchange_at = now + self._interval
        self._asked = {peer: at for peer, at in self._asked.items() if at + _PEER_INTERVAL > now}
        self._asked[due.peer] = now
        return due.peer
