"""What the tests of this room share: a table that speaks readable messages, and its neighbours."""

import random

from trioserf.swim.config import LAN, SwimOptions, Timing
from trioserf.swim.membership import Membership
from trioserf.wire.swim_messages import (
    OUR_VERSIONS,
    Alive,
    Dead,
    Message,
    NodeState,
    State,
    Suspect,
    Versions,
)

US, PEER, OTHER = "us", "peer", "other"
ADDRESSES = {US: bytes([127, 0, 0, 1]), PEER: bytes([127, 0, 0, 2]), OTHER: bytes([127, 0, 0, 3])}
ELSEWHERE = bytes([127, 0, 9, 9])
PORT = 7946
META = b"meta"


class FakeMemberlist(Membership):
    """A member table whose broadcasts can be read back as messages."""

    def __init__(
        self, *, timing: Timing = LAN, options: SwimOptions | None = None, seed: int = 1
    ) -> None:
        self._spoken: dict[bytes, Message] = {}
        super().__init__(
            US,
            ADDRESSES[US],
            PORT,
            timing=timing,
            rng=random.Random(seed),
            encode=self._spell,
            options=options or SwimOptions(),
        )
        self.bootstrap(META, OUR_VERSIONS, 0.0)
        self.forget()

    def _spell(self, message: Message) -> bytes:
        data = b"%06d" % len(self._spoken)
        self._spoken[data] = message
        return data

    def said(self) -> list[Message]:
        """Everything queued for broadcast, in the order of a packet."""
        queue, said = self.broadcasts, []
        for urgent in (True, False):
            while (data := queue.select(65_507, urgent=urgent)) is not None:
                said.append(self._spoken[data])
        for call in queue.finish_packet():
            call()
        return said

    def happened(self) -> list[str]:
        """The kinds of the notices not yet drained, in order; drains them."""
        kinds = [type(notice).__name__ for notice in self.events]
        self.events.clear()
        return kinds

    def forget(self) -> None:
        """Empty the queue and the notices."""
        self.broadcasts.prune(0)
        self.events.clear()

    def with_member(
        self, name: str, state: State, incarnation: int, *, now: float = 0.0, meta: bytes = META
    ) -> "FakeMemberlist":
        """Let a member be known in this state and incarnation, by nothing but messages."""
        self.alive(alive(name, incarnation, meta=meta), now)
        match state:
            case State.SUSPECT:
                self.suspect(Suspect(incarnation, name, OTHER), now)
            case State.DEAD:
                self.dead(Dead(incarnation, name, OTHER), now)
            case State.LEFT:
                self.dead(Dead(incarnation, name, name), now)
            case State.ALIVE:
                pass
        self.forget()
        return self

    def with_crowd(self, count: int, now: float = 0.0) -> "FakeMemberlist":
        """Let `count` more members be alive, named m0, m1 and so on."""
        for number in range(count):
            self.alive(crowd_alive(number), now)
        self.forget()
        return self


def alive(
    name: str,
    incarnation: int,
    *,
    addr: bytes | None = None,
    port: int = PORT,
    meta: bytes = META,
    versions: Versions | None = OUR_VERSIONS,
) -> Alive:
    """An alive message from the member's usual address, unless told otherwise."""
    return Alive(
        incarnation, name, ADDRESSES[name] if addr is None else addr, port, meta, versions
    )


def crowd_alive(number: int) -> Alive:
    return Alive(1, f"m{number}", bytes([10, 0, *divmod(number, 256)]), PORT)


def node_state(
    name: str,
    state: State,
    incarnation: int,
    *,
    meta: bytes = META,
    versions: Versions | None = OUR_VERSIONS,
) -> NodeState:
    """A line of a push/pull about one of the three usual members."""
    return NodeState(name, ADDRESSES[name], PORT, meta, incarnation, state, versions)
