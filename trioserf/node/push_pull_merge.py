"""Taking in another member's state without holding up everything else.

A push/pull may bring a million rows. They are read and taken in by pieces of some hundred, between
which packets are answered and probes go on. What members hear of each other by gossip in between
does no harm: every row is weighed by itself, as if it had come alone.
"""

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Final

from trioserf.swim.protocol_versions import verify_versions
from trioserf.wire.serf_messages import SerfPushPull
from trioserf.wire.serf_push_pull import decode_push_pull, read_push_pull
from trioserf.wire.swim_messages import ALIVE, PushPull

if TYPE_CHECKING:
    from trioserf.node.state import ClusterState

PIECE: Final = 512
"""Rows taken in at once: some milliseconds' work."""


def decode_in_steps(data: bytes) -> Generator[int, None, SerfPushPull | None]:
    """Read the state of Serf's layer in a push/pull, with pauses; None if there is none.

    It gives the number of rows that it has read at each pause.

    Raises:
        WireError: it is none.
    """
    if not data:
        return None
    return (yield from read_push_pull(data))


def read_state(data: bytes) -> SerfPushPull | None:
    """Read the state of Serf's layer in a push/pull, in one go (as `reading_state`)."""
    return decode_push_pull(data) if data else None


class PushPullMerge:
    """The other half of a push/pull, on its way into our state.

    Args:
        remote: the other half.
        state: what was read of Serf's layer in it.
        ignore_events: whether user events from before our join are none of our business.
    """

    def __init__(
        self, remote: PushPull, state: SerfPushPull | None, *, ignore_events: bool
    ) -> None:
        self._remote = remote
        self._state = state
        self._ignore_events = ignore_events
        self._steps: Generator[None, float, None] | None = None

    def step(self, cluster: "ClusterState", now: float) -> bool:
        """Take in the next piece; tells whether there are more.

        Raises:
            VersionMismatch: in the first step; the clusters' versions exclude each other.
        """
        if self._steps is None:
            self._steps = self._all(cluster)
            next(self._steps)
        try:
            self._steps.send(now)
        except StopIteration:
            return False
        return True

    def _all(self, cluster: "ClusterState") -> Generator[None, float, None]:
        now = yield
        rows = self._remote.nodes
        verify_versions(rows, cluster.membership.records.values())
        for start in range(0, len(rows), PIECE):
            if start:
                now = yield
            cluster.membership.merge_nodes(rows[start : start + PIECE], now)
        if self._state is None:
            return
        serf = cluster.serf.merging(
            self._state,
            join=self._remote.join,
            ignore_events=self._ignore_events,
            lives=partial(_lives, cluster),
        )
        next(serf)
        while True:
            try:
                serf.send(now)
            except StopIteration:
                return
            now = yield


def _lives(cluster: "ClusterState", name: str) -> bool:
    record = cluster.membership.records.get(name)
    return record is not None and record.state is ALIVE
