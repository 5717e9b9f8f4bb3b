"""A node: one member of a cluster, as an object for a Trio program.

Every operation is a method of one class, mostly its documentation and one request to the owner.
"""

import contextlib
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from enum import Enum
from types import MappingProxyType
from typing import Final, get_args

import trio

from trioserf import arguments as check
from trioserf.address import Address
from trioserf.coordinate import Coordinate
from trioserf.counters import Counters
from trioserf.errors import Leaving, NoSuchMember
from trioserf.event_filter import EventFilter, event_filters
from trioserf.node.config import DEFAULT_PORT, NodeConfig
from trioserf.node.event_hub import EventHub, Responder, Subscription
from trioserf.node.join import Joiner
from trioserf.node.join_address import parse_join_address
from trioserf.node.key_handler import KeyHandler
from trioserf.node.state_owner import Request, StateOwner
from trioserf.results import QueryAnswer, QueryDone, QueryResult
from trioserf.serf.events import Event
from trioserf.serf.internal_queries import KeyAction
from trioserf.serf.key_queries import KeyQueryResult, key_query
from trioserf.serf.keyring import Keyring
from trioserf.serf.member import Member
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.serf.query_collector import RunningQuery
from trioserf.serf.snapshot import LamportTimes
from trioserf.swim.memberlist import Memberlist
from trioserf.wire.swim_messages import State

_log = logging.getLogger("trioserf.serf")

_NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})


class Phase(Enum):
    """The phases in the life of a node."""

    ALIVE = "alive"
    LEAVING = "leaving"
    LEFT = "left"
    SHUTDOWN = "shutdown"


class Node:
    """One member of a cluster; made by `open_node`.

    Any task may call its methods. Errors are those of `trioserf.errors`; after the end of its
    block every call that needs the cluster raises `Leaving`. An argument of a wrong type is a
    TypeError in the call; it changes nothing.

    Attributes:
        config: the configuration.
        bound: the address that it listens on; `address` is the advertised one.
        phase: its current phase.
    """

    def __init__(
        self,
        config: NodeConfig,
        owner: StateOwner,
        hub: EventHub,
        joiner: Joiner,
        key_handler: KeyHandler,
        work: trio.CancelScope,
        bound: Address,
    ) -> None:
        self.config = config
        self.bound = bound
        self.phase = Phase.ALIVE
        self._owner = owner
        self._state = owner.state
        self._hub = hub
        self._joiner = joiner
        self._key_handler = key_handler
        self._work = work

    # --- reading ---

    @property
    def name(self) -> str:
        """This node's name."""
        return self.config.name

    @property
    def address(self) -> Address:
        """The advertised address, at which other members reach it."""
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
        """A number that grows with every change of `members()`."""
        return self._state.serf.members_version

    def members(self) -> tuple[Member, ...]:
        """Return all members in the order of their first appearance.

        The result is the same tuple until a member changes.
        """
        return self._state.serf.members()

    def member(self, name: str) -> Member | None:
        """Return the member with this name, or None."""
        check.text("name", name)
        return self._state.serf.member(name)

    def coordinate(self, name: str | None = None) -> Coordinate | None:
        """Return a member's last known network coordinate, or our own; None if unknown."""
        if name is not None:
            check.text("name", name)
        return self._state.coordinates.get(name)

    def query_name(self, id: int) -> str:  # noqa: A002 - the field's name
        """Return the name of a received query that may still get a response.

        Args:
            id: `QueryReceived.id`.

        Raises:
            NoSuchQuery: unknown, or answered already.
        """
        return self._state.serf.query_name(_query_id(id))

    def clocks(self) -> tuple[int, int, int]:
        """Return the next times of the Lamport clocks: of members, user events and queries."""
        serf = self._state.serf
        return serf.clock.time, serf.event_clock.time, serf.query_clock.time

    def latest_times(self) -> LamportTimes:
        """Return the latest Lamport times seen, for `restore` of `open_node`."""
        return self._state.serf.latest_times()

    @property
    def memberlist(self) -> Memberlist:
        """The table of the failure detector: to read between two checkpoints, not to change."""
        return self._state.membership

    def stats(self) -> dict[str, object]:
        """Return the group `serf` of `info`: counts, clocks, queue depths, health."""
        return self._state.stats()

    def states(self) -> dict[str, int]:
        """Count the members in the states `alive`, `suspect`, `dead` and `left`."""
        counts = Counter(record.state for record in self.memberlist.records.values())
        return {state.name.lower(): counts[state] for state in State}

    def queue_depths(self) -> dict[str, int]:
        """Count what waits in this node, by kind (see `StateOwner.queue_depths`)."""
        return self._owner.queue_depths()

    @property
    def push_pull_at(self) -> float | None:
        """When states were last exchanged with a member, on Trio's clock; None if never."""
        return self._owner.push_pull_at

    def dropped(self) -> dict[str, int]:
        """Count dropped messages by kind: unsent ones, and malformed or rejected ones of peers."""
        return {**self._owner.dropped, **self._state.drops.by_kind}

    def dropped_from(self) -> dict[str, int]:
        """Count malformed and rejected messages by the sender's address.

        From the 1,025th address on, they are counted together as `others`.
        """
        return dict(self._state.drops.by_peer)

    def encryption_status(self) -> dict[str, object]:
        """Return the number of keys, the switches, the label and the allowed networks."""
        return self._key_handler.status(self._state)

    @property
    def counters(self) -> Counters:
        """Counters and samples for metrics since they were last collected."""
        return self._state.counters

    def subscribe(
        self, *filters: EventFilter | str, answers: bool | Responder = False, buffer: int = 1024
    ) -> AbstractContextManager[Subscription]:
        """Deliver events while the block lasts; iterate over the subscription.

        Args:
            filters: deliver events that match one of them; without any, all of Serf's kinds. Each
                is an `EventFilter`, or a text such as `member-failed`, `user:deploy`, `query`, or
                several of them with commas.
            answers: whether the reader responds to queries (`respond`) or declines them
                (`decline`); else they run until their deadline. A `Responder` is a client that
                may only watch.
            buffer: events kept for a slow reader, at least 1; a `Dropped` record replaces those
                without room.

        Raises:
            InvalidFilter: a filter of an unknown kind.
            ValueError: the buffer is too small.
        """
        parsed = event_filters(filters)
        if not isinstance(answers, Responder):
            check.flag("answers", answers)
        check.whole("buffer", buffer, least=1)
        return self._hub.subscribe(parsed, answers=answers, buffer=buffer)

    @contextlib.contextmanager
    def watch(self, watcher: Callable[[Event], None]) -> Iterator[None]:
        """Call a function with every event, in the step that emits it, while the block lasts.

        Unlike a subscription, it gets every event, and reads the tables as of that step. It must
        return at once and must not call the node; if it raises, the node ends.
        """
        check.function("watcher", watcher)
        self._hub.watchers.append(watcher)
        try:
            yield
        finally:
            self._hub.watchers.remove(watcher)

    async def wait_for_inbox(self) -> None:
        """Return when the node has handled all that waits in its inbox: a sign of life.

        Raises:
            Leaving: the node has ended.
        """
        await self._owner.wait_for_inbox()

    # --- membership ---

    async def join(
        self,
        addresses: Iterable[str | Address],
        replay: bool = False,
        *,
        on_joined: Callable[[str], None] = lambda _: None,
    ) -> int:
        """Join a cluster through some of its members, and keep the addresses as seeds.

        Args:
            addresses: `host`, `host:port`, `[v6]:port` or `name/host:port`.
            replay: accept user events from before the join.
            on_joined: called with each of the addresses as soon as it is joined.

        Returns:
            How many IP addresses were joined.

        Raises:
            JoinFailed: no address was joined; it has the error of each.
            Leaving: the node is leaving.
        """
        texts = check.texts("addresses", addresses, Address)
        check.flag("replay", replay)
        check.function("on_joined", on_joined)
        self._require_alive()
        return await self._joiner.join(texts, replay=replay, on_joined=on_joined)

    def add_seeds(self, addresses: Iterable[str | Address]) -> None:
        """Keep addresses to join again whenever their members are missing.

        Args:
            addresses: see `join`.

        Raises:
            AddressError: one of them is malformed; none is kept.
        """
        texts = check.texts("addresses", addresses, Address)
        for text in texts:
            parse_join_address(text, DEFAULT_PORT)
        self._joiner.seeds.add(texts)

    async def leave(self) -> None:
        """Leave the cluster gracefully (see swim/README.md, § Leaving).

        This returns when the broadcasts are sent, after at most twice `broadcast_timeout`, and
        `leave_propagate_delay` more. Calling it again does nothing.
        """
        if self.phase is not Phase.ALIVE:
            return
        self.phase = Phase.LEAVING
        serf = self.config.serf
        others = self._state.serf.alive_count > 1
        intent_sent = trio.Event()
        await self._owner.ask(lambda state, now: state.serf.announce_leave(now, intent_sent.set))
        await self._wait(intent_sent, "the leave intent")
        if others:
            # A member that receives the Dead message before the intent would record a failure.
            await trio.sleep(self.config.timing.gossip_interval)
        leave_sent = trio.Event()
        await self._owner.ask(lambda state, now: state.leave(now, leave_sent.set))
        await self._wait(leave_sent, "the leave")
        if others:
            await trio.sleep(serf.leave_propagate_delay)
        self.phase = Phase.LEFT
        self._work.cancel()

    async def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare that a failed member has left; `prune` erases it.

        Raises:
            NoSuchMember: it is not in the table (the intent is broadcast all the same).
            Leaving: the node is leaving.
        """
        check.text("name", name)
        check.flag("prune", prune)
        self._require_alive()
        sent = trio.Event()
        is_known = await self._owner.ask(
            lambda state, now: state.serf.force_leave(name, prune=prune, now=now, on_done=sent.set)
        )
        if not is_known:
            raise NoSuchMember(f"no member {name!r} is known")
        await self._wait(sent, "a forced leave")

    async def set_tags(
        self,
        set: Mapping[str, str] = _NO_TAGS,  # noqa: A002 - the name that all interfaces use
        delete: Iterable[str] = (),
    ) -> Mapping[str, str]:
        """Change our tags and broadcast them (see serf/README.md, § Tags).

        Args:
            set: tags to add or change.
            delete: names of tags to remove.

        Returns:
            All tags.

        Raises:
            TooLarge: the encoded tags exceed 512 bytes; nothing has changed.
            Leaving: the node is leaving.
        """
        changed, removed = check.text_mapping("set", set), check.texts("delete", delete)
        self._require_alive()
        return await self._owner.ask(lambda state, now: state.set_tags(changed, removed, now))

    # --- events and queries ---

    async def user_event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> int:
        """Send a user event to all members, ourselves included.

        Args:
            name: the event's name.
            payload: any bytes; with the name at most `user_event_size_limit` bytes.
            coalesce: whether handlers may get only the latest of several events of this name.

        Returns:
            Its Lamport time.

        Raises:
            TooLarge: over the limit.
            Leaving: the node is leaving.
        """
        submitted = await self.submit_user_event(name, payload, coalesce=coalesce)
        return await submitted.result()

    async def submit_user_event(
        self, name: str, payload: bytes = b"", *, coalesce: bool = False
    ) -> Request[int]:
        """Send a user event soon, after those submitted before; do not wait for the result.

        For arguments and errors see `user_event`; `TooLarge` comes with the result.

        Returns:
            What has the method `result`, which waits for the Lamport time.
        """
        check.text("name", name)
        check.payload("payload", payload)
        check.flag("coalesce", coalesce)
        self._require_alive()
        return await self._owner.submit(
            lambda state, _: state.serf.user_event(name, payload, coalesce=coalesce)
        )

    @asynccontextmanager
    async def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Iterable[str] = (),
        tags: Mapping[str, str] = _NO_TAGS,
        timeout: float | None = None,
        ack: bool = True,
        relay_factor: int = 0,
        first: int | None = None,
    ) -> AsyncIterator[AsyncIterator[QueryResult]]:
        """Query the cluster; iterate over the results, of which `QueryDone` is the last.

        Args:
            name: the query's name.
            payload: any bytes; the encoded query has at most `query_size_limit` bytes.
            nodes: names of the members to query; empty for all.
            tags: RE2 expressions by tag; each must match somewhere in the tag's value.
            timeout: seconds; None for Serf's default.
            ack: request acks; without them a query can hardly finish early.
            relay_factor: members that relay each response as well, 0 to 255.
            first: finish after this number of responses.

        Raises:
            InvalidFilter: an expression is malformed.
            InvalidQuery: an internal name, or a number out of its range.
            TooLarge: over the limit.
            Leaving: the node is leaving.
        """
        params = QueryParams(
            name=check.text("name", name),
            payload=check.payload("payload", payload),
            nodes=check.texts("nodes", nodes),
            tags=check.text_mapping("tags", tags),
            timeout=timeout,
            ack=check.flag("ack", ack),
            relay_factor=relay_factor,
            first=first,
        )
        async with self._start_query(params) as (_, results):
            yield results

    @asynccontextmanager
    async def _start_query(
        self, params: QueryParams
    ) -> AsyncIterator[tuple[RunningQuery, AsyncIterator[QueryResult]]]:
        self._require_alive()
        # Bounded by the query: two results for each member and each unexpected responder.
        send, receive = trio.open_memory_channel[QueryResult](math.inf)

        def deliver(result: QueryResult) -> None:
            with contextlib.suppress(trio.BrokenResourceError):  # the requester reads no more
                send.send_nowait(result)
            if isinstance(result, QueryDone):
                send.close()

        with receive:
            running = await self._owner.ask(
                lambda state, now: state.serf.ask(params, deliver, now)
            )
            try:
                yield running, receive
            finally:
                if not running.finished:
                    with trio.CancelScope(shield=True), contextlib.suppress(Leaving):
                        await self._owner.ask(lambda state, _: state.serf.cancel(running))

    async def respond(
        self,
        id: int,  # noqa: A002 - the field's name
        payload: bytes = b"",
        by: Responder | None = None,
    ) -> None:
        """Respond to a query, once.

        Args:
            id: `QueryReceived.id`.
            payload: the response.
            by: the client that responds.

        Raises:
            NoSuchQuery: unknown, answered already, or past its deadline.
            TooLarge: over every limit; a smaller response is still possible.
        """
        _query_id(id)
        check.payload("payload", payload)
        _check_responder(by)
        await self._owner.ask(lambda state, now: state.serf.respond(id, payload, now))
        self._hub.mark_answered(id, by)

    async def decline(
        self,
        id: int,  # noqa: A002 - the field's name
        by: Responder | None = None,
    ) -> None:
        """Decline a query; when all responders have, the requester is notified.

        Args:
            id: `QueryReceived.id`.
            by: the client that declines.

        Raises:
            NoSuchQuery: unknown, answered already, or past its deadline.
        """
        _query_id(id)
        _check_responder(by)
        if self._hub.mark_declined(id, by):
            await self._owner.ask(lambda state, now: state.serf.decline(id, now))

    async def keys(self, action: KeyAction, key: bytes | None = None) -> KeyQueryResult:
        """Change or list the keys of all members (see serf/README.md, § Key management).

        Args:
            action: install, use, remove or list.
            key: the raw key, 16, 24 or 32 bytes; None for `list`. Members report a wrong size.

        Raises:
            Leaving: the node is leaving.
            ValueError: an unknown action, or a key that is missing or too much.
        """
        check.one_of("action", action, get_args(KeyAction))
        if (key is None) != (action == "list"):
            expected = "no key" if action == "list" else "a key"
            raise ValueError(f"key: expected {expected} for the action {action}")
        if key is not None:
            check.key("key", key, bytes)
        params = key_query(action, key or b"")
        async with self._start_query(params) as (running, results):
            key_result = KeyQueryResult(len(running.expected))
            async for result in results:
                if isinstance(result, QueryAnswer):
                    key_result.count(result)
        return key_result

    async def configure_encryption(
        self,
        keyring: Keyring | None = None,
        *,
        verify_incoming: bool = True,
        verify_outgoing: bool = True,
    ) -> None:
        """Change the encryption of gossip while the node runs.

        A cluster turns encryption on in three such steps, each on all members before the next:
        keys with both switches off; `verify_outgoing`; `verify_incoming`.

        Args:
            keyring: keys for a node without any; None to keep its keys.
            verify_incoming: reject plaintext.
            verify_outgoing: encrypt messages.

        Raises:
            ConfigError: there are keys already, which only key queries can change.
            Leaving: the node has ended.
        """
        if keyring is not None:
            check.instance("keyring", keyring, Keyring)
        check.flag("verify_incoming", verify_incoming)
        check.flag("verify_outgoing", verify_outgoing)
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
            raise Leaving(f"node {self.name!r} is {self.phase.value}, it accepts no requests")

    async def _wait(self, event: trio.Event, what: str) -> None:
        timeout = self.config.serf.broadcast_timeout
        with trio.move_on_after(timeout) as deadline:
            await event.wait()
        if deadline.cancelled_caught:
            named = {"what": what, "seconds": timeout}
            _log.warning("%(what)s was not sent to all members within %(seconds)g s", named)


def _query_id(number: int) -> int:
    return check.whole("id", number, least=0)


def _check_responder(by: Responder | None) -> None:
    if by is not None:
        check.instance("by", by, Responder)
