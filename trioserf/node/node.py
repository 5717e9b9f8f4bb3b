"""A node: one member of a cluster, as an object to be used in a program of Trio.

Everything that can be done with one is a method of one class, most of them documentation and one
step; what they do is done in the modules beside this one.
"""

import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from enum import Enum
from types import MappingProxyType
from typing import Final

import trio

from trioserf.address import Address
from trioserf.coordinate import Coordinate
from trioserf.counters import Counters
from trioserf.errors import Leaving, NoSuchMember
from trioserf.node.config import NodeConfig
from trioserf.node.event_hub import EventHub, Responder, Subscription
from trioserf.node.join import Joiner
from trioserf.node.key_handler import KeyHandler
from trioserf.node.state_owner import StateOwner
from trioserf.serf.events import Event
from trioserf.serf.filters import EventFilter
from trioserf.serf.internal_queries import KeyAction
from trioserf.serf.key_queries import KeyQueryResult, key_query
from trioserf.serf.keyring import Keyring
from trioserf.serf.member import Member
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.serf.query_collector import QueryAnswer, QueryDone, QueryResult, RunningQuery
from trioserf.serf.snapshot import LamportTimes
from trioserf.swim.membership import Membership

_log = logging.getLogger("trioserf.serf")

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Phase(Enum):
    """The life of a node."""

    ALIVE = "alive"
    LEAVING = "leaving"
    LEFT = "left"
    SHUTDOWN = "shutdown"


class Node:
    """One member of a cluster; made by `open_node`.

    Its methods may be called from any task. Errors are those of `trioserf.errors`; after the end
    of its block every call that needs the cluster raises `Leaving`.

    Attributes:
        config: as given.
        bound: where it listens; `address` is what others are told.
        phase: its stage of life.
    """

    def __init__(
        self,
        config: NodeConfig,
        keeper: StateOwner,
        hub: EventHub,
        joining: Joiner,
        desk: KeyHandler,
        work: trio.CancelScope,
        bound: Address,
    ) -> None:
        self.config = config
        self.bound = bound
        self.phase = Phase.ALIVE
        self._owner = keeper
        self._state = keeper.state
        self._hub = hub
        self._joiner = joining
        self._key_handler = desk
        self._work = work

    # --- reading ---

    @property
    def name(self) -> str:
        """This node's name."""
        return self.config.name

    @property
    def address(self) -> Address:
        """Where other members reach it."""
        return self._state.address

    @property
    def keyring(self) -> Keyring | None:
        """The keys that encrypt gossip, or None."""
        return self._key_handler.keyring

    @property
    def tags(self) -> Mapping[str, str]:
        """This node's own tags."""
        return dict(self._state.tags)

    @property
    def members_version(self) -> int:
        """Grows with every change of `members()`."""
        return self._state.serf.members_version

    def members(self) -> tuple[Member, ...]:
        """All members in the order of their appearance; the same tuple until one changes."""
        return self._state.serf.members()

    def member(self, name: str) -> Member | None:
        """Find a member by its name."""
        return self._state.serf.member(name)

    def coordinate(self, name: str | None = None) -> Coordinate | None:
        """Give a member's network coordinate as last heard, or our own; None if unknown."""
        return self._state.coordinates.get(name)

    def clocks(self) -> tuple[int, int, int]:
        """Give what the clocks of members, user events and queries show: the next times."""
        serf = self._state.serf
        return serf.clock.time, serf.event_clock.time, serf.query_clock.time

    def latest_times(self) -> LamportTimes:
        """Give the newest Lamport times heard of: what `open_node` takes as `restore`."""
        return self._state.serf.clocks()

    @property
    def memberlist(self) -> Membership:
        """The failure detector's own table: to be read, between two checkpoints, not changed."""
        return self._state.membership

    def stats(self) -> dict[str, object]:
        """Give the group `serf` of `info`: counts, clocks, depths of queues, health."""
        return self._state.stats()

    def queue_depths(self) -> dict[str, int]:
        """Count what waits here, by kind; none of it grows without bound.

        `inbox`, `membership`, `intent`, `event` and `query` (broadcasts), `suspicions`, `probes`
        and `relays` (pings for others).
        """
        state, membership = self._state, self._state.membership
        return {
            "inbox": self._owner.waiting,
            "membership": len(membership.broadcasts),
            **{kind.lower(): len(queue) for kind, queue in state.serf.queues.items()},
            "suspicions": membership.suspect_count,
            "probes": state.detector.pending_probes,
            "relays": state.detector.pending_indirect_pings,
        }

    def dropped(self) -> dict[str, int]:
        """Count what was dropped: packets that could not be sent, and what peers sent in vain."""
        return {**self._owner.dropped, **self._state.drops.by_kind}

    def dropped_from(self) -> dict[str, int]:
        """Count what peers sent in vain, by their addresses.

        From the 1,025th address on they are counted together, as `others`.
        """
        return dict(self._state.drops.by_peer)

    def encryption_status(self) -> dict[str, object]:
        """Tell how gossip is protected: the number of keys, the switches, label and networks."""
        sealer, config = self._state.sealer, self.config
        return {
            "keys": 0 if self.keyring is None else len(self.keyring.keys),
            "verify_incoming": sealer.verify_incoming,
            "verify_outgoing": sealer.verify_outgoing,
            "label": config.label,
            "allowed_networks": ",".join(config.allowed_networks),
        }

    @property
    def counters(self) -> Counters:
        """What is counted for metrics, since it was last collected."""
        return self._state.counters

    def subscribe(
        self, *filters: EventFilter, answers: bool | Responder = False, buffer: int = 1024
    ) -> AbstractContextManager[Subscription]:
        """Deliver events while the block lasts; iterate over what it gives.

        Args:
            filters: an event that one of them wants is delivered; without any, all kinds that
                Serf knows.
            answers: the reader may answer queries, and does (`respond`) or says that it will not
                (`decline`), or else they run to their deadline. An `Answerer` stands for one of
                whom that is not certain.
            buffer: events kept for a slow reader; `Dropped` stands for what did not fit.
        """
        return self._hub.subscribe(filters, answers=answers, buffer=buffer)

    @contextlib.contextmanager
    def watch(self, watcher: Callable[[Event], None]) -> Iterator[None]:
        """Have a function called with every event while the block lasts, in the step that made it.

        Unlike a subscription it misses nothing and sees the tables as they were then. It must
        return at once, must not call the node, and if it raises, the node ends.
        """
        self._hub.watchers.append(watcher)
        try:
            yield
        finally:
            self._hub.watchers.remove(watcher)

    # --- membership ---

    async def join(self, addresses: Sequence[str], replay: bool = False) -> int:
        """Join a cluster by any of its members, and keep the addresses as seeds.

        Args:
            addresses: `host`, `host:port`, `[v6]:port` or `name/host:port`.
            replay: take in user events from before the join.

        Returns:
            How many addresses could be reached.

        Raises:
            JoinFailed: none of them, with the cause for each.
            Leaving: the node is leaving.
        """
        self._require_alive()
        return await self._joiner.join(addresses, replay=replay)

    def add_seeds(self, addresses: Sequence[str]) -> None:
        """Remember addresses that are to be tried whenever nobody else is in sight."""
        self._joiner.add_seeds(addresses)

    async def leave(self) -> None:
        """Leave the cluster in good order: everyone is told, then this node stops gossiping.

        It takes until the news is out, at most twice `broadcast_timeout`, and
        `leave_propagate_delay` more. Calling it again does nothing.
        """
        if self.phase is not Phase.ALIVE:
            return
        self.phase = Phase.LEAVING
        serf = self.config.serf
        others = self._state.serf.alive_count > 1
        told = trio.Event()
        await self._owner.ask(lambda state, now: state.serf.announce_leave(now, told.set))
        await self._wait(told, "the leave intent")
        if others:
            # Whoever hears the goodbye before the intent would take it for a failure: let the
            # others pass the intent on first.
            await trio.sleep(self.config.timing.gossip_interval)
        gone = trio.Event()
        await self._owner.ask(lambda state, now: state.leave(now, gone.set))
        await self._wait(gone, "the leave")
        if others:
            await trio.sleep(serf.leave_propagate_delay)
        self.phase = Phase.LEFT
        self._work.cancel()

    async def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare that a failed member has left; `prune` erases it altogether.

        Raises:
            NoSuchMember: nobody here knows it (the cluster is told all the same).
            Leaving: the node is leaving.
        """
        self._require_alive()
        told = trio.Event()
        known = await self._owner.ask(
            lambda state, now: state.serf.force_leave(name, prune=prune, now=now, on_done=told.set)
        )
        if not known:
            raise NoSuchMember(f"no member {name!r} is known")
        await self._wait(told, "a forced leave")

    async def set_tags(
        self,
        set: Mapping[str, str] = _NOTHING,  # noqa: A002 - the name that all interfaces use
        delete: Iterable[str] = (),
    ) -> Mapping[str, str]:
        """Change our tags and tell everyone.

        Args:
            set: tags to add or change.
            delete: tags to take away.

        Returns:
            All tags.

        Raises:
            TooLarge: encoded they would have more than 512 bytes; nothing has changed.
            Leaving: the node is leaving.
        """
        self._require_alive()
        return await self._owner.ask(lambda state, now: state.set_tags(set, delete, now))

    # --- events and queries ---

    async def user_event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> int:
        """Send an event to everyone, ourselves included.

        Args:
            name: what happened.
            payload: anything; with the name at most `user_event_size_limit` bytes.
            coalesce: of several with this name, handlers may be shown the newest only.

        Returns:
            Its Lamport time.

        Raises:
            TooLarge: over the limit.
            Leaving: the node is leaving.
        """
        self._require_alive()
        return await self._owner.ask(
            lambda state, _: state.serf.user_event(name, payload, coalesce=coalesce)
        )

    @asynccontextmanager
    async def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] = _NOTHING,
        timeout: float | None = None,
        ack: bool = True,
        relay_factor: int = 0,
        first: int | None = None,
    ) -> AsyncIterator[AsyncIterator[QueryResult]]:
        """Ask the cluster; iterate over what comes back, `QueryDone` last.

        Args:
            name: what is asked.
            payload: anything; the encoded query has at most `query_size_limit` bytes.
            nodes: names of those who are asked; none for everyone.
            tags: RE2 expressions that tags must match somewhere.
            timeout: seconds; None for Serf's default.
            ack: ask for acknowledgements, without which a query can hardly end early.
            relay_factor: members that pass each answer on as well, 0 to 255.
            first: answers that are enough.

        Raises:
            InvalidFilter: an expression that cannot be understood.
            InvalidQuery: an internal name, or a number out of its range.
            TooLarge: over the limit.
            Leaving: the node is leaving.
        """
        question = QueryParams(
            name=name,
            payload=payload,
            nodes=nodes,
            tags=tags,
            timeout=timeout,
            ack=ack,
            relay_factor=relay_factor,
            first=first,
        )
        async with self._start_query(question) as (_, results):
            yield results

    @asynccontextmanager
    async def _start_query(
        self, question: QueryParams
    ) -> AsyncIterator[tuple[RunningQuery, AsyncIterator[QueryResult]]]:
        self._require_alive()
        # A query takes no more results than there are members and a bounded number of strangers.
        send, receive = trio.open_memory_channel[QueryResult](math.inf)

        def deliver(result: QueryResult) -> None:
            with contextlib.suppress(trio.BrokenResourceError):  # the requester reads no more
                send.send_nowait(result)
            if isinstance(result, QueryDone):
                send.close()

        with receive:
            asked = await self._owner.ask(
                lambda state, now: state.serf.ask(question, deliver, now)
            )
            try:
                yield asked, receive
            finally:
                if not asked.finished:
                    with trio.CancelScope(shield=True), contextlib.suppress(Leaving):
                        await self._owner.ask(lambda state, _: state.serf.cancel(asked))

    async def respond(
        self,
        id: int,  # noqa: A002 - the field's name
        payload: bytes,
        by: Responder | None = None,
    ) -> None:
        """Answer a query, once.

        Args:
            id: `QueryReceived.id`.
            payload: the answer.
            by: who answers.

        Raises:
            NoSuchQuery: never heard of, answered already, or past its deadline.
            TooLarge: over every limit; a smaller answer may still be given.
        """
        await self._owner.ask(lambda state, now: state.serf.respond(id, payload, now))
        self._hub.mark_answered(id, by)

    async def decline(
        self,
        id: int,  # noqa: A002 - the field's name
        by: Responder | None = None,
    ) -> None:
        """Say that this answerer will not answer a query; the last one tells its asker.

        Args:
            id: `QueryReceived.id`.
            by: who declines.

        Raises:
            NoSuchQuery: never heard of, answered already, or past its deadline.
        """
        if self._hub.mark_declined(id, by):
            await self._owner.ask(lambda state, now: state.serf.decline(id, now))

    async def keys(self, action: KeyAction, key: bytes | None = None) -> KeyQueryResult:
        """Change or list the keys of every member.

        Args:
            action: install, use, remove or list.
            key: the raw key, 16, 24 or 32 bytes; None for `list`.

        Raises:
            Leaving: the node is leaving.
        """
        question = key_query(action, key or b"")
        async with self._start_query(question) as (asked, results):
            tally = KeyQueryResult(len(asked.expected))
            async for result in results:
                if isinstance(result, QueryAnswer):
                    tally.count(result)
        return tally

    async def configure_encryption(
        self,
        keyring: Keyring | None = None,
        *,
        verify_incoming: bool = True,
        verify_outgoing: bool = True,
    ) -> None:
        """Change how gossip is protected while the node runs.

        A cluster moves to encryption in three such steps, each on all members before the next:
        keys with both switches off; `verify_outgoing`; `verify_incoming`.

        Args:
            keyring: keys for a node that has none; None to keep those that it has.
            verify_incoming: refuse plaintext.
            verify_outgoing: encrypt what is sent.

        Raises:
            ConfigError: there are keys already, which change by key queries only.
            Leaving: the node has ended.
        """
        await self._owner.ask(
            lambda state, _: self._key_handler.configure_encryption(
                state.sealer,
                keyring,
                verify_incoming=verify_incoming,
                verify_outgoing=verify_outgoing,
            )
        )

    def _require_alive(self) -> None:
        if self.phase is not Phase.ALIVE:
            raise Leaving(f"node {self.name!r} is {self.phase.value}, it takes no requests")

    async def _wait(self, event: trio.Event, what: str) -> None:
        timeout = self.config.serf.broadcast_timeout
        with trio.move_on_after(timeout) as deadline:
            await event.wait()
        if deadline.cancelled_caught:
            _log.warning("%s was not sent to everyone within %g s", what, timeout)
