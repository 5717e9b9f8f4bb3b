"""What can be done to a world's network and members, short of killing them."""

from collections.abc import Iterable

import trio

from trioserf.sim.member import SimMember
from trioserf.sim.network import Network
from trioserf.sim.trace import WORLD, Trace


class Faults:
    """Partitions, cuts, losses, pauses and slowness, by the ids of members.

    Args:
        network: where they happen.
        trace: takes them down.

    Attributes:
        members: all members by their ids.
        network: as given.
        trace: as given.
    """

    def __init__(self, network: Network, trace: Trace) -> None:
        self.network = network
        self.trace = trace
        self.members: dict[str, SimMember] = {}
        self._faults: dict[str, None] = {}
        self._calm_since = trio.current_time()

    @property
    def calm_since(self) -> float | None:
        """Since when no fault of the network and no pause was active; None if one is."""
        return None if self._faults else self._calm_since

    def note(self, what: str, detail: str = "", who: str = WORLD) -> None:
        """Take something down."""
        self.trace.add(trio.current_time(), who, what, detail)

    def partition(self, *groups: Iterable[str]) -> None:
        """Let only members of the same group reach each other; the rest are one group more."""
        parts = [list(group) for group in groups]
        self.note("partition", " | ".join(" ".join(part) for part in parts))
        self.network.partition(*[[self.members[m].address for m in part] for part in parts])
        self._fault("partition", any(parts))

    def cut(self, source: str, target: str) -> None:
        """Let nothing through from one member to another; the way back still works."""
        self.note("cut", f"{source} -> {target}")
        self.network.cut(self.members[source].address, self.members[target].address)
        self._fault(f"cut {source} {target}", True)

    def mend(self, source: str, target: str) -> None:
        """Undo a `cut`."""
        self.note("mend", f"{source} -> {target}")
        self.network.mend(self.members[source].address, self.members[target].address)
        self._fault(f"cut {source} {target}", False)

    def lose(self, member: str, *, sent: float = 0.0, received: float = 0.0) -> None:
        """Lose shares (0 to 1) of what a member sends and of what it is sent."""
        self.note("lose", f"sent={sent:g} received={received:g}", member)
        self.network.lose(self.members[member].address, sent=sent, received=received)
        self._fault(f"lose {member}", bool(sent or received))

    def heal(self) -> None:
        """End every partition, cut and loss of single members; the paused stay paused."""
        self.note("heal")
        self.network.heal()
        for fault in [one for one in self._faults if not one.startswith(("pause", "slow"))]:
            self._fault(fault, False)

    def pause(self, member: str) -> None:
        """Let a member's packets wait on both sides until `resume`; its timers go on."""
        transport = self.members[member].transport
        if transport is not None:
            self.note("pause", who=member)
            transport.pause()
            self._fault(f"pause {member}", True)

    def resume(self, member: str) -> None:
        """End a pause: what has waited goes out and comes in, late."""
        transport = self.members[member].transport
        if transport is not None:
            self.note("resume", who=member)
            transport.resume()
        self._fault(f"pause {member}", False)

    def slow(self, member: str, delay: float) -> None:
        """Let everything that a member sends be late by so many seconds; 0 ends it."""
        transport = self.members[member].transport
        if transport is not None:
            self.note("slow", f"{delay:g}", member)
            transport.delay = delay
            self._fault(f"slow {member}", delay > 0)

    def _fault(self, name: str, active: bool) -> None:
        if active:
            self._faults[name] = None
        elif name in self._faults:
            del self._faults[name]
            self._calm_since = trio.current_time()
