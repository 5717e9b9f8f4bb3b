"""A member table for tests, and messages about its members."""

import random
from collections.abc import Iterable

from trioserf.swim.config import LAN, SwimOptions, Timing
from trioserf.swim.events import MembershipEvent
from trioserf.swim.memberlist import Memberlist
from trioserf.swim.protocol_versions import verify_versions
from trioserf.wire.swim_codec import decode
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


class FakeMemberlist(Memberlist):
    """A member table that records its events and decodes its broadcasts."""

    def __init__(
        self, *, timing: Timing = LAN, options: SwimOptions | None = None, seed: int = 1
    ) -> None:
        self.events: list[MembershipEvent] = []
        super().__init__(
            US,
            ADDRESSES[US],
            PORT,
            timing=timing,
            rng=random.Random(seed),
            on_event=lambda event, _: self.events.append(event),
            options=options or SwimOptions(),
        )
        self.bootstrap(META, OUR_VERSIONS, 0.0)
        self.clear()

    def drain_broadcasts(self) -> list[Message]:
        """Return all queued broadcasts in the order of a packet, as if one packet sent them."""
        queue, messages = self.broadcasts, []
        for urgent in (True, False):
            while (data := queue.select(65_507, urgent=urgent)) is not None:
                messages.append(decode(data))
        for on_done in queue.finish_packet():
            on_done()
        return messages

    def merge(self, states: Iterable[NodeState], now: float) -> None:
        """Merge the whole table of another member."""
        states = tuple(states)
        verify_versions(states, self.records.values())
        self.merge_nodes(states, now)

    def drain_events(self) -> list[str]:
        """Return the names of all events since the last call, in order."""
        names = [type(event).__name__ for event in self.events]
        self.events.clear()
        return names

    def clear(self) -> None:
        """Clear queued broadcasts and events."""
        self.broadcasts.prune(0)
        self.events.clear()

    def with_member(
        self, name: str, state: State, incarnation: int, *, now: float = 0.0, meta: bytes = META
    ) -> "FakeMemberlist":
        """Add a member in this state and incarnation, by messages alone."""
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
        self.clear()
        return self

    def with_members(self, count: int, now: float = 0.0) -> "FakeMemberlist":
        """Add `count` alive members, named m0, m1 and so on."""
        for number in range(count):
            self.alive(numbered_alive(number), now)
        self.clear()
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
    """Return an alive message, by default from the member's usual address."""
    return Alive(
        incarnation, name, ADDRESSES[name] if addr is None else addr, port, meta, versions
    )


def numbered_alive(number: int) -> Alive:
    return Alive(1, f"m{number}", bytes([10, 0, *divmod(number, 256)]), PORT)


def node_state(
    name: str,
    state: State,
    incarnation: int,
    *,
    meta: bytes = META,
    versions: Versions | None = OUR_VERSIONS,
) -> NodeState:
    """Return a row of a push/pull about one of the three usual members."""
    return NodeState(name, ADDRESSES[name], PORT, meta, incarnation, state, versions)
