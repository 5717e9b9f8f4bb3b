"""The list of members as plain data: who is there, in which state, whose turn it is.

No rule of belief lives here; `membership` decides what enters, and what changes.
"""

import random
from collections.abc import Callable, Container

from trioserf.swim.config import Timing
from trioserf.swim.node_record import NO_VERSIONS, NodeRecord
from trioserf.swim.ring import Ring
from trioserf.wire.swim_messages import ALIVE, DEAD, SUSPECT, NodeState, State


def is_alive(record: NodeRecord) -> bool:
    """Tell whether a member is alive and not even suspect."""
    return record.state is ALIVE


class Roster:
    """All records of one member's table.

    Args:
        name: our own name.
        timing: timings and multipliers.
        rng: all random choices come from it.

    Attributes:
        records: all members by name, ourselves included, in the order in which they were first
            heard of. The owner's to read, not to change.
    """

    def __init__(self, name: str, timing: Timing, rng: random.Random) -> None:
        self.name = name
        self.timing = timing
        self.records: dict[str, NodeRecord] = {}
        self._ring = Ring(rng)
        self._dead_or_left = 0

    @property
    def local(self) -> NodeRecord:
        """Our own record.

        Raises:
            KeyError: before `bootstrap`.
        """
        return self.records[self.name]

    @property
    def estimated_size(self) -> int:
        """The size of the cluster in formulas: all records, ours and the lately dead included."""
        return len(self.records)

    @property
    def alive_count(self) -> int:
        """How many members are neither dead nor gone, ourselves included while we stay."""
        return len(self.records) - self._dead_or_left

    def k_random_nodes(
        self,
        k: int,
        *,
        exclude: Container[str] = (),
        predicate: Callable[[NodeRecord], bool] = is_alive,
    ) -> list[NodeRecord]:
        """Choose up to k members at random, never ourselves (spec: random choice).

        Args:
            k: how many at most, 0 or more.
            exclude: names of others not to choose.
            predicate: whom to choose; those alive, unless told otherwise.
        """
        own = self.name
        return self._ring.k_random(
            k,
            lambda record: record.name != own and record.name not in exclude and predicate(record),
        )

    def gossip_targets(self, now: float) -> list[NodeRecord]:
        """Choose whom to gossip to now: `gossip_nodes` members alive, suspect, or dead of late.

        The lately dead hear their obituary, and refute it if they live.
        """
        died_after = now - self.timing.gossip_to_the_dead_time

        def listens(record: NodeRecord) -> bool:
            return record.state <= SUSPECT or (
                record.state is DEAD and record.state_change > died_after
            )

        return self.k_random_nodes(self.timing.gossip_nodes, predicate=listens)

    def push_pull_peer(self) -> NodeRecord | None:
        """Choose somebody alive to exchange tables with, or None."""
        peers = self.k_random_nodes(1)
        return peers[0] if peers else None

    def node_states(self) -> tuple[NodeState, ...]:
        """Give the whole table as it is sent in a push/pull."""
        return tuple(record.node_state() for record in self.records.values())

    def next_probe_target(self, now: float) -> NodeRecord | None:
        """Give the member to probe next, or None if there is nobody else.

        At the end of a round those who have been gone for longer than `gossip_to_the_dead_time`
        are forgotten, and the next round has another order.
        """
        target = self._next_in_round()
        if target is None:
            self._restart_round(now)
            target = self._next_in_round()
        return target

    def _next_in_round(self) -> NodeRecord | None:
        while (record := self._ring.next_probe()) is not None:
            if not record.is_dead_or_left and record.name != self.name:
                return record
        return None

    def _restart_round(self, now: float) -> None:
        gone_before = now - self.timing.gossip_to_the_dead_time

        def is_forgotten(record: NodeRecord) -> bool:
            return (
                record.is_dead_or_left
                and record.state_change < gone_before
                and record.name != self.name
            )

        for record in self._ring.start_round(is_forgotten):
            del self.records[record.name]
            self._dead_or_left -= 1

    def _insert(self, name: str, now: float) -> NodeRecord:
        record = NodeRecord(name, b"", 0, b"", NO_VERSIONS, 0, DEAD, now)
        self.records[name] = record
        self._ring.insert(record)
        self._dead_or_left += 1
        return record

    def _set_state(self, record: NodeRecord, state: State, now: float) -> None:
        self._dead_or_left += (state >= DEAD) - record.is_dead_or_left
        record.state = state
        record.state_change = now
