"""Merging a remote state in steps, so that a large one does not delay other work.

A push/pull may have a million rows. They are read and merged in pieces, between which the node
handles packets and probes. Messages may arrive in between: each row is compared with the current
state by itself, as if it had arrived alone.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from trioserf.serf.serf import Serf
from trioserf.swim.memberlist import Memberlist
from trioserf.swim.protocol_versions import verify_versions
from trioserf.wire.serf_messages import SerfPushPull
from trioserf.wire.serf_push_pull import decode_push_pull, read_push_pull
from trioserf.wire.swim_messages import ALIVE, NodeState, PushPull

PIECE: Final = 512
"""Rows merged in one step: a few milliseconds' work."""

MergeStep = Callable[[float], None]
"""A step of a merge: a function for the owner to call with the current time."""


class StepwiseReader:
    """Reads the state of Serf's layer in a push/pull with pauses: iterate, then take `state`.

    Args:
        data: the encoded state, which may be empty.

    Attributes:
        state: the state, or None if there is none.
    """

    def __init__(self, data: bytes) -> None:
        self.state: SerfPushPull | None = None
        self._data = data

    def __iter__(self) -> Iterator[int]:
        """Yield the number of rows read so far.

        Raises:
            WireError: the state is malformed.
        """
        if self._data:
            self.state = yield from read_push_pull(self._data)


def read_state(data: bytes) -> SerfPushPull | None:
    """Read the state of Serf's layer in a push/pull at once (see `StepwiseReader`)."""
    return decode_push_pull(data) if data else None


def merge_steps(
    membership: Memberlist,
    serf: Serf,
    remote: PushPull,
    serf_state: SerfPushPull | None,
    *,
    ignore_events: bool,
) -> Iterator[MergeStep]:
    """Split the merge of a remote state into steps.

    Args:
        membership: the member table to merge into; only the steps use it.
        serf: Serf's layer, likewise.
        remote: the remote half of a push/pull.
        serf_state: the state of Serf's layer that was read from it.
        ignore_events: whether to ignore user events from before our join.

    Yields:
        The steps in order. The first raises `VersionMismatch` if the protocol versions are
        incompatible.
    """
    nodes = remote.nodes
    serf_steps: Iterator[MergeStep] = iter(())
    if serf_state is not None:
        serf_steps = serf.merge_steps(
            serf_state,
            join=remote.join,
            ignore_events=ignore_events,
            is_alive=partial(_is_alive, membership),
        )
    last = max(len(nodes) - 1, 0) // PIECE * PIECE
    for start in range(0, last, PIECE):
        yield partial(_merge_piece, membership, nodes, start, None)
    # The last nodes are merged together with the first names, so that a small state is one step.
    yield partial(_merge_piece, membership, nodes, last, next(serf_steps, None))
    yield from serf_steps


def _merge_piece(
    membership: Memberlist,
    nodes: tuple[NodeState, ...],
    start: int,
    serf_step: MergeStep | None,
    now: float,
) -> None:
    if not start:
        verify_versions(nodes, membership.records.values())
    membership.merge_nodes(nodes[start : start + PIECE], now)
    if serf_step is not None:
        serf_step(now)


def _is_alive(membership: Memberlist, name: str) -> bool:
    record = membership.records.get(name)
    return record is not None and record.state is ALIVE
