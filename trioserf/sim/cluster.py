"""A simulated cluster: unchanged nodes of `open_node` on a simulated network, in virtual time.

`scenario.run` runs a scenario and returns its trace; `open_cluster` makes a cluster inside a
running program, for tests. Only transport, clock and scheduler differ from a real cluster, and all
randomness comes from one seed (see README.md).
"""

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs
import trio

from trioserf.address import Address
from trioserf.errors import AddressError, JoinFailed, Leaving, NameConflict, NameInUse
from trioserf.net.services import Service
from trioserf.node.config import NodeConfig
from trioserf.node.node import Node
from trioserf.node.open_node import open_node
from trioserf.serf.events import Event, MemberEvent, QueryReceived, UserEventReceived
from trioserf.serf.keyring import Keyring
from trioserf.serf.snapshot import LamportTimes
from trioserf.sim.faults import Faults
from trioserf.sim.invariants import InvariantChecker, Violation
from trioserf.sim.member import SimMember
from trioserf.sim.network import QUIET_LAN, LinkConditions, Network
from trioserf.sim.trace import Trace

PORT: Final = 7946
TEMPLATE: Final = NodeConfig(name="template")
"""The default configuration of members; each gets its own name and address."""
_CHECK_INTERVAL: Final = 3.0
"""Seconds between checks of values that no event reports, such as queue lengths."""
_POLL_INTERVAL: Final = 0.5
"""Seconds between checks whether all members agree."""


class SimCluster(Faults):
    """Members, the network between them and the checker of invariants; made by `open_cluster`.

    Args:
        nursery: runs the members.
        rng: the source of all randomness.
        trace: records what happens.
        link: conditions of all links.
        config: what all members have in common.

    Attributes:
        config: as given.
        checker: checks the invariants.
        rng: randomness for scenarios.
        srv_records: services by name; their hosts are ids of members.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        rng: random.Random,
        trace: Trace,
        *,
        link: LinkConditions,
        config: NodeConfig,
    ) -> None:
        super().__init__(Network(random.Random(rng.getrandbits(64)), link), trace)
        self.rng = rng
        self.config = config
        self.srv_records: dict[str, list[Service]] = {}
        self.checker = InvariantChecker(self, config)
        self._nursery = nursery

    def node(self, member: str) -> Node:
        """Return the node of a member that is up.

        Raises:
            KeyError: the member does not exist or is not up.
        """
        node = self.members[member].node
        if node is None:
            raise KeyError(f"{member} is {self.members[member].status}")
        return node

    # --- starting and ending members ---

    async def start(
        self,
        member: str,
        *,
        seeds: Iterable[str] = (),
        name: str = "",
        host: str = "",
        **options: Any,
    ) -> Node:
        """Start a new member and join it to others in the background.

        Args:
            member: its id, and its name unless `name` is given.
            seeds: ids of members to join, now and again whenever they are not alive.
            name: its name in the cluster.
            host: its IP address; by default one of 10/8.
            options: fields of `NodeConfig` that differ from those of the cluster.
        """
        number = len(self.members) + 1
        address = Address(host or f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", PORT)
        config = attrs.evolve(self.config, name=name or member, bind=address, **options)
        if config.keyring is not None:
            # Each member has its own keyring and keeps it across restarts, as if in a file.
            config = attrs.evolve(config, keyring=Keyring(config.keyring.keys))
        new = SimMember(member, config.name, address, config, tuple(seeds))
        self.members[member] = new
        return await self._start(new, None)

    async def grow(self, count: int, *, within: float = 1.0, **options: Any) -> list[str]:
        """Start more members at random instants and join them to the first; return their ids.

        Args:
            count: the number of new members.
            within: seconds over which their starts are spread.
            options: fields of `NodeConfig`.
        """
        first = len(self.members) + 1
        ids = [f"n{number}" for number in range(first, first + count)]
        seed = next(iter(self.members), ids[0])
        starts = sorted(self.rng.random() * within for _ in ids)
        begin = trio.current_time()
        for member, start in zip(ids, starts, strict=True):
            await trio.sleep_until(begin + start)
            await self.start(member, seeds=() if member == seed else (seed,), **options)
        return ids

    async def crash(self, *members: str) -> None:
        """Kill members: they stop at once and lose their state, except for a snapshot."""
        for name in members:
            member = self.members[name]
            if member.node is None or member.transport is None:
                raise KeyError(f"{name} is {member.status}")
            # A refutation that it sent since the last check may still be in flight.
            self.checker.check_incarnation(member)
            self._save(member, member.node)
            self.note("crash", member=name)
            member.status = "crashed"
            # Tasks end first, so that none of them can observe that the transport closes.
            member.scope.cancel()
            member.transport.kill()
        for name in members:
            await self.members[name].ended.wait()

    async def restart(self, member: str, *, snapshot: bool = False, **options: Any) -> Node:
        """Start a member again that has crashed or left.

        Args:
            member: its id.
            snapshot: restore its clocks and join the members that it knew.
            options: fields of `NodeConfig` that have changed.
        """
        old = self.members[member]
        old.config = attrs.evolve(old.config, **options)
        return await self._start(old, old.saved if snapshot else None)

    async def leave(self, *members: str) -> None:
        """Make members leave gracefully, all at once, and wait until they have ended."""
        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(self._leave, self.members[member])

    async def _leave(self, member: SimMember) -> None:
        node = self.node(member.id)
        self.note("leave", member=member.id)
        member.status = "leaving"
        started = trio.current_time()
        await node.leave()
        member.left_in_calm = self.calm_since is not None and self.calm_since <= started
        if member.status == "leaving":
            self._save(member, node)
            member.status = "left"
            member.has_left_once = True
            self.note("left", member=member.id)
            member.scope.cancel()
            await member.ended.wait()

    def _save(self, member: SimMember, node: Node) -> None:
        alive = [
            f"{m.name}/{m.address}"
            for m in node.members()
            if m.status == "alive" and m.name != member.name
        ]
        member.saved = node.latest_times(), tuple(alive)

    async def _start(
        self, member: SimMember, restored: tuple[LamportTimes, tuple[str, ...]] | None
    ) -> Node:
        if member.node is not None:
            raise KeyError(f"{member.id} is up already")
        member.starts += 1
        member.status = "up"
        member.joined = False
        member.up_since = trio.current_time()
        member.scope = trio.CancelScope()
        member.ended = trio.Event()
        self.note(
            "start", f"starts={member.starts}" + (" restored" if restored else ""), member.id
        )
        self.checker.on_start(member, restored=restored is not None)
        clocks, peers = restored or (None, ())
        seeds = tuple(
            f"{self.members[s].name}/{self.members[s].address}"
            for s in member.seeds
            if s != member.id
        )
        await self._nursery.start(partial(self._run, member, clocks, peers or seeds, seeds))
        return self.node(member.id)

    async def _run(
        self,
        member: SimMember,
        clocks: LamportTimes | None,
        peers: tuple[str, ...],
        seeds: tuple[str, ...],
        task_status: trio.TaskStatus[None],
    ) -> None:
        member.transport = transport = self.network.open(member.address)
        seed = self.rng.getrandbits(64)
        try:
            with member.scope:
                async with (
                    open_node(
                        member.config,
                        transport=transport,
                        resolver=self,
                        rng=random.Random(seed),
                        restore=clocks,
                        nonce=random.Random(~seed).randbytes,
                    ) as node,
                    trio.open_nursery() as nursery,
                ):
                    member.node = node
                    with node.watch(partial(self._on_event, member)):
                        self.checker.check_incarnation(member)
                        node.add_seeds(seeds)
                        task_status.started()
                        nursery.start_soon(self._join, member, node, peers)
                        await trio.sleep_forever()
        except NameConflict as error:
            member.status = "quit"
            self.note("quit", str(error), member.id)
        finally:
            transport.kill()
            member.node = None
            member.ended.set()

    async def _join(self, member: SimMember, node: Node, peers: tuple[str, ...]) -> None:
        if peers:
            try:
                await node.join(peers)
            except NameInUse as error:
                member.status = "quit"
                self.note("quit", str(error), member.id)
                member.scope.cancel()
                return
            except JoinFailed as error:
                self.note("join-failed", f"{len(error.args)}", member.id)
                return
            except Leaving:
                return
        member.joined = True
        member.events_from = node.clocks()[1]

    # --- the Resolver protocol ---

    async def addresses(self, host: str) -> list[str]:
        """Return the address of a member by its id.

        Raises:
            AddressError: no member has this id.
        """
        await trio.lowlevel.checkpoint()
        if host not in self.members:
            raise AddressError(f"unknown host {host!r}")
        return [self.members[host].address.host]

    async def services(self, name: str) -> list[Service]:
        """Return the services of this name in `srv_records`.

        Raises:
            AddressError: the service does not exist.
        """
        await trio.lowlevel.checkpoint()
        if not self.srv_records.get(name):
            raise AddressError(f"service {name!r}: there is no such name")
        return list(self.srv_records[name])

    # --- events ---

    async def event(self, member: str, name: str, payload: bytes = b"") -> int:
        """Send a user event whose delivery is checked; return its Lamport time."""
        self.note("send", name, member)
        receivers = self.checker.expected_receivers()
        has_joined = self.members[member].joined
        ltime = await self.node(member).user_event(name, payload)
        self.checker.on_sent(name, payload, ltime, receivers, has_joined=has_joined)
        return ltime

    def _on_event(self, observer: SimMember, event: Event) -> None:
        if isinstance(event, MemberEvent):
            for member in event.members:
                record = None
                if observer.node is not None:
                    record = observer.node.memberlist.records.get(member.name)
                incarnation = "-" if record is None else str(record.incarnation)
                self.note(event.kind, f"{member.name} inc={incarnation}", observer.id)
                self.checker.on_member(observer, event.kind, member, record)
        elif isinstance(event, UserEventReceived):
            self.note("user", f"{event.name}@{event.ltime}", observer.id)
            self.checker.on_event(observer, event)
        elif isinstance(event, QueryReceived):
            self.note("query", f"{event.name}@{event.ltime}", observer.id)

    # --- checks ---

    async def settle(self, bound: float | None = None) -> float:
        """Wait until all members agree and have all events; return the seconds that it took.

        Args:
            bound: the longest wait in seconds; by default `InvariantChecker.convergence_bound`.

        Raises:
            Violation: members still disagree after this time.
        """
        started = trio.current_time()
        bound = self.checker.convergence_bound() if bound is None else bound
        while True:
            disagreement = self.checker.disagreement()
            if disagreement is None:
                took = trio.current_time() - started
                self.note("settled", f"after {took:.1f} s")
                return took
            if trio.current_time() - started > bound:
                raise Violation(
                    "convergence", f"after {bound:.0f} s without a fault: {disagreement}"
                )
            await trio.sleep(_POLL_INTERVAL)

    async def check_periodically(self) -> None:
        """Check what no event reports, until cancelled."""
        while True:
            await trio.sleep(_CHECK_INTERVAL)
            self.checker.check_all()


@asynccontextmanager
async def open_cluster(
    *,
    seed: int = 0,
    scenario: str = "cluster",
    link: LinkConditions = QUIET_LAN,
    config: NodeConfig = TEMPLATE,
    trace: Trace | None = None,
) -> AsyncIterator[SimCluster]:
    """Run a simulated cluster, without members at first, inside the block.

    It needs a clock that jumps (`VirtualClock`, `trio.testing.MockClock(autojump_threshold=0)` or
    pytest-trio's `autojump_clock`). To be repeatable, the program must run inside `repeatable`.

    Args:
        seed: the seed of all randomness.
        scenario: a name for the trace.
        link: conditions of all links.
        config: what all members have in common; name and address are set for each.
        trace: records what happens.

    Raises:
        Violation: an invariant did not hold.
    """
    trace = trace or Trace(scenario, seed)
    async with trio.open_nursery() as nursery:
        cluster = SimCluster(
            nursery,
            random.Random(seed),
            trace,
            link=link,
            config=config,
        )
        nursery.start_soon(cluster.network.run)
        nursery.start_soon(cluster.check_periodically)
        try:
            yield cluster
        finally:
            trace.seconds = trio.current_time()
            trace.network = cluster.network.counts
            trace.checksum = cluster.network.checksum
        nursery.cancel_scope.cancel()
