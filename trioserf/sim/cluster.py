"""A world: real nodes on a simulated network in virtual time, with somebody who does them harm.

`run` plays a scenario and gives its trace; `open_world` makes a world inside a running program,
for tests that tell their own story. The nodes are those of `open_node`, unchanged; what differs
is the transport, the clock and the scheduler, and all their randomness comes from one seed.
"""

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs
import trio

from trioserf.address import Address
from trioserf.errors import AddressError, JoinFailed, Leaving, NameConflict
from trioserf.net.resolver import Service
from trioserf.node.config import NodeConfig
from trioserf.node.node import Node
from trioserf.node.open_node import open_node
from trioserf.serf.events import Event, MemberEvent, QueryReceived, UserEventReceived
from trioserf.serf.keyring import Keyring
from trioserf.serf.snapshot import LamportTimes
from trioserf.sim.faults import Faults
from trioserf.sim.invariants import InvariantChecker, Violation
from trioserf.sim.member import SimMember
from trioserf.sim.network import LinkConditions, Network
from trioserf.sim.trace import Trace

PORT: Final = 7946
_LOOK: Final = 3.0
"""Seconds between two looks at things that nobody announces, such as the lengths of queues."""
_POLL: Final = 0.5
"""Seconds between two looks at whether all agree."""


class SimCluster(Faults):
    """Members, the network between them, and a judge of what they do; made by `open_world`.

    Args:
        nursery: where members live.
        rng: all randomness.
        trace: takes down what happens.
        link: how packets fare.
        config: what all members have in common.

    Attributes:
        members: all members by their ids.
        network: the network.
        judge: watches the invariants.
        trace: what has happened.
        rng: randomness for scenarios.
        srv_records: services by name, whose hosts are ids of members.
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
        self.judge = InvariantChecker(self)
        self._nursery = nursery

    # --- looking ---

    @property
    def now(self) -> float:
        """The instant, in seconds of virtual time."""
        return trio.current_time()

    @property
    def up(self) -> list[SimMember]:
        """The members that run, in the order of their first start."""
        return [member for member in self.members.values() if member.is_up]

    def node(self, member: str) -> Node:
        """Give the node of a member that is up.

        Raises:
            KeyError: there is no such member, or it is not up.
        """
        node = self.members[member].node
        if node is None:
            raise KeyError(f"{member} is {self.members[member].status}")
        return node

    # --- life and death ---

    async def start(
        self,
        member: str,
        *,
        seeds: Iterable[str] = (),
        name: str = "",
        host: str = "",
        **options: Any,
    ) -> Node:
        """Start a new member and join it to others, in the background.

        Args:
            member: its id, and its name unless another is given.
            seeds: ids of members to join, which are also its seeds later on.
            name: the name it claims.
            host: its IP address; one of 10/8 unless given.
            options: fields of `NodeConfig` that differ from the world's.
        """
        number = len(self.members) + 1
        address = Address(host or f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", PORT)
        config = attrs.evolve(self.config, name=name or member, bind=address, **options)
        if config.keyring is not None:
            # A ring of its own, which it keeps through all its lives, as if in a file.
            config = attrs.evolve(config, keyring=Keyring(config.keyring.keys))
        who = SimMember(member, config.name, address, config, tuple(seeds))
        self.members[member] = who
        return await self._start(who, None)

    async def grow(self, count: int, *, within: float = 1.0, **options: Any) -> list[str]:
        """Start more members, at random instants, which all join the first; give their ids.

        Args:
            count: how many.
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
        """Kill members: nothing more is sent, and what they knew is lost but for a snapshot."""
        for member in members:
            who = self.members[member]
            if who.node is None or who.transport is None:
                raise KeyError(f"{member} is {who.status}")
            self.judge.check_incarnation(who)  # what it has said last may still be on its way
            self._remember(who, who.node)
            self.note("crash", who=member)
            who.status = "crashed"
            # First the tasks: none of them shall see its endpoint close, as no dead process does.
            who.scope.cancel()
            who.transport.kill()
        for member in members:
            await self.members[member].ended.wait()

    async def restart(self, member: str, *, snapshot: bool = False, **options: Any) -> Node:
        """Start a member again that crashed or left.

        Args:
            member: its id.
            snapshot: with the clocks that it had, and joining the members that it knew.
            options: fields of `NodeConfig` that have changed.
        """
        who = self.members[member]
        who.config = attrs.evolve(who.config, **options)
        restored = who.remembered if snapshot else None
        return await self._start(who, restored)

    async def leave(self, *members: str) -> None:
        """Let members leave in good order, at the same time, and wait until they are gone."""
        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(self._leave, self.members[member])

    async def _leave(self, who: SimMember) -> None:
        node = self.node(who.id)
        self.note("leave", who=who.id)
        who.status = "leaving"
        started = trio.current_time()
        await node.leave()
        who.left_in_calm = self.calm_since is not None and self.calm_since <= started
        if who.status == "leaving":
            self._remember(who, node)
            who.status = "left"
            who.has_left_once = True
            self.note("gone", who=who.id)
            who.scope.cancel()
            await who.ended.wait()

    def _remember(self, who: SimMember, node: Node) -> None:
        alive = [
            f"{m.name}/{m.address}"
            for m in node.members()
            if m.status_text == "alive" and m.name != who.name
        ]
        who.remembered = node.latest_times(), tuple(alive)

    async def _start(
        self, who: SimMember, restored: tuple[LamportTimes, tuple[str, ...]] | None
    ) -> Node:
        if who.node is not None:
            raise KeyError(f"{who.id} is up already")
        who.life += 1
        who.status = "up"
        who.joined = False
        who.up_since = trio.current_time()
        who.scope = trio.CancelScope()
        who.ended = trio.Event()
        self.note("start", f"life={who.life}" + (" restored" if restored else ""), who.id)
        self.judge.started(who, restored=restored is not None)
        clocks, peers = restored or (None, ())
        seeds = tuple(
            f"{self.members[s].name}/{self.members[s].address}" for s in who.seeds if s != who.id
        )
        await self._nursery.start(partial(self._live, who, clocks, peers or seeds, seeds))
        return self.node(who.id)

    async def _live(
        self,
        who: SimMember,
        clocks: LamportTimes | None,
        peers: tuple[str, ...],
        seeds: tuple[str, ...],
        task_status: trio.TaskStatus[None],
    ) -> None:
        who.transport = transport = self.network.open(who.address)
        seed = self.rng.getrandbits(64)
        try:
            with who.scope:
                async with (
                    open_node(
                        who.config,
                        transport=transport,
                        resolver=self,
                        rng=random.Random(seed),
                        restore=clocks,
                        nonce=random.Random(~seed).randbytes,
                    ) as node,
                    trio.open_nursery() as nursery,
                ):
                    who.node = node
                    with node.watch(partial(self._saw, who)):
                        self.judge.check_incarnation(who)
                        node.add_seeds(seeds)
                        task_status.started()
                        nursery.start_soon(self._join, who, node, peers)
                        await trio.sleep_forever()
        except NameConflict as error:
            who.status = "quit"
            self.note("quit", str(error), who.id)
        finally:
            transport.kill()
            who.node = None
            who.ended.set()

    async def _join(self, who: SimMember, node: Node, peers: tuple[str, ...]) -> None:
        if peers:
            try:
                await node.join(peers)
            except JoinFailed as error:
                self.note("join-failed", f"{len(error.args)}", who.id)
                return
            except Leaving:
                return
        who.joined = True
        who.events_from = node.clocks()[1]

    async def addresses(self, host: str) -> list[str]:
        """Give the address of a member by its id, as a resolver.

        Raises:
            AddressError: there is none.
        """
        await trio.lowlevel.checkpoint()
        if host not in self.members:
            raise AddressError(f"unknown host {host!r}")
        return [self.members[host].address.host]

    async def services(self, name: str) -> list[Service]:
        """Give what scenarios have put into `srv_records`, as a resolver.

        Raises:
            AddressError: nothing.
        """
        await trio.lowlevel.checkpoint()
        if not self.srv_records.get(name):
            raise AddressError(f"service {name!r}: there is no such name")
        return list(self.srv_records[name])

    # --- events ---

    async def event(self, member: str, name: str, payload: bytes = b"") -> int:
        """Let a member send a user event, of which the judge will know who must get it."""
        self.note("send", name, member)
        audience = self.judge.expected_receivers()
        ltime = await self.node(member).user_event(name, payload)
        self.judge.sent(name, payload, ltime, audience)
        return ltime

    def _saw(self, who: SimMember, event: Event) -> None:
        if isinstance(event, MemberEvent):
            for member in event.members:
                record = None
                if who.node is not None:
                    record = who.node.memberlist.records.get(member.name)
                incarnation = "-" if record is None else str(record.incarnation)
                self.note(event.kind, f"{member.name} inc={incarnation}", who.id)
                self.judge.on_member(who, event.kind, member, record)
        elif isinstance(event, UserEventReceived):
            self.note("user", f"{event.name}@{event.ltime}", who.id)
            self.judge.on_event(who, event)
        elif isinstance(event, QueryReceived):
            self.note("query", f"{event.name}@{event.ltime}", who.id)

    # --- time ---

    async def settle(self, bound: float | None = None) -> float:
        """Wait until all members agree and every event has arrived; give how long it took.

        Args:
            bound: seconds within which it must be so; the derived bound unless given.

        Raises:
            Violation: it was not.
        """
        started = trio.current_time()
        bound = self.judge.convergence_bound() if bound is None else bound
        while True:
            disagreement = self.judge.disagreement()
            if disagreement is None:
                took = trio.current_time() - started
                self.note("settled", f"after {took:.1f} s")
                return took
            if trio.current_time() - started > bound:
                raise Violation(
                    "convergence", f"after {bound:.0f} s without a fault: {disagreement}"
                )
            await trio.sleep(_POLL)

    async def watch_bounds(self) -> None:
        """Look from time to time at what nobody announces, until cancelled."""
        while True:
            await trio.sleep(_LOOK)
            self.judge.check_all()


@asynccontextmanager
async def open_world(
    *,
    seed: int = 0,
    scenario: str = "world",
    link: LinkConditions | None = None,
    config: NodeConfig | None = None,
    trace: Trace | None = None,
) -> AsyncIterator[SimCluster]:
    """Make a world for as long as the block lasts.

    It needs a clock that jumps (`trio.testing.MockClock(autojump_threshold=0)`, or pytest-trio's
    `autojump_clock`), and its repeatability needs `repeatable` around the program.

    Args:
        seed: what all randomness comes from.
        scenario: a name for the trace.
        link: how packets fare.
        config: what all members have in common; name and address are set for each.
        trace: takes down what happens.

    Raises:
        Violation: an invariant did not hold.
    """
    trace = trace or Trace(scenario, seed)
    async with trio.open_nursery() as nursery:
        world = SimCluster(
            nursery,
            random.Random(seed),
            trace,
            link=link or LinkConditions(),
            config=config or NodeConfig(name="template"),
        )
        nursery.start_soon(world.network.run)
        nursery.start_soon(world.watch_bounds)
        try:
            yield world
        finally:
            trace.seconds = trio.current_time()
            trace.network = world.network.counts
            trace.checksum = world.network.checksum
        nursery.cancel_scope.cancel()
