"""What the control socket needs of an agent and its node, and no more.

The real agent satisfies these protocols as it is; so does the twin that the tests use.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import trio

from trioserf.coordinate import Coordinate
from trioserf.node.event_hub import Responder
from trioserf.serf.events import Dropped, Event
from trioserf.serf.filters import EventFilter
from trioserf.serf.internal_queries import KeyAction
from trioserf.serf.member import Member
from trioserf.serf.query_collector import QueryResult

ItemT_co = TypeVar("ItemT_co", covariant=True)

WallClock = Callable[[], datetime]
"""Gives the time of day, aware of its zone; used only in records for users."""


def utc_now() -> datetime:
    """The system's time of day in UTC."""
    return datetime.now(UTC)


class Subscription(Protocol[ItemT_co]):
    """Items as they happen; a slow reader finds `Dropped` in place of what it missed."""

    async def receive(self) -> ItemT_co | Dropped:
        """Wait for the next item.

        Raises:
            trio.EndOfChannel: the source is closed.
        """
        ...


class LogLine(Protocol):
    """One line of the agent's log."""

    @property
    def time(self) -> datetime:
        """When it was said, aware of its zone."""
        ...

    @property
    def level(self) -> str:
        """TRACE, DEBUG, INFO, WARN or ERR."""
        ...

    @property
    def source(self) -> str:
        """Who says it: serf, memberlist, agent, agent.ipc ..."""
        ...

    @property
    def message(self) -> str:
        """What is said, without time, level and source."""
        ...

    @property
    def text(self) -> str:
        """The whole line as Serf writes it, without its newline."""
        ...


class Logs(Protocol):
    """The agent's log: the last 512 lines, and those to come."""

    def subscribe(
        self, level: str, *, buffer: int = ...
    ) -> AbstractContextManager[Subscription[LogLine]]:
        """Deliver the remembered lines of `level` and above, then new ones as they are said.

        `level` is one of the five in capitals; `buffer` counts the lines kept for a slow reader.
        """
        ...


class KeyResult(Protocol):
    """What the members answered to a key operation; keys are spelled in base64."""

    @property
    def messages(self) -> Mapping[str, str]:
        """What members said, by name."""
        ...

    @property
    def keys(self) -> Mapping[str, int]:
        """How many hold each key."""
        ...

    @property
    def primary_keys(self) -> Mapping[str, int]:
        """How many use each key as their first."""
        ...

    @property
    def nodes(self) -> int:
        """Members that were asked."""
        ...

    @property
    def responses(self) -> int:
        """Members that answered."""
        ...

    @property
    def errors(self) -> int:
        """Members that answered with an error."""
        ...

    @property
    def failure(self) -> str | None:
        """One sentence, unless all went well."""
        ...


class Node(Protocol):
    """The calls of a node that clients reach through the control socket.

    Each method means what the node's own documentation says of it; errors are those of
    `trioserf.errors`.
    """

    @property
    def name(self) -> str:
        """This node's name."""
        ...

    @property
    def members_version(self) -> int:
        """Grows with every change of `members()`."""
        ...

    def members(self) -> tuple[Member, ...]:
        """All members, in the order in which they were first seen."""
        ...

    def member(self, name: str) -> Member | None:
        """One member by name."""
        ...

    async def join(self, addresses: Sequence[str], *, replay: bool = False) -> int:
        """Join; gives how many addresses were reached (JoinFailed: none)."""
        ...

    async def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare a failed member as left (NoSuchMember)."""
        ...

    async def user_event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> int:
        """Send a user event; gives its Lamport time (TooLarge)."""
        ...

    def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] = ...,
        timeout: float | None = None,
        ack: bool = True,
        relay_factor: int = 0,
        first: int | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[QueryResult]]:
        """Ask the cluster; gives records as they come, the end last.

        The iterator may be abandoned, or cancelled while it waits for a record.
        """
        ...

    async def respond(
        self,
        id: int,  # noqa: A002
        payload: bytes,
        by: Responder | None = None,
    ) -> None:
        """Answer a query (NoSuchQuery, TooLarge)."""
        ...

    async def decline(self, id: int, by: Responder | None = None) -> None:  # noqa: A002
        """Say that no answer of ours will follow (NoSuchQuery)."""
        ...

    def subscribe(
        self, *filters: EventFilter, answers: bool | Responder = False, buffer: int = 1024
    ) -> AbstractContextManager[Subscription[Event]]:
        """Deliver events that one of the filters wants."""
        ...

    def coordinate(self, name: str | None = None) -> Coordinate | None:
        """A member's coordinate, or our own."""
        ...

    async def keys(self, action: KeyAction, key: bytes | None = None) -> KeyResult:
        """Change or list the keys of every member."""
        ...


class Agent(Protocol):
    """The process around a node, as the control socket sees it."""

    @property
    def node(self) -> Node:
        """The node itself."""
        ...

    @property
    def logs(self) -> Logs:
        """Its log."""
        ...

    @property
    def shutdown(self) -> trio.Event:
        """Set it to make the agent end."""
        ...

    def info(self) -> Mapping[str, Mapping[str, object]]:
        """The groups of `serf info`; numbers are numbers and truths are booleans."""
        ...

    async def set_tags(
        self,
        set: Mapping[str, str],  # noqa: A002
        delete: Iterable[str] = (),
    ) -> Mapping[str, str]:
        """Change this node's tags (and the tags file, where there is one); give the new ones."""
        ...

    async def leave(self) -> None:
        """Leave the cluster gracefully; does not end the agent."""
        ...
