"""The command table, independent of the framing (see control/README.md, § Commands).

A `Command` has one result, a `Stream` yields items until it ends or is stopped. Handlers return
domain objects; `show` converts them to the objects of the JSON protocol. `handshake`, `auth` and
`stop` concern the connection itself and have no handler here.
"""

import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import trio

from trioserf.agent.agent import Agent
from trioserf.agent.log_lines import LEVELS
from trioserf.control.errors import ControlError
from trioserf.control.server import json_records, params
from trioserf.control.server.json_records import WallClock
from trioserf.control.server.member_filter import MemberFilter
from trioserf.control.server.params import PAYLOAD, Param, Params
from trioserf.coordinate import Coordinate, distance
from trioserf.errors import JoinFailed
from trioserf.event_filter import EventFilter
from trioserf.health import Health
from trioserf.node.event_hub import Responder, Subscription
from trioserf.results import Dropped, QueryAck, QueryAnswer, QueryDone, QueryResult
from trioserf.serf.coalesce import EventCoalescer
from trioserf.serf.events import Event
from trioserf.serf.internal_queries import KeyAction
from trioserf.serf.key_queries import KeyQueryResult
from trioserf.serf.member import Member
from trioserf.value_objects import ValueObject

_log = logging.getLogger("trioserf.agent")

STREAM_BUFFER = 1024
"""Records kept for a stream whose client is slow: a burst of events of a large cluster."""
LOG_LEVELS = tuple(LEVELS)

Items = AbstractAsyncContextManager["Receive"]
Receive = Callable[[], Awaitable[Any]]
"""Waits for the next item; raises StopAsyncIteration or trio.EndOfChannel at the end."""
NamedBy = Callable[[Agent, Mapping[str, Any]], str]
"""Takes the agent and a request's parameters; returns a name (may raise TrioserfError)."""


@attrs.frozen(eq=False, repr=False)
class Command(ValueObject):
    """A request with one reply.

    Attributes:
        params: its parameters.
        run: the handler.
        show: converts the handler's result.
        scope: the scope that a client needs (see `permissions`).
        named_by: returns the name that patterns of the scope are compared with; None if the
            request has none.
        prompt: whether the handler waits for no member. It then runs in the connection's own
            task, in order; other handlers overlap.
        responds: whether the handler takes the client's `Responder` as `by`.
    """

    params: Params
    run: Callable[..., Awaitable[Any]]
    show: Callable[[Any], json_records.Record]
    scope: str
    named_by: NamedBy | None = None
    prompt: bool = False
    responds: bool = False


@attrs.frozen(eq=False, repr=False)
class Stream(ValueObject):
    """A request whose reply is followed by records.

    Attributes:
        params: its parameters.
        open: opens the stream.
        show: converts an item; takes the wall clock too.
        scope: see `Command`, as is `named_by`.
        named_by: see there.
        finite: whether it ends on its own, as queries do; the others end with the client's input.
        responds: whether `open` takes the client's `Responder` as `by`.
    """

    params: Params
    open: Callable[..., Items]
    show: Callable[[Any, WallClock], json_records.Record]
    scope: str
    named_by: NamedBy | None = None
    finite: bool = False
    responds: bool = False


async def members(
    agent: Agent, name: str, status: str, tags: Mapping[str, str]
) -> tuple[Member, ...]:
    """Return the members whose name, status and tags match."""
    if not (name or status or tags):
        return agent.node.members()
    return MemberFilter.of(name, status, tags).select(agent.node.members())


async def event(agent: Agent, name: str, payload: bytes, coalesce: bool) -> int:
    """Send a user event; return its Lamport time."""
    return await agent.node.user_event(name, payload, coalesce=coalesce)


async def respond(agent: Agent, id: int, payload: bytes, by: Responder) -> None:  # noqa: A002
    """Respond to a query."""
    await agent.node.respond(id, payload, by)


async def decline(agent: Agent, id: int, by: Responder) -> None:  # noqa: A002
    """Report that the client will not respond to a query."""
    await agent.node.decline(id, by)


async def join(agent: Agent, addresses: Sequence[str], replay: bool) -> int:
    """Join through these addresses; return how many could be reached."""
    try:
        return await agent.join(addresses, replay=replay)
    except JoinFailed as error:
        _log.warning("error joining: %s", error)
        raise


async def leave(agent: Agent) -> None:
    """Leave the cluster (the connection stops the agent after its reply)."""
    await agent.leave()


async def force_leave(agent: Agent, name: str, prune: bool) -> None:
    """Declare a failed member as left."""
    await agent.node.force_leave(name, prune=prune)


async def tags(agent: Agent, set: Mapping[str, str], delete: Sequence[str]) -> Mapping[str, str]:  # noqa: A002
    """Change the agent's tags; return all of them."""
    return await agent.set_tags(set, delete)


async def keys(agent: Agent, action: KeyAction, key: bytes | None) -> KeyQueryResult:
    """Install, use, remove or list encryption keys on every member."""
    if action == "list" and key is not None:
        raise params.bad_request("key: not for the action list")
    if action != "list" and key is None:
        raise params.bad_request(f"key: required for the action {action}")
    return await agent.node.keys(action, key)


def show_keys(result: KeyQueryResult) -> json_records.Record:
    """Convert the result of a key operation.

    Raises:
        ControlError: `key_failed`, with the members' messages, unless all members succeeded.
    """
    record = json_records.keys(result)
    if result.failure is not None:
        raise ControlError("key_failed", result.failure, record)
    return record


async def info(agent: Agent) -> Mapping[str, Mapping[str, object]]:
    """Return the groups of `serf info`."""
    return agent.info()


async def health(agent: Agent) -> Health:
    """Return what the agent says about itself."""
    return await agent.health.judge()


def find_coordinate(agent: Agent, name: str | None) -> Coordinate:
    """Return the coordinate of a member (None: of this node).

    Raises:
        ControlError: `no_such_member`; it is unknown.
    """
    found = agent.node.coordinate(name)
    if found is None:
        raise ControlError("no_such_member", f"no coordinate is known of '{name or 'this node'}'")
    return found


async def coordinate(agent: Agent, node: str | None) -> Coordinate:
    """Return the network coordinate of a member."""
    return find_coordinate(agent, node)


async def rtt(agent: Agent, node: str, other: str | None) -> float:
    """Estimate the round-trip time of two members (`other`: this node), in seconds."""
    return distance(find_coordinate(agent, node), find_coordinate(agent, other))


def event_filters(texts: Sequence[str]) -> list[EventFilter]:
    """Parse the filters of a stream; without any, all events of Serf.

    Raises:
        InvalidFilter: a filter that is not valid.
    """
    return [part for text in texts or ("*",) for part in EventFilter.parse(text)]


class _Coalesced:
    """The events of a subscription, bursts coalesced (see control/README.md, § Event records)."""

    def __init__(self, source: Subscription) -> None:
        self._source = source
        self._coalescer = EventCoalescer()
        self._ready: deque[Event] = deque()
        self._closed = False

    async def receive(self) -> Event | Dropped:
        """Wait for the next event.

        Raises:
            trio.EndOfChannel: the source is closed and all coalesced events are delivered.
        """
        while not self._ready:
            if self._closed:
                raise trio.EndOfChannel
            deadline = self._coalescer.deadline
            with trio.move_on_at(float("inf") if deadline is None else deadline):
                event = await self._receive_or_coalesce()
                if event is not None:
                    return event
            self._ready += self._coalescer.flush(trio.current_time())
        await trio.lowlevel.checkpoint()
        return self._ready.popleft()

    async def _receive_or_coalesce(self) -> Event | Dropped | None:
        """Wait for an event of the source; return it unless the coalescer keeps it."""
        try:
            event = await self._source.receive()
        except trio.EndOfChannel:
            self._closed = True
            self._ready += self._coalescer.drain()
            return None
        if isinstance(event, Dropped) or not self._coalescer.feed(event, trio.current_time()):
            return event
        return None


@asynccontextmanager
async def stream(
    agent: Agent, types: Sequence[str], coalesce: bool, answers: bool | None, by: Responder
) -> AsyncIterator[Receive]:
    """Subscribe to events; `answers`: whether the client responds to queries (None: unknown)."""
    filters = event_filters(types)
    by.has_responded |= bool(answers)
    responder = False if answers is False else by
    with agent.node.subscribe(*filters, answers=responder, buffer=STREAM_BUFFER) as subscription:
        yield _Coalesced(subscription).receive if coalesce else subscription.receive


@asynccontextmanager
async def monitor(agent: Agent, level: str) -> AsyncIterator[Receive]:
    """Subscribe to the agent's log, beginning with the last 512 lines."""
    with agent.logs.subscribe(level, buffer=STREAM_BUFFER) as lines:
        yield lines.receive


@asynccontextmanager
async def query(agent: Agent, name: str, payload: bytes, **options: Any) -> AsyncIterator[Receive]:
    """Send a query; yield acks, responses and the end."""
    async with agent.node.query(name, payload, **options) as records:
        yield records.__anext__


def show_query(item: QueryResult, wall: WallClock) -> json_records.Record:
    """Convert a record of a query: an ack, a response or its end."""
    del wall
    match item:
        case QueryAck(source=source):
            return json_records.query_ack(source)
        case QueryAnswer(source=source, payload=payload):
            return json_records.query_response(source, payload)
        case QueryDone() as done:
            return json_records.query_done(done)


def _show_event(item: Any, wall: WallClock) -> json_records.Record:
    return json_records.event(item, wall(), trio.current_time())


def _show_log(line: Any, wall: WallClock) -> json_records.Record:
    del wall
    return json_records.log(line)


def _by_name(agent: Agent, values: Mapping[str, Any]) -> str:
    """Return the name of the event, query or member."""
    del agent
    name: str = values["name"]
    return name


def _by_query(agent: Agent, values: Mapping[str, Any]) -> str:
    """Return the name of the query that is responded to (raises NoSuchQuery)."""
    return agent.node.query_name(values["id"])


def _show_nothing(result: Any) -> json_records.Record:
    del result
    return {}


def _show_as(name: str) -> Callable[[Any], json_records.Record]:
    return lambda result: {name: result}


def _check_level(value: object, path: str) -> str:
    """Accept a log level, in upper or lower case."""
    if not isinstance(value, str) or value.upper() not in LOG_LEVELS:
        raise params.bad_request(f"{path}: expected one of {', '.join(LOG_LEVELS)}")
    return value.upper()


_U64 = params.integer(0, 2**64 - 1)

CONNECTION_PARAMS: Mapping[str, Params] = {
    "handshake": Params(),
    "auth": Params(Param("key", params.text)),
    "stop": Params(Param("stop", params.sequence)),
}
"""Commands that the connection handles itself."""

COMMANDS: Mapping[str, Command] = {
    "members": Command(
        Params(
            Param("name", params.text, ""),
            Param("status", params.text, ""),
            Param("tags", params.mapping, {}),
        ),
        members,
        lambda found: {"members": list(map(json_records.member, found))},
        "read",
        prompt=True,
    ),
    "event": Command(
        Params(Param("name", params.text), *PAYLOAD, Param("coalesce", params.flag, False)),
        event,
        _show_as("ltime"),
        "event",
        _by_name,
        prompt=True,
    ),
    "respond": Command(
        Params(Param("id", _U64), *PAYLOAD),
        respond,
        _show_nothing,
        "respond",
        _by_query,
        responds=True,
    ),
    "decline": Command(
        Params(Param("id", _U64)), decline, _show_nothing, "respond", _by_query, responds=True
    ),
    "join": Command(
        Params(Param("addresses", params.nonempty_texts), Param("replay", params.flag, False)),
        join,
        _show_as("joined"),
        "members",
    ),
    "leave": Command(Params(), leave, _show_nothing, "members"),
    "force-leave": Command(
        Params(Param("name", params.text), Param("prune", params.flag, False)),
        force_leave,
        _show_nothing,
        "members",
        _by_name,
    ),
    "tags": Command(
        Params(Param("set", params.mapping, {}), Param("delete", params.texts, ())),
        tags,
        lambda new: {"tags": dict(new)},
        "tags",
    ),
    "keys": Command(
        Params(
            Param("action", params.one_of("install", "use", "remove", "list")),
            Param("key", params.key, None),
        ),
        keys,
        show_keys,
        "keys",
    ),
    "info": Command(Params(), info, json_records.groups, "read", prompt=True),
    "health": Command(Params(), health, json_records.health, "read", prompt=True),
    "coordinate": Command(
        Params(Param("node", params.text, None)),
        coordinate,
        lambda found: {"coordinate": json_records.coordinate(found)},
        "read",
        prompt=True,
    ),
    "rtt": Command(
        Params(Param("node", params.text), Param("other", params.text, None)),
        rtt,
        _show_as("seconds"),
        "read",
        prompt=True,
    ),
}

STREAMS: Mapping[str, Stream] = {
    "stream": Stream(
        Params(
            Param("types", params.texts, ()),
            Param("coalesce", params.flag, False),
            Param("answers", params.flag, None),
        ),
        stream,
        _show_event,
        "read",
        responds=True,
    ),
    "monitor": Stream(Params(Param("level", _check_level, "INFO")), monitor, _show_log, "read"),
    "query": Stream(
        Params(
            Param("name", params.text),
            *PAYLOAD,
            Param("nodes", params.texts, ()),
            Param("tags", params.mapping, {}),
            Param("timeout", params.seconds, None),
            Param("ack", params.flag, True),
            Param("relay_factor", params.integer(0, 255), 0),
            Param("first", params.integer(1, 2**31), None),
        ),
        query,
        show_query,
        "query",
        _by_name,
        finite=True,
    ),
}
