"""An agent's control socket from a Trio program.

    async with connect("127.0.0.1:7373") as agent:
        print(await agent.members(status="alive"))
        async for record in agent.query("load", timeout=2):
            print(record)

One task reads the connection and hands each reply to the call that waits for it, so any number of
tasks may share a client. The reader never waits for anyone: a stream whose reader is slow loses
records and is told how many (`Missed`); the agent does the same when the connection is slow.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import trio

from trioserf.control.address import DEFAULT_ADDRESS, split_address, unix_path
from trioserf.control.client.connect import Action
from trioserf.control.client.inbox import RecordBuffer, Records
from trioserf.control.client.records import (
    AgentEvent,
    CoordinateInfo,
    Dropped,
    KeyReport,
    LogEntry,
    MemberInfo,
    QueryRecord,
)
from trioserf.control.client.replies import (
    coordinate_of,
    error_from,
    event_of,
    key_report_of,
    log_entry_of,
    member_of,
    query_record_of,
)
from trioserf.control.errors import ControlError
from trioserf.control.payloads import with_payload
from trioserf.errors import AddressError
from trioserf.exception_groups import unwrap_single_exception

Record = dict[str, Any]
RecordT = TypeVar("RecordT")

BUFFER = 1024
"""Records kept for a stream whose reader is busy."""
QUERY_BUFFER = 65_536
"""Records kept for a query: an ack and an answer of each member of a large cluster."""
WRITE = 10.0
"""Seconds after which an agent that does not take a request is given up."""
_CHUNK = 65_536


class _Answer:
    """The place of one reply."""

    def __init__(self) -> None:
        self.came = trio.Event()
        self.reply: Record = {}


class AgentClient:
    """An open connection to an agent; made by `connect`.

    Every method raises ControlError: with the agent's code and message, or `disconnected` when
    the connection ends before the answer. Cancelling a call abandons its reply, not what the agent
    does. Time limits are the caller's: `with trio.fail_after(5): await agent.members()`.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._lock = trio.StrictFIFOLock()
        self._seq = 0
        self._answers: dict[int, _Answer] = {}
        # Weak: a reader that forgets its stream has left it.
        self._streams: WeakValueDictionary[int, RecordBuffer] = WeakValueDictionary()
        # Streams that we asked to stop, until the agent says that they have.
        self._left: set[int] = set()
        self._ended: ControlError | None = None

    async def members(
        self, *, name: str = "", status: str = "", tags: Mapping[str, str] | None = None
    ) -> list[MemberInfo]:
        """Give the members that match the expressions (anchored as `^…$`; empty: any)."""
        wanted = {"name": name, "status": status, "tags": dict(tags or {})}
        reply = await self._ask("members", {k: v for k, v in wanted.items() if v})
        return [member_of(one) for one in reply["members"]]

    async def event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> int:
        """Send a user event; gives its Lamport time."""
        request = with_payload({"name": name, "coalesce": coalesce}, payload)
        ltime: int = (await self._ask("event", request))["ltime"]
        return ltime

    def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        timeout: float | None = None,
        ack: bool = True,
        relay_factor: int = 0,
        first: int | None = None,
    ) -> Records[QueryRecord]:
        """Ask the cluster; the records are acks and answers, `QueryDone` last.

        Args:
            name: what is asked.
            payload: goes with it.
            nodes: only these members (none: all).
            tags: only members whose tags match these expressions.
            timeout: seconds until the query ends at the latest (None: the cluster's default).
            ack: whether members acknowledge that they were asked.
            relay_factor: members through which each answer is sent as well, 0 to 255.
            first: end after so many answers.
        """
        request = with_payload({"name": name, "ack": ack, "relay_factor": relay_factor}, payload)
        request |= {"nodes": list(nodes), "tags": dict(tags or {})}
        request |= {} if timeout is None else {"timeout": timeout}
        request |= {} if first is None else {"first": first}
        return self._open("query", request, query_record_of, QUERY_BUFFER)

    def stream(
        self, *types: str, coalesce: bool = False, answers: bool | None = None
    ) -> Records[AgentEvent]:
        """Follow events.

        Args:
            types: event filters such as `member-join`, `user:deploy`, `query` (none: all).
            coalesce: deliver bursts of member events together, up to three seconds late.
            answers: this client answers the queries it sees (`respond` or `decline`), so that
                they wait for it; False if it only watches. None is the first if the types name
                queries or it has answered one before, otherwise queries wait for it for a second.
        """
        request: dict[str, Any] = {"types": list(types), "coalesce": coalesce}
        request |= {} if answers is None else {"answers": answers}
        return self._open("stream", request, event_of, BUFFER)

    def monitor(self, level: str = "INFO") -> Records[LogEntry | Dropped]:
        """Follow the agent's log, beginning with its last 512 lines."""
        return self._open("monitor", {"level": level}, log_entry_of, BUFFER)

    async def respond(self, id: int, payload: bytes = b"") -> None:  # noqa: A002
        """Answer a query that came in a stream (`no_such_query`: too late)."""
        await self._ask("respond", with_payload({"id": id}, payload))

    async def decline(self, id: int) -> None:  # noqa: A002
        """Say that no answer will come, so that the asker need not wait."""
        await self._ask("decline", {"id": id})

    async def join(self, addresses: Sequence[str], *, replay: bool = False) -> int:
        """Join through these addresses; gives how many were reached (`join_failed`: none)."""
        request = {"addresses": list(addresses), "replay": replay}
        joined: int = (await self._ask("join", request))["joined"]
        return joined

    async def leave(self) -> None:
        """Leave the cluster; returns when that is done. The agent then stops."""
        await self._ask("leave", {})

    async def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare a failed member as left; `prune` forgets it altogether."""
        await self._ask("force-leave", {"name": name, "prune": prune})

    async def tags(
        self,
        set: Mapping[str, str] | None = None,  # noqa: A002
        delete: Iterable[str] = (),
    ) -> dict[str, str]:
        """Change the agent's tags; gives the new ones."""
        request = {"set": dict(set or {}), "delete": list(delete)}
        tags: dict[str, str] = (await self._ask("tags", request))["tags"]
        return tags

    async def keys(self, action: Action, key: str | None = None) -> KeyReport:
        """Install, use, remove or list keys (in base64) on every member.

        Raises:
            ControlError: `key_failed`, with the report's fields as `details`.
        """
        request = {"action": action} if key is None else {"action": action, "key": key}
        return key_report_of(await self._ask("keys", request))

    async def info(self) -> dict[str, dict[str, Any]]:
        """Give the groups of `serf info`, numbers as numbers."""
        reply = await self._ask("info", {})
        return {name: group for name, group in reply.items() if isinstance(group, dict)}

    async def coordinate(self, node: str | None = None) -> CoordinateInfo:
        """Give a member's network coordinate, or the agent's own."""
        reply = await self._ask("coordinate", {} if node is None else {"node": node})
        return coordinate_of(reply)

    async def rtt(self, node: str, other: str | None = None) -> float:
        """Estimate the round trip between two members (`other`: the agent), in seconds."""
        request = {"node": node} if other is None else {"node": node, "other": other}
        seconds: float = (await self._ask("rtt", request))["seconds"]
        return seconds

    async def handshake(self, auth: str | None = None) -> Record:
        """Show the key, if any; gives the agent's `protocol`, `version` and `node`."""
        if auth:
            await self._ask("auth", {"key": auth})
        return await self._ask("handshake", {})

    async def _ask(self, command: str, parameters: Record, seq: int = 0) -> Record:
        """Send a request and wait for its reply; give what it holds beside `seq` and `ok`."""
        seq = seq or self._next_seq()
        answer = self._answers[seq] = _Answer()
        try:
            await self._send({"command": command, "seq": seq, **parameters})
            await answer.came.wait()
        finally:
            del self._answers[seq]
        if not answer.reply:
            raise self._ended or ControlError("disconnected", "no answer came")
        if not answer.reply["ok"]:
            raise error_from(answer.reply)
        return {key: value for key, value in answer.reply.items() if key not in ("seq", "ok")}

    def _open(
        self,
        command: str,
        parameters: Record,
        show: Callable[[Mapping[str, Any]], RecordT],
        buffer: int,
    ) -> Records[RecordT]:
        """Prepare a stream; it is begun and stopped by its reader."""
        seq = self._next_seq()
        inbox = self._streams[seq] = RecordBuffer(buffer)
        return Records(
            inbox, show, partial(self._ask, command, parameters, seq), partial(self._stop, seq)
        )

    async def _stop(self, seq: int) -> None:
        """End a stream; whatever of it still comes is ignored, and so is the reply."""
        self._streams.pop(seq, None)
        self._left.add(seq)
        with suppress(ControlError), trio.CancelScope(shield=True):
            await self._send({"command": "stop", "seq": -seq, "stop": seq})

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    async def _send(self, request: Record) -> None:
        """Write a request, whole: once begun it is not cancelled, but has its own deadline."""
        data = json.dumps(request).encode("ascii") + b"\n"
        async with self._lock:
            if self._ended is not None:
                raise self._ended
            with trio.move_on_after(WRITE, shield=True) as patience:
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    # What the agent said last may still arrive: the reader will tell.
                    return
            if patience.cancelled_caught:
                self._end(ControlError("disconnected", "the agent takes no requests any more"))

    def _end(self, fault: ControlError) -> None:
        """Fail everything that waits."""
        self._ended = self._ended or fault
        for answer in self._answers.values():
            answer.came.set()
        for inbox in list(self._streams.values()):
            inbox.fail(self._ended)

    async def read(self, nursery: trio.Nursery) -> None:
        """Hand out what the agent says until the connection ends; run by `connect`."""
        fault = ControlError("disconnected", "the agent closed the connection")
        parts: list[bytes] = []
        try:
            while data := bytes(await self._stream.receive_some(_CHUNK)):
                *lines, rest = data.split(b"\n")
                if lines:
                    lines[0] = b"".join([*parts, lines[0]])
                    parts = []
                    for line in lines:
                        self._dispatch(line, nursery)
                parts.append(rest)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            fault = ControlError("disconnected", f"the connection broke: {error}")
        except ControlError as error:
            fault = error
        self._end(fault)

    def _dispatch(self, line: bytes, nursery: trio.Nursery) -> None:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ControlError("protocol", "what answers there does not speak JSON lines")
        seq = record.pop("seq", None)
        answer = self._answers.get(seq) if isinstance(seq, int) else None
        if answer is not None and "ok" in record and not answer.came.is_set():
            answer.reply = record
            answer.came.set()
        elif isinstance(seq, int) and (inbox := self._streams.get(seq)) is not None:
            inbox.put(record)
        elif isinstance(seq, int) and "ok" not in record and seq not in self._left:
            self._left.add(seq)
            nursery.start_soon(self._stop, seq)
        elif isinstance(seq, int) and seq < 0:
            self._left.discard(-seq)


@asynccontextmanager
async def connect(
    address: str = DEFAULT_ADDRESS, auth: str | None = None, *, timeout: float = 10.0
) -> AsyncIterator[AgentClient]:
    """Connect to a trioserf agent for the time of the block.

    Args:
        address: `host:port`, `[v6]:port`, a bare host (port 7373) or `unix:PATH`.
        auth: the agent's key, if it asks for one.
        timeout: seconds for the connection and the greeting.

    Raises:
        ControlError: `unreachable`, `timeout`, `auth_required`, `auth_failed`, or `protocol` when
            something else answers there (HashiCorp's agents speak no JSON).
    """
    deadline = trio.current_time() + timeout
    stream = await _dial(address, deadline)
    with unwrap_single_exception():
        async with stream, trio.open_nursery() as nursery:
            client = AgentClient(stream)
            nursery.start_soon(client.read, nursery)
            await _greet(client, address, auth, deadline)
            yield client
            nursery.cancel_scope.cancel()


async def _greet(client: AgentClient, address: str, auth: str | None, deadline: float) -> None:
    """Show the key and make sure that JSON is spoken there."""
    try:
        with trio.fail_at(deadline):
            await client.handshake(auth)
    except trio.TooSlowError:
        raise ControlError("timeout", f"no answer from the agent at {address}") from None
    except ControlError as error:
        if error.code != "disconnected":
            raise
        text = f"what answers at {address} speaks no JSON lines"
        raise ControlError("protocol", text) from None


async def _dial(address: str, deadline: float) -> trio.abc.Stream:
    path = unix_path(address)
    try:
        with trio.fail_at(deadline):
            if path is not None:
                return await trio.open_unix_socket(path)
            host, port = split_address(address)
            return await trio.open_tcp_stream(host or "127.0.0.1", port)
    except AddressError as error:
        raise ControlError("unreachable", str(error)) from None
    except trio.TooSlowError:
        raise ControlError("unreachable", f"no agent answers at {address}") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ControlError("unreachable", f"no agent at {address}: {why}") from None
