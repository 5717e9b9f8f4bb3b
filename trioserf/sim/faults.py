"""Faults that can be injected into a simulated cluster, except crashes."""

from collections.abc import Iterable

import trio

from trioserf.sim.member import SimMember
from trioserf.sim.network import Network
from trioserf.sim.trace import CLUSTER, Trace


class Faults:
    """The members of a cluster, and partitions, cuts, losses, pauses and delays between them.

    Args:
        network: connects the members.
        trace: records the faults.

    Attributes:
        members: all members by their ids, in the order of their first start.
        network: as given.
        trace: as given.
        was_partitioned: whether there was a partition or a cut.
    """

    def __init__(self, network: Network, trace: Trace) -> None:
        self.network = network
        self.trace = trace
        self.members: dict[str, SimMember] = {}
        self.was_partitioned = False
        self._active: dict[str, None] = {}
        self._calm_since = trio.current_time()

    @property
    def now(self) -> float:
        """The seconds of virtual time."""
        return trio.current_time()

    @property
    def up(self) -> list[SimMember]:
        """The members that run, in the order of their first start."""
        return [member for member in self.members.values() if member.is_up]

    @property
    def calm_since(self) -> float | None:
        """The instant at which the last fault ended; None while one is active."""
        return None if self._active else self._calm_since

    def note(self, kind: str, detail: str = "", member: str = CLUSTER) -> None:
        """Record an event in the trace."""
        self.trace.add(trio.current_time(), member, kind, detail)

    def partition(self, *groups: Iterable[str]) -> None:
        """Allow traffic inside each group only; all other members form one more group."""
        parts = [list(group) for group in groups]
        self.note("partition", " | ".join(" ".join(part) for part in parts))
        self.network.partition(*[[self.members[m].address for m in part] for part in parts])
        self.was_partitioned = True
        self._set_active("partition", any(parts))

    def cut(self, source: str, target: str, *, reject: bool = False) -> None:
        """Block traffic from one member to another; the other direction still works.

        With `reject` a firewall refuses it, so that no process seems to listen there.
        """
        self.note("cut", f"{source} -> {target}" + (" reject" if reject else ""))
        addresses = self.members[source].address, self.members[target].address
        self.network.cut(*addresses, reject=reject)
        self.was_partitioned = True
        self._set_active(f"cut {source} {target}", True)

    def mend(self, source: str, target: str) -> None:
        """Undo a `cut`."""
        self.note("mend", f"{source} -> {target}")
        self.network.mend(self.members[source].address, self.members[target].address)
        self._set_active(f"cut {source} {target}", False)

    def lose(self, member: str, *, sent: float = 0.0, received: float = 0.0) -> None:
        """Drop shares (0 to 1) of the packets from and to a member; 0 ends it."""
        self.note("lose", f"sent={sent:g} received={received:g}", member)
        self.network.lose(self.members[member].address, sent=sent, received=received)
        self._set_active(f"lose {member}", bool(sent or received))

    def heal(self) -> None:
        """End every partition, every cut and the loss of single members, but no pause or delay."""
        self.note("heal")
        self.network.heal()
        for fault in [one for one in self._active if not one.startswith(("pause", "slow"))]:
            self._set_active(fault, False)

    def pause(self, member: str) -> None:
        """Hold a member's traffic in both directions until `resume`; its timers go on."""
        transport = self.members[member].transport
        if transport is not None:
            self.note("pause", member=member)
            transport.pause()
            self._set_active(f"pause {member}", True)

    def resume(self, member: str) -> None:
        """End a pause; send and deliver the held traffic."""
        transport = self.members[member].transport
        if transport is not None:
            self.note("resume", member=member)
            transport.resume()
        self._set_active(f"pause {member}", False)

    def slow(self, member: str, delay: float) -> None:
        """Delay everything that a member sends by so many seconds; 0 ends it."""
        transport = self.members[member].transport
        if transport is not None:
            self.note("slow", f"{delay:g}", member)
            transport.delay = delay
            self._set_active(f"slow {member}", delay > 0)

    def _set_active(self, fault: str, active: bool) -> None:
        if active:
            self._active[fault] = None
        elif fault in self._active:
            del self._active[fault]
            self._calm_since = trio.current_time()
