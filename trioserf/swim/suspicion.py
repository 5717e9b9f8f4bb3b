"""Suspicion times, and the running suspicions.

SWIM gives every suspect the same time to refute. Lifeguard's LHA-Suspicion (Dadgar, Phillips,
Currey: "Lifeguard: Local Health Awareness for More Accurate Failure Detection", §IV-B) starts with
a long time and shortens it with every *independent* confirmation. A slow member that wrongly
suspects others gets no confirmation, so they have time to refute. A crashed member is suspected
by many members and is declared dead almost as early as in plain SWIM.

With c of k required confirmations, not counting the first source, the total time is

    max(minimum, maximum − log(c + 1) / log(k + 1) · (maximum − minimum))

so the first confirmation shortens it most.

Instants and durations are seconds. Results are floored to the millisecond where memberlist floors
them, so that both programs declare a member dead at the same time.
"""

import math
from heapq import heapify, heappop, heappush

from trioserf.swim.config import Timing
from trioserf.swim.events import Reason
from trioserf.swim.refusals import required_refusals
from trioserf.wire.swim_messages import Suspect

_STALE_ENTRIES = 64


def suspicion_timeout(mult: int, n: int, interval: float) -> float:
    """Return the minimum suspicion time in seconds (swim/README.md, § Suspicion).

    It grows with the logarithm of the cluster size, like the time that gossip needs.

    Args:
        mult: the multiplier, at least 1.
        n: the estimated cluster size; less than 1 counts as 1.
        interval: the probe interval, in seconds.
    """
    scale = max(1.0, math.log10(max(1, n)))
    return mult * math.floor(scale * 1000) * interval / 1000


def required_confirmations(mult: int, n: int) -> int:
    """Return the number of independent confirmations that reduce a suspicion to its minimum.

    It is 0 if the cluster has too few members to confirm that often; then the time is the minimum
    from the start.
    """
    required = mult - 2
    return required if 0 < required <= n - 2 else 0


def total_suspicion_time(confirmations: int, k: int, minimum: float, maximum: float) -> float:
    """Return the total time of a suspicion, from its start, in seconds (Lifeguard §IV-B)."""
    if k < 1:
        return minimum
    fraction = math.log(confirmations + 1) / math.log(k + 1)
    raw = maximum - fraction * (maximum - minimum)
    return max(minimum, math.floor(1000 * raw) / 1000)


class Suspicion:
    """One running suspicion: its sources and its deadline.

    Args:
        node: the suspect.
        incarnation: the incarnation in which it is suspected.
        k: the number of required confirmations, 0 or more.
        minimum: the total time after k confirmations, in seconds.
        maximum: the total time without confirmations, in seconds.
        started: the instant of the first suspect message.
        source: the source of that message, which is not a confirmation.
        reason: why that member suspects it, as far as we know.
        required_refusals: how many members must be refused before it is declared dead early.

    Attributes:
        refused_at: the instant of our first refused connection, or None.
    """

    __slots__ = (
        "_k",
        "_maximum",
        "_minimum",
        "_refused",
        "_required_refusals",
        "_sources",
        "deadline",
        "incarnation",
        "node",
        "reason",
        "refused_at",
        "source",
        "started",
    )

    def __init__(
        self,
        node: str,
        incarnation: int,
        k: int,
        minimum: float,
        maximum: float,
        started: float,
        source: str,
        reason: Reason = "reported",
        required_refusals: int = 0,
    ) -> None:
        self.node = node
        self.incarnation = incarnation
        self.started = started
        self.source = source
        self.reason = reason
        self.refused_at: float | None = None
        self._required_refusals = required_refusals
        self._refused: set[str] = set()
        self._k = k
        self._minimum = minimum
        self._maximum = maximum
        self._sources = {source}
        self.deadline = started + total_suspicion_time(0, k, minimum, maximum)

    @property
    def confirmations(self) -> int:
        """Number of confirmations, 0 to k."""
        return len(self._sources) - 1

    @property
    def lacks_confirmations(self) -> bool:
        """Whether fewer confirmations than required arrived: the source itself may be slow."""
        return self.confirmations < self._k

    def was_confirmed_by(self, member: str) -> bool:
        """Return whether this member is the first source or a counted confirmation."""
        return member in self._sources

    @property
    def has_enough_refusals(self) -> bool:
        """Whether as many members as required were refused, ourselves among them."""
        enough = len(self._refused) >= self._required_refusals > 0
        return self.refused_at is not None and enough

    def count_refusal(self, source: str) -> bool:
        """Count a member whose connection was refused; return whether more were required.

        The first message of our source may have come through a member of Serf, without the field.
        """
        if source == self.source:
            self.reason = "refused"
        if len(self._refused) >= self._required_refusals or source in self._refused:
            return False
        self._refused.add(source)
        return True

    def confirm(self, source: str) -> bool:
        """Count a confirmation; it may move the deadline into the past.

        Returns:
            Whether it counted: its source is new and fewer than k were known.
        """
        if self.confirmations >= self._k or source in self._sources:
            return False
        self._sources.add(source)
        self.deadline = self.started + total_suspicion_time(
            self.confirmations, self._k, self._minimum, self._maximum
        )
        return True


class Suspicions:
    """All running suspicions by node, and their earliest deadline.

    The deadlines are in a heap. An entry is stale if its suspicion ended or got another deadline;
    stale entries are removed at the top of the heap, or all at once when they are the majority.

    Args:
        timing: multipliers and the probe interval.
        shrinks: whether confirmations shorten suspicions (Lifeguard); otherwise all last the
            minimum, as in plain SWIM.
        counts_refusals: whether refused connections are counted.
    """

    __slots__ = ("_counts_refusals", "_entries", "_heap", "_running", "_shrinks", "_timing")

    def __init__(self, timing: Timing, shrinks: bool = True, counts_refusals: bool = True) -> None:
        self._counts_refusals = counts_refusals
        self._timing = timing
        self._shrinks = shrinks
        self._running: dict[str, Suspicion] = {}
        self._heap: list[tuple[float, int, Suspicion]] = []
        self._entries = 0

    def __len__(self) -> int:
        return len(self._running)

    def get(self, node: str) -> Suspicion | None:
        """Return the running suspicion of `node`, or None."""
        return self._running.get(node)

    def start(self, message: Suspect, n: int, now: float, reason: Reason = "reported") -> None:
        """Start a suspicion; it replaces a running one of the same node.

        Args:
            message: the first suspect message.
            n: the estimated cluster size.
            now: the current instant.
            reason: why its source suspects the node.
        """
        timing = self._timing
        minimum = suspicion_timeout(timing.suspicion_mult, n, timing.probe_interval)
        suspicion = Suspicion(
            message.node,
            message.incarnation,
            required_confirmations(timing.suspicion_mult, n) if self._shrinks else 0,
            minimum,
            minimum * timing.suspicion_max_timeout_mult,
            now,
            message.source,
            "refused" if message.refused else reason,
            required_refusals(n) if self._counts_refusals else 0,
        )
        if message.refused:
            suspicion.count_refusal(message.source)
        self._running[suspicion.node] = suspicion
        self._push(suspicion)

    def confirm(self, suspicion: Suspicion, source: str, refused: bool = False) -> bool:
        """Count a confirmation of a running suspicion, and its refusal.

        Returns:
            Whether either counted; only then is the message rebroadcast.
        """
        is_news = refused and suspicion.count_refusal(source)
        if not suspicion.confirm(source):
            return is_news
        self._push(suspicion)
        return True

    def cancel(self, node: str) -> None:
        """Cancel the suspicion of `node`, if one is running."""
        self._running.pop(node, None)

    def pop_expired(self, now: float) -> list[Suspicion]:
        """Remove and return the expired suspicions, the earliest first."""
        expired = []
        while (deadline := self.next_deadline) is not None and deadline <= now:
            suspicion = heappop(self._heap)[2]
            del self._running[suspicion.node]
            expired.append(suspicion)
        return expired

    @property
    def next_deadline(self) -> float | None:
        """The earliest deadline, or None without suspects."""
        heap = self._heap
        while heap and not self._is_current(heap[0]):
            heappop(heap)
        return heap[0][0] if heap else None

    def _is_current(self, entry: tuple[float, int, Suspicion]) -> bool:
        deadline, _, suspicion = entry
        return self._running.get(suspicion.node) is suspicion and suspicion.deadline == deadline

    def _push(self, suspicion: Suspicion) -> None:
        if len(self._heap) > 2 * len(self._running) + _STALE_ENTRIES:
            self._heap = [entry for entry in self._heap if self._is_current(entry)]
            heapify(self._heap)
        # The entry number orders equal deadlines: first suspected, first declared dead.
        self._entries += 1
        heappush(self._heap, (suspicion.deadline, self._entries, suspicion))
