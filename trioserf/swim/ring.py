"""The order in which members are probed, and random choices among them.

SWIM probes a random member each time, and so may forget one for long. Its improvement (SWIM §4.3)
is to go round a shuffled list: every member is probed once in each round, which bounds the time in
which a crash is noticed, and the order is another in every round and on every node.
"""

import random
from collections.abc import Callable
from itertools import islice

from trioserf.swim.node_record import NodeRecord


class Ring:
    """Every record of a table, in the order of the round under way.

    Args:
        rng: all choices come from it; two rings with equal seeds and histories are equal.
    """

    __slots__ = ("_next", "_records", "_rng")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._records: list[NodeRecord] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._records)

    def insert(self, record: NodeRecord) -> None:
        """Put a new record at a random place.

        The record that was there moves to the end, so nobody loses a turn in this round.
        """
        records = self._records
        records.append(record)
        # Much cheaper than randrange, and as even as anyone can tell at these sizes.
        place = int(self._rng.random() * len(records))
        records[place], records[-1] = record, records[place]

    def next_probe(self) -> NodeRecord | None:
        """Give the next record of the round, or None at its end: then start another."""
        if self._next >= len(self._records):
            return None
        record = self._records[self._next]
        self._next += 1
        return record

    def start_round(self, drop: Callable[[NodeRecord], bool]) -> list[NodeRecord]:
        """Start a new round in a new order, without the records that are to be dropped.

        Returns:
            Those that were dropped.
        """
        dropped: list[NodeRecord] = []
        kept: list[NodeRecord] = []
        for record in self._records:
            (dropped if drop(record) else kept).append(record)
        self._rng.shuffle(kept)
        self._records = kept
        self._next = 0
        return dropped

    def k_random(self, k: int, predicate: Callable[[NodeRecord], bool]) -> list[NodeRecord]:
        """Choose up to k distinct records at random (spec: random choice).

        Few records are all looked at. Of many only 3n are drawn, so fewer than k may be found
        where few satisfy the predicate; next time is soon enough.
        """
        records = self._records
        n = len(records)
        chosen: list[NodeRecord] = []
        if n < 3 * k:
            shuffled = records.copy()
            self._rng.shuffle(shuffled)
            return list(islice(filter(predicate, shuffled), k))
        draw = self._rng.random
        draws = 3 * n
        while len(chosen) < k and draws:
            draws -= 1
            record = records[int(draw() * n)]
            if record not in chosen and predicate(record):
                chosen.append(record)
        return chosen
