"""Send queries again to members that did not answer (see serf/README.md, § Queries).

Gossip reaches all members, but an ack is one packet, and so is a response. A member whose ack or
response is missing gets the query again. It drops the duplicate and sends both again. An agent of
Serf drops the duplicate in silence, so that this helps only if it has missed the query.
"""

import random
from typing import Final

import attrs

from trioserf.serf.effects import DirectMessage
from trioserf.serf.member_table import MemberTable
from trioserf.serf.query_collector import RunningQuery
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import Query, QueryFlag, Status

_ROUNDS: Final = ((0.1, 1), (0.4, 3), (1.6, 3))
"""Seconds after the start of a query, and packets to each member: more if more were lost."""
_LAST_SHARE: Final = 0.75
"""The last round comes before this share of the timeout has passed, for short timeouts."""
_MAX_MEMBERS: Final = 64
"""Members that get a query again in one round."""
_PRESENT: Final = {Status.ALIVE, Status.LEAVING}
_STEPS: Final = 10
_STEP: Final = 0.001
"""Packets of a round leave in ten steps, a millisecond apart, so that they fill no buffer."""


@attrs.define(eq=False, repr=False)
class _Repeat:
    """A running query, its bytes, and the members that remain in its current round."""

    query: RunningQuery
    data: bytes
    started: float
    at: float
    round: int = 0
    targets: list[str] = attrs.Factory(list)
    step: int = 0


class QueryRepeats:
    """Repeats running queries of this node.

    Args:
        table: the members.
        direct_messages: receives the packets.
        rng: chooses members if there are too many.
    """

    def __init__(
        self, table: MemberTable, direct_messages: list[DirectMessage], rng: random.Random
    ) -> None:
        self._table = table
        self._direct_messages = direct_messages
        self._rng = rng
        self._running: dict[RunningQuery, _Repeat] = {}

    def add(self, query: RunningQuery, message: Query, now: float) -> None:
        """Repeat a query from now on until it finishes.

        Its receivers need not pass it on, and recognise it as repeated by that.
        """
        flags = message.flags | int(QueryFlag.NO_BROADCAST)
        data = encode(attrs.evolve(message, flags=flags))
        self._running[query] = _Repeat(query, data, now, now + _ROUNDS[0][0])

    def discard(self, query: RunningQuery) -> None:
        """Stop repeating a query."""
        self._running.pop(query, None)

    @property
    def next_deadline(self) -> float | None:
        """The time at which `expire` has work to do, or None."""
        if not self._running:
            return None
        return min(repeat.at for repeat in self._running.values())

    def expire(self, now: float) -> None:
        """Send what is due."""
        for repeat in [one for one in self._running.values() if one.at <= now]:
            self._send_step(repeat, now)
            if repeat.round == len(_ROUNDS) or repeat.at >= repeat.query.deadline:
                self.discard(repeat.query)

    def _send_step(self, repeat: _Repeat, now: float) -> None:
        if not repeat.targets:
            repeat.targets = self._choose(repeat)
            repeat.step = -(-len(repeat.targets) // _STEPS)
        for name in repeat.targets[: repeat.step]:
            member = self._table.get(name)
            if member is not None and self._is_missing(repeat, name):
                self._direct_messages.append(DirectMessage(member.address, name, repeat.data))
        del repeat.targets[: repeat.step]
        if repeat.targets:
            repeat.at = now + _STEP
            return
        repeat.round += 1
        if repeat.round < len(_ROUNDS):
            seconds = _ROUNDS[repeat.round][0]
            if repeat.round == len(_ROUNDS) - 1:
                seconds = min(seconds, _LAST_SHARE * (repeat.query.deadline - repeat.started))
            repeat.at = max(repeat.started + seconds, now + _STEP)

    def _choose(self, repeat: _Repeat) -> list[str]:
        missing = [name for name in repeat.query.expected if self._is_missing(repeat, name)]
        chosen = self._rng.sample(missing, min(len(missing), _MAX_MEMBERS))
        return chosen * _ROUNDS[repeat.round][1]

    def _is_missing(self, repeat: _Repeat, name: str) -> bool:
        """Return whether a member owes an ack; after the first round, also a response.

        A handler may need more than the first 100 ms for its response.
        """
        member = self._table.get(name)
        if name == self._table.name or member is None or member.status_code not in _PRESENT:
            return False
        query = repeat.query
        return not query.has_acked(name) or (repeat.round > 0 and query.awaits(name))
