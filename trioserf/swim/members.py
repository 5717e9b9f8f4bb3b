"""The members as data: records, counts, the order of probes, and random choice.

SWIM's first version probes a random member each time and may skip one for long. Its improvement
(SWIM §4.3) probes in rounds over a shuffled list: each round probes every member once, which
bounds the time to detect a crash, and each round on each node has another order.

The rules that decide what is recorded are in `memberlist`.
"""

import random
from collections.abc import Callable, Container
from itertools import islice
from typing import Final

from trioserf.swim.config import Timing
from trioserf.swim.node_record import NO_VERSIONS, NodeRecord
from trioserf.wire.swim_messages import ALIVE, DEAD, SUSPECT, State

_LEAST_DRAWS: Final = 128
_SHARE_DRAWN: Final = 16
"""Records drawn for a random choice before all are checked: a sixteenth of them, at least 128.
That finds three among a hundredth of 32,000 in 0.3 ms; a check of all takes 10 ms."""

MAX_COVER: Final = 32
"""Members that get a message of our own in its first round (see README.md, § Gossip)."""
_CANDIDATES: Final = 2, 8
"""Members drawn for each packet of a round, of which some may have all messages."""


def is_alive(record: NodeRecord) -> bool:
    """Return whether a member is alive and not suspect."""
    return record.state is ALIVE


def _is_reachable(record: NodeRecord) -> bool:
    return not record.is_dead_or_left


class Members:
    """All records of one node, in the order of the current probe round.

    Args:
        own_name: our name; we neither probe nor choose ourselves.
        timing: timings and multipliers.
        rng: source of all random choices; equal seeds and histories give equal choices.

    Attributes:
        records: all members by name, including ourselves, oldest first. Read-only for callers.
    """

    __slots__ = ("_dead_or_left", "_next", "_own_name", "_ring", "_rng", "_timing", "records")

    def __init__(self, own_name: str, timing: Timing, rng: random.Random) -> None:
        self.records: dict[str, NodeRecord] = {}
        self._own_name = own_name
        self._timing = timing
        self._rng = rng
        self._ring: list[NodeRecord] = []
        self._next = 0
        self._dead_or_left = 0

    def __len__(self) -> int:
        return len(self.records)

    @property
    def alive_count(self) -> int:
        """Number of alive and suspect members, including ourselves until we leave."""
        return len(self.records) - self._dead_or_left

    def insert(self, name: str, now: float) -> NodeRecord:
        """Insert a record at a random place of the current round.

        It starts as dead in incarnation 0, so that new and returning members take the same path.
        The record that had this place moves to the end, so no member misses its turn.
        """
        record = NodeRecord(name, b"", 0, b"", NO_VERSIONS, 0, DEAD, now)
        self.records[name] = record
        self._dead_or_left += 1
        ring = self._ring
        ring.append(record)
        # Much faster than randrange; the bias is negligible at these sizes.
        place = int(self._rng.random() * len(ring))
        ring[place], ring[-1] = record, ring[place]
        return record

    def set_state(self, record: NodeRecord, state: State, now: float) -> None:
        """Set a member's state and the instant of the change."""
        self._dead_or_left += (state >= DEAD) - record.is_dead_or_left
        record.state = state
        record.state_change = now

    # --- probe order ---

    def next_probe(self, now: float) -> NodeRecord | None:
        """Return the next member to probe, or None if there is no other alive or suspect member.

        The end of a round removes members that are dead or left for longer than
        `gossip_to_the_dead_time` and shuffles the rest.
        """
        target = self._next_in_round()
        if target is None:
            self._start_round(now)
            target = self._next_in_round()
        return target

    def _next_in_round(self) -> NodeRecord | None:
        ring = self._ring
        while self._next < len(ring):
            record = ring[self._next]
            self._next += 1
            if not record.is_dead_or_left and record.name != self._own_name:
                return record
        return None

    def _start_round(self, now: float) -> None:
        changed_before = now - self._timing.gossip_to_the_dead_time
        kept: list[NodeRecord] = []
        for record in self._ring:
            if (
                record.is_dead_or_left
                and record.state_change < changed_before
                and record.name != self._own_name
            ):
                del self.records[record.name]
                self._dead_or_left -= 1
            else:
                kept.append(record)
        self._rng.shuffle(kept)
        self._ring = kept
        self._next = 0

    # --- random choice ---

    def k_random_nodes(
        self,
        k: int,
        *,
        exclude: Container[str] = (),
        predicate: Callable[[NodeRecord], bool] = is_alive,
    ) -> list[NodeRecord]:
        """Choose up to k distinct members at random, never ourselves.

        For n < 3k records all are checked. Otherwise a few are drawn; if too few of them satisfy
        the predicate, all are checked (swim/README.md, § Random choice).

        Args:
            k: the maximum number of members, 0 or more.
            exclude: names of members not to choose.
            predicate: the condition on a record; by default `is_alive`.
        """
        own = self._own_name

        def is_eligible(record: NodeRecord) -> bool:
            return predicate(record) and record.name != own and record.name not in exclude

        ring = self._ring
        n = len(ring)
        if n < 3 * k:
            shuffled = ring.copy()
            self._rng.shuffle(shuffled)
            return list(islice(filter(is_eligible, shuffled), k))
        draw = self._rng.random
        chosen: list[NodeRecord] = []
        for _ in range(max(_LEAST_DRAWS, n // _SHARE_DRAWN)):
            if len(chosen) >= k:
                return chosen
            record = ring[int(draw() * n)]
            if record not in chosen and is_eligible(record):
                chosen.append(record)
        # Most records fail the predicate, or the draws would have sufficed: it comes first.
        likely = filter(predicate, ring)
        others = [one for one in likely if is_eligible(one) and one not in chosen]
        return chosen + self._rng.sample(others, min(k - len(chosen), len(others)))

    def gossip_targets(self, now: float) -> list[NodeRecord]:
        """Choose members that are alive, suspect or recently dead, more than a round needs.

        Some of them may have all queued messages already. Recently dead members receive their
        Dead message and can refute it.
        """
        died_after = now - self._timing.gossip_to_the_dead_time

        def is_target(record: NodeRecord) -> bool:
            return record.state <= SUSPECT or (
                record.state is DEAD and record.state_change > died_after
            )

        # In a small table most members may have a message, and it costs little to check all.
        few, many = (factor * self._timing.gossip_nodes for factor in _CANDIDATES)
        return self.k_random_nodes(
            many if len(self._ring) < 3 * many else few, predicate=is_target
        )

    def cover_targets(self) -> list[NodeRecord]:
        """Choose the alive and suspect members for a first round, `MAX_COVER` at most.

        If there are no more, all of them are chosen.
        """
        if self.alive_count - 1 > MAX_COVER:
            return self.k_random_nodes(MAX_COVER, predicate=_is_reachable)
        targets = [record for record in self._ring if _is_reachable(record)]
        self._rng.shuffle(targets)
        return [record for record in targets if record.name != self._own_name]

    def push_pull_peer(self) -> NodeRecord | None:
        """Choose an alive member for a push/pull, or None."""
        peers = self.k_random_nodes(1)
        return peers[0] if peers else None
