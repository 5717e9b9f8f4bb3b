"""A member of a simulated cluster, across restarts."""

import attrs
import trio

from trioserf.address import Address
from trioserf.node.config import NodeConfig
from trioserf.node.node import Node
from trioserf.serf.snapshot import LamportTimes
from trioserf.sim.transport import SimTransport


@attrs.define(eq=False)
class SimMember:
    """One member, across restarts.

    Attributes:
        id: its name in the simulation; differs from `name` only where two members claim one name.
        name: its name in the cluster.
        address: its gossip address.
        config: the configuration of its node.
        seeds: ids of the members that it joins.
        status: `up`, `leaving`, `left`, `crashed`, or `quit` if it gave up its name.
        node: the node, while it is up.
        transport: the transport of its last start.
        starts: how often it was started.
        up_since: the instant of its last start.
        joined: whether it has joined since its last start.
        events_from: the Lamport time of the first event that is new to it.
        left_in_calm: whether no fault was active while it left, so that others received its leave.
        has_left_once: whether it has ever left.
        saved: what a snapshot file would hold: clocks, and addresses to join again.
        scope: cancels the task of its node.
        ended: set when its node has ended.
    """

    id: str
    name: str
    address: Address
    config: NodeConfig
    seeds: tuple[str, ...]
    status: str = "down"
    node: Node | None = None
    transport: SimTransport | None = None
    starts: int = 0
    up_since: float = 0.0
    joined: bool = False
    events_from: int = 0
    left_in_calm: bool = False
    has_left_once: bool = False
    saved: tuple[LamportTimes, tuple[str, ...]] | None = None
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    ended: trio.Event = attrs.Factory(trio.Event)

    @property
    def is_up(self) -> bool:
        """Whether it runs and is not leaving."""
        return self.status == "up" and self.node is not None

    @property
    def run_key(self) -> tuple[str, int]:
        """Its id and the number of its last start."""
        return self.id, self.starts
