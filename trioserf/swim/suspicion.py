"""How long a suspect has to speak up, and the suspicions that are running.

SWIM gives every suspect the same time. Lifeguard's second component, LHA-Suspicion (Dadgar,
Phillips, Currey: "Lifeguard: Local Health Awareness for More Accurate Failure Detection", §IV-B),
starts with a long time and shortens it with every *independent* accuser: a slow member that
alone hears nobody is given no confirmation, so those whom it accuses get the time to refute it;
a member that really crashed is soon accused by many and is declared dead almost as early as under
plain SWIM.

With c of k wanted confirmations, of which the first accuser is not one, the whole time is

    max(minimum, maximum − log(c + 1) / log(k + 1) · (maximum − minimum))

The fraction falls steeply first: the first confirmation says most.

All instants and durations here are seconds. Sums are floored to the millisecond where memberlist
floors them, so that both programs give up on a member at the same time.
"""

import math
from heapq import heapify, heappop, heappush

from trioserf.swim.config import Timing
from trioserf.wire.swim_messages import Suspect

_STALE_ENTRIES = 64


def suspicion_timeout(mult: int, n: int, interval: float) -> float:
    """Give the shortest time a suspect gets (spec: suspicion).

    It grows with the logarithm of the cluster's size, as the time gossip needs to get around.

    Args:
        mult: the multiplier, at least 1.
        n: the estimated number of members, ourselves included; less than 1 counts as 1.
        interval: the time between two probes, in seconds.

    Returns:
        Seconds.
    """
    scale = max(1.0, math.log10(max(1, n)))
    return mult * math.floor(scale * 1000) * interval / 1000


def required_confirmations(mult: int, n: int) -> int:
    """Give the number of independent confirmations that bring a suspicion down to its minimum.

    It is 0 where the cluster has too few members to ever confirm that often: then the time is
    the minimum from the start.
    """
    wanted = mult - 2
    return wanted if 0 < wanted <= n - 2 else 0


def total_suspicion_time(confirmations: int, k: int, minimum: float, maximum: float) -> float:
    """Give a suspicion's time, counted from its start, in seconds (Lifeguard §IV-B)."""
    if k < 1:
        return minimum
    fraction = math.log(confirmations + 1) / math.log(k + 1)
    raw = maximum - fraction * (maximum - minimum)
    return max(minimum, math.floor(1000 * raw) / 1000)


class Suspicion:
    """One running suspicion: who has accused the node so far, and until when it may refute.

    Args:
        node: the suspect.
        incarnation: the incarnation in which it is suspected.
        k: how many independent confirmations are wanted, 0 or more.
        minimum: its time once k members have confirmed, in seconds.
        maximum: its time while nobody has, in seconds.
        started: the instant of the first accusation.
        source: the first accuser, who does not count as a confirmation.
    """

    __slots__ = (
        "_accusers",
        "_k",
        "_maximum",
        "_minimum",
        "deadline",
        "incarnation",
        "node",
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
    ) -> None:
        self.node = node
        self.incarnation = incarnation
        self.started = started
        self._k = k
        self._minimum = minimum
        self._maximum = maximum
        self._accusers = {source}
        self.deadline = started + total_suspicion_time(0, k, minimum, maximum)

    @property
    def confirmations(self) -> int:
        """How many members have confirmed the suspicion, 0 to k."""
        return len(self._accusers) - 1

    @property
    def lacks_confirmations(self) -> bool:
        """Whether more confirmations were wanted than came: the fault may be the accuser's."""
        return self.confirmations < self._k

    def was_confirmed_by(self, member: str) -> bool:
        """Tell whether this member is among the accusers that counted."""
        return member in self._accusers

    def confirm(self, source: str) -> bool:
        """Count another member's accusation, which may bring the deadline forward, even past now.

        Returns:
            Whether it was news: a new accuser, and one still wanted. News is worth passing on.
        """
        if self.confirmations >= self._k or source in self._accusers:
            return False
        self._accusers.add(source)
        self.deadline = self.started + total_suspicion_time(
            self.confirmations, self._k, self._minimum, self._maximum
        )
        return True


class Suspicions:
    """All running suspicions by node, and the earliest of their deadlines.

    The deadlines are a heap from which nothing is deleted: an entry counts only while its
    suspicion still runs and still has that deadline. Entries that no longer count go when they
    come to the top, or all at once when they have become the most.

    Args:
        timing: it holds the multipliers and the probe interval.
        shortened: let confirmations shorten suspicions (Lifeguard); without it they all last
            the minimum, as in plain SWIM.
    """

    __slots__ = ("_entries", "_heap", "_running", "_shortened", "_timing")

    def __init__(self, timing: Timing, shortened: bool = True) -> None:
        self._timing = timing
        self._shortened = shortened
        self._running: dict[str, Suspicion] = {}
        self._heap: list[tuple[float, int, Suspicion]] = []
        self._entries = 0

    def __len__(self) -> int:
        return len(self._running)

    def get(self, node: str) -> Suspicion | None:
        """Give the suspicion against `node` that is running."""
        return self._running.get(node)

    def start(self, accusation: Suspect, n: int, now: float) -> None:
        """Let a suspicion run; it takes the place of any other against the same node.

        Args:
            accusation: the first.
            n: the estimated number of members.
            now: the instant.
        """
        timing = self._timing
        minimum = suspicion_timeout(timing.suspicion_mult, n, timing.probe_interval)
        suspicion = Suspicion(
            accusation.node,
            accusation.incarnation,
            required_confirmations(timing.suspicion_mult, n) if self._shortened else 0,
            minimum,
            minimum * timing.suspicion_max_timeout_mult,
            now,
            accusation.source,
        )
        self._running[suspicion.node] = suspicion
        self._push(suspicion)

    def confirm(self, suspicion: Suspicion, source: str) -> bool:
        """Count an accusation against a running suspicion (see `Suspicion.confirm`)."""
        if not suspicion.confirm(source):
            return False
        self._push(suspicion)
        return True

    def cancel(self, node: str) -> None:
        """Forget the suspicion against `node`, if one is running."""
        self._running.pop(node, None)

    def pop_expired(self, now: float) -> list[Suspicion]:
        """Take out those whose deadline has come, the earliest first."""
        overdue = []
        while (deadline := self.next_deadline) is not None and deadline <= now:
            suspicion = heappop(self._heap)[2]
            del self._running[suspicion.node]
            overdue.append(suspicion)
        return overdue

    @property
    def next_deadline(self) -> float | None:
        """The earliest deadline, or None while nobody is suspected."""
        heap = self._heap
        while heap and not self._counts(heap[0]):
            heappop(heap)
        return heap[0][0] if heap else None

    def _counts(self, entry: tuple[float, int, Suspicion]) -> bool:
        deadline, _, suspicion = entry
        return self._running.get(suspicion.node) is suspicion and suspicion.deadline == deadline

    def _push(self, suspicion: Suspicion) -> None:
        if len(self._heap) > 2 * len(self._running) + _STALE_ENTRIES:
            self._heap = [entry for entry in self._heap if self._counts(entry)]
            heapify(self._heap)
        # The running number decides between equal deadlines: first accused, first declared dead.
        self._entries += 1
        heappush(self._heap, (suspicion.deadline, self._entries, suspicion))
