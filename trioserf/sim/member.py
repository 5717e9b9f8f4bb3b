"""A member of a simulated world, through all its lives."""

import attrs
import trio

from trioserf.address import Address
from trioserf.node.config import NodeConfig
from trioserf.node.node import Node
from trioserf.serf.snapshot import LamportTimes
from trioserf.sim.endpoint import SimTransport


@attrs.define(slots=True, eq=False)
class SimMember:
    """One member of the world, through all its lives.

    Attributes:
        id: the world's name for it; differs from `name` only where two claim one name.
        name: its name in the cluster.
        address: where it is.
        config: as it was started.
        seeds: whom it joins.
        status: `up`, `leaving`, `left`, `crashed`, or `quit` if it gave up its name.
        node: the node, while it is up.
        life: how often it was started.
        up_since: the instant of its last start.
        joined: whether this life has joined.
        events_from: the Lamport time of the first event that is news for it.
        left_in_calm: whether the network was whole while it left, so that it was heard.
        has_left_once: whether any of its lives has left.
        remembered: what a snapshot file would hold: clocks, and addresses to join again.
    """

    id: str
    name: str
    address: Address
    config: NodeConfig
    seeds: tuple[str, ...]
    status: str = "down"
    node: Node | None = None
    transport: SimTransport | None = None
    life: int = 0
    up_since: float = 0.0
    joined: bool = False
    events_from: int = 0
    left_in_calm: bool = False
    has_left_once: bool = False
    remembered: tuple[LamportTimes, tuple[str, ...]] | None = None
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    ended: trio.Event = attrs.Factory(trio.Event)

    @property
    def is_up(self) -> bool:
        """Whether it runs and means to stay."""
        return self.status == "up" and self.node is not None
