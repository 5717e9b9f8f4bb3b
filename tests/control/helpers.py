"""An agent without a network, servers and clients for it, recorded exchanges, real Serf agents."""

import binascii
import hashlib
import io
import json
import logging
import subprocess
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import attrs
import msgpack
import pytest
import trio
import trio.testing

from tests.interop.agents import SERF
from tests.node.helpers import open_nodes
from trioserf.address import Address
from trioserf.agent.agent import Agent
from trioserf.agent.config import AgentConfig, HandlerOptions
from trioserf.agent.files import DiskFiles
from trioserf.agent.handlers import Handlers
from trioserf.agent.health_checks import HealthChecks
from trioserf.agent.keyring_file import KeyringFile
from trioserf.agent.log_lines import LEVELS
from trioserf.agent.logs import Logs
from trioserf.agent.metrics import Metrics
from trioserf.control.client import records
from trioserf.control.client.async_client import AsyncClient
from trioserf.control.client.rpc_session import RpcSession
from trioserf.control.errors import ControlError
from trioserf.control.server.access import AccessControl, Client
from trioserf.control.server.admission import LOOPBACK, Limits
from trioserf.control.server.audit import AuditLog
from trioserf.control.server.connection import ServerContext
from trioserf.control.server.listener import Server, open_control
from trioserf.control.server.permissions import NONE, Permissions
from trioserf.control.server.tokens import Token, TokenHash, dump
from trioserf.coordinate import Coordinate
from trioserf.errors import (
    AlreadyAnswered,
    InvalidQuery,
    JoinFailed,
    Leaving,
    NoSuchMember,
    NoSuchQuery,
    TooLarge,
)
from trioserf.health import Health
from trioserf.node import Node, NodeConfig
from trioserf.node.event_hub import EventHub, Responder
from trioserf.node.state import ClusterState
from trioserf.node.state_owner import Request
from trioserf.results import QueryAck, QueryAnswer, QueryDone, QueryResult
from trioserf.serf.events import Event, MemberEvent, QueryReceived, UserEventReceived
from trioserf.serf.filters import compiled
from trioserf.serf.internal_queries import KeyAction
from trioserf.serf.key_queries import KeyQueryResult
from trioserf.serf.member import Member
from trioserf.swim.config import Timing
from trioserf.wire.serf_messages import Status

EPOCH: Final = datetime(2026, 11, 23, 20, 0, 0, 123456, tzinfo=UTC)
KEY: Final = "T9jncgl9mbLus+baTTa7q7nPSUrXwbDi2dhbtqir37s="

# ------------------------------------------------------------------------ an agent without network


def wall() -> datetime:
    """Return the wall time: EPOCH at the first call, then by Trio's clock."""
    return EPOCH + timedelta(seconds=trio.current_time() - _started())


_START: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("fake wall clock start")


def _started() -> float:
    try:
        return _START.get()
    except LookupError:
        _START.set(trio.current_time())
        return _START.get()


class FakeLogs(Logs):
    """The real log, fed by `write` instead of the logger `trioserf`."""

    def __init__(self) -> None:
        super().__init__("ERR", io.StringIO())

    def write(self, level: str, source: str, message: str) -> None:
        record = logging.LogRecord(f"trioserf.{source}", LEVELS[level], "", 0, message, None, None)
        record.created = wall().timestamp()
        self.emit(record)

    @property
    def subscriptions(self) -> int:
        return len(self._subscriptions)


class FakeNode(Node):
    """A node with the real event hub and no cluster: members and responses are set by the test.

    Attributes:
        responses: the response of each member to every query; None for an ack only.
        delay: seconds that a join, a forced leave, a key query and each response take.
    """

    def __init__(self, name: str) -> None:
        self.config = NodeConfig(name=name)
        self._hub = EventHub()
        self.delay = 0.0
        self.reachable: set[str] = set()
        self.responses: dict[str, bytes | None] = {name: None}
        self.coordinates: dict[str, Coordinate] = {name: Coordinate()}
        self.installed_keys: list[str] | None = None
        self.queries: list[dict[str, object]] = []
        self.pending: dict[int, Callable[[bytes | None], None]] = {}
        self.names: dict[int, str] = {}
        self.left = False
        self._members: dict[str, Member] = {}
        self._version = 0
        self._ltime = 0
        self._ids = 0
        self.put(Member(name, Address("127.0.0.1", 7946), {}, Status.ALIVE))

    def put(self, member: Member) -> None:
        self._members[member.name] = member
        self._version += 1

    def publish(self, event: Event) -> None:
        self._hub.publish(event)

    def close(self) -> None:
        self._hub.close()

    @property
    def subscriptions(self) -> int:
        return len(self._hub._subscriptions)

    @property
    def members_version(self) -> int:
        return self._version

    def members(self) -> tuple[Member, ...]:
        return tuple(self._members.values())

    def member(self, name: str) -> Member | None:
        return self._members.get(name)

    async def join(
        self, addresses: Iterable[str | Address], replay: bool = False, **_: object
    ) -> int:
        await trio.sleep(self.delay)
        texts = [str(address) for address in addresses]
        reached = [text for text in texts if text in self.reachable]
        if not reached:
            raise JoinFailed([(text, "connection refused") for text in texts])
        return len(reached)

    async def force_leave(self, name: str, *, prune: bool = False) -> None:
        await trio.sleep(self.delay)
        if name not in self._members:
            raise NoSuchMember(f"no member '{name}'")
        if prune:
            del self._members[name]
        else:
            self._members[name] = attrs.evolve(self._members[name], status_code=Status.LEFT)
        self._version += 1

    async def submit_user_event(
        self, name: str, payload: bytes = b"", *, coalesce: bool = False
    ) -> Request[int]:
        if self.left:
            raise Leaving("the node has left")
        request = Request(lambda *_: self._send_event(name, payload, coalesce))
        request.run(ClusterState.__new__(ClusterState), 0.0)
        return request

    def _send_event(self, name: str, payload: bytes, coalesce: bool) -> int:
        if name == "crash":
            raise ZeroDivisionError("a bug")
        if len(name) + len(payload) > 512:
            raise TooLarge("user event exceeds configured limit of 512 bytes before encoding")
        self._ltime += 1
        self.publish(UserEventReceived(self._ltime, name, payload, coalesce))
        return self._ltime

    @asynccontextmanager
    async def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Iterable[str] = (),
        tags: Mapping[str, str] = {},
        timeout: float | None = None,
        ack: bool = True,
        relay_factor: int = 0,
        first: int | None = None,
    ) -> AsyncIterator[AsyncIterator[QueryResult]]:
        if name.startswith("_serf_") and name != "_serf_ping":
            raise InvalidQuery("Queries cannot contain the '_serf_' prefix")
        for expression in tags.values():
            compiled(expression)
        if len(payload) > 1000:
            raise TooLarge("query exceeds limit of 1024 bytes")
        params: dict[str, object] = {"name": name, "payload": payload, "nodes": list(nodes)}
        params |= {"tags": dict(tags), "timeout": timeout, "ack": ack}
        params |= {"relay_factor": relay_factor, "first": first}
        self.queries.append(params)
        self._ltime += 1
        self._ids += 1
        number, limit = self._ids, 15.0 if timeout is None else timeout
        send, receive = trio.open_memory_channel[bytes | None](1)
        self.pending[number] = send.send_nowait
        self.names[number] = name
        deadline = trio.current_time() + limit
        event = QueryReceived(number, self._ltime, number, name, payload, self.name, deadline)
        has_responder = self._hub.has_responder(event)
        self.publish(event)
        records = self._records(nodes, ack, limit, first, receive if has_responder else None)
        try:
            yield records
        finally:
            self.pending.pop(number, None)
            del self.names[number]
            await records.aclose()

    async def _records(
        self,
        nodes: Iterable[str],
        ack: bool,
        limit: float,
        first: int | None,
        own: trio.MemoryReceiveChannel[bytes | None] | None,
    ) -> AsyncGenerator[QueryResult, None]:
        expected = [name for name in self.responses if not nodes or name in nodes]
        responses = 0
        for name in expected:
            if ack:
                yield QueryAck(name)
            await trio.sleep(self.delay)
            response = self.responses[name]
            if response is not None and (first is None or responses < first):
                responses += 1
                yield QueryAnswer(name, response)
        if own is not None:
            sent = None
            with trio.move_on_after(limit):
                sent = await own.receive()
            if sent is not None:
                responses += 1
                yield QueryAnswer(self.name, sent)
        acks = len(expected) if ack else 0
        yield QueryDone(acks, responses, len(expected), ())

    async def respond(
        self,
        id: int,  # noqa: A002
        payload: bytes = b"",
        by: Responder | None = None,
    ) -> None:
        send = self._pop_pending(id)
        if len(payload) > 65536:
            raise TooLarge("response exceeds limit of 65536 bytes")
        send(payload)

    def query_name(self, id: int) -> str:  # noqa: A002
        if id not in self.pending:
            raise NoSuchQuery(f"no query {id} is pending")
        return self.names[id]

    async def decline(self, id: int, by: Responder | None = None) -> None:  # noqa: A002
        self._pop_pending(id)(None)

    def _pop_pending(self, number: int) -> Callable[[bytes | None], None]:
        send = self.pending.pop(number, None)
        if send is None and number in self.names:
            raise AlreadyAnswered("response already sent")
        if send is None:
            raise NoSuchQuery(f"no query {number} is pending")
        return send

    def coordinate(self, name: str | None = None) -> Coordinate | None:
        return self.coordinates.get(self.name if name is None else name)

    async def keys(self, action: KeyAction, key: bytes | None = None) -> KeyQueryResult:
        await trio.sleep(self.delay)
        names = list(self._members)
        result = KeyQueryResult(len(names), responses=len(names))
        if self.installed_keys is None:
            result.errors = len(names)
            text = "Keyring is empty (encryption not enabled)"
            result.messages = dict.fromkeys(names, text)
            return result
        encoded = binascii.b2a_base64(key or b"", newline=False).decode()
        if action == "install" and encoded not in self.installed_keys:
            self.installed_keys.append(encoded)
        elif action == "use":
            self.installed_keys.sort(key=lambda key: key != encoded)
        elif action == "remove":
            self.installed_keys.remove(encoded)
        elif action == "list":
            result.keys.update(dict.fromkeys(self.installed_keys, len(names)))
            result.primary_keys[self.installed_keys[0]] = len(names)
        return result


class FakeHealth(HealthChecks):
    """The health of a fake node: nothing is wrong with it."""

    def __init__(self, node: FakeNode) -> None:
        self.joined = trio.Event()
        self._fake = node

    async def judge(self) -> Health:
        alive = len(self._fake.members())
        return Health("alive", 0, {"alive": alive, "suspect": 0}, {"inbox": 0}, True)


class FakeAgent(Agent):
    """The process around a fake node."""

    node: FakeNode
    logs: FakeLogs

    def __init__(self, name: str = "node-a") -> None:
        self.node = FakeNode(name)
        self.logs = FakeLogs()
        self.health = FakeHealth(self.node)
        self.shutdown = trio.Event()
        self.leave_duration = 0.0

    def info(self) -> dict[str, dict[str, object]]:
        members = self.node.members()
        own = self.node.member(self.node.name)
        assert own is not None
        return {
            "agent": {"name": self.node.name},
            "event_handlers": {"query:load": "echo 0.42"},
            "runtime": {"arch": "amd64", "cpu_count": 2, "os": "linux"},
            "serf": {"encrypted": self.node.installed_keys is not None, "members": len(members)},
            "tags": dict(own.tags),
        }

    async def set_tags(
        self,
        set: Mapping[str, str],  # noqa: A002
        delete: Iterable[str] = (),
    ) -> Mapping[str, str]:
        own = self.node.member(self.node.name)
        assert own is not None
        tags = {k: v for k, v in own.tags.items() if k not in tuple(delete)} | dict(set)
        if sum(map(len, (*tags, *tags.values()))) > 512:
            raise TooLarge("Encoded length of tags exceeds limit of 512 bytes")
        changed = attrs.evolve(own, tags=tags)
        self.node.put(changed)
        self.node.publish(MemberEvent("member-update", (changed,)))
        return tags

    async def leave(self) -> None:
        await trio.sleep(self.leave_duration)
        if self.node.left:
            raise Leaving("the node has left already")
        self.node.left = True


def recorded_agent() -> FakeAgent:
    """Return an agent in the state of the one that the exchanges were recorded with."""
    agent = FakeAgent("vec-a")
    node = agent.node
    tags = {"role": "web", "dc": "east"}
    node.put(Member("vec-a", Address("127.0.0.21", 7946), tags, Status.ALIVE))
    node.put(Member("vec-b", Address("127.0.0.22", 7946), {}, Status.ALIVE))
    node.reachable = {"127.0.0.22"}
    node.responses = {"vec-a": b"0.42\n", "vec-b": None}
    node.coordinates["vec-b"] = node.coordinates["vec-a"]
    return agent


# ----------------------------------------------------------------------------- server and clients

Pipe = trio.StapledStream[Any, Any]


class JsonClient:
    """A client of the JSON lines."""

    def __init__(self, stream: Pipe) -> None:
        self.stream = stream
        self._read = b""

    async def send(self, *requests: dict[str, Any] | str | bytes) -> None:
        for request in requests:
            text = json.dumps(request) if isinstance(request, dict) else request
            data = text.encode() if isinstance(text, str) else text
            await self.stream.send_all(data + b"\n")

    async def receive(self) -> Any:
        """Return the next line as an object; None at the end."""
        line = await self.line()
        return json.loads(line) if line else None

    async def line(self) -> bytes:
        while b"\n" not in self._read:
            data = await self.stream.receive_some(65536)
            if not data:
                assert self._read == b""
                return b""
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line

    async def ask(self, **request: Any) -> Any:
        await self.send(request)
        return await self.receive()


class RpcClient:
    """A client of Serf's RPC."""

    def __init__(self, stream: Pipe) -> None:
        self.stream = stream
        self._unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape")

    async def send(self, *messages: Any) -> None:
        await self.stream.send_all(
            b"".join(
                m if isinstance(m, bytes) else msgpack.packb(m, use_bin_type=True)
                for m in messages
            )
        )

    async def receive(self) -> Any:
        """Return the next message; None at the end."""
        while True:
            for message in self._unpacker:
                return message
            data = await self.stream.receive_some(65536)
            if not data:
                return None
            self._unpacker.feed(bytes(data))

    async def handshake(self) -> None:
        await self.send({"Command": "handshake", "Seq": 0}, {"Version": 1})
        assert await self.receive() == {"Error": "", "Seq": 0}

    async def ask(self, command: str, seq: int = 7, body: Any = None) -> Any:
        """Send a request; return its reply's header."""
        await self.send(*[{"Command": command, "Seq": seq}, body][: 1 + (body is not None)])
        return await self.receive()


@attrs.frozen
class ServerUnderTest:
    agent: FakeAgent
    server: Server
    nursery: trio.Nursery

    def pipe(self, source: str = LOOPBACK) -> Pipe:
        """Connect; return the client's end."""
        client_end, server_end = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.server.handle, server_end, source)
        return client_end

    def narrow_pipe(self) -> Pipe:
        """Connect without a buffer: a write waits until the client reads."""
        client_end, server_end = trio.testing.lockstep_stream_pair()
        self.nursery.start_soon(self.server.handle, server_end)
        return client_end

    async def is_empty(self) -> bool:
        """Return whether no connection, subscription or task is left."""
        await trio.testing.wait_all_tasks_blocked()
        server, agent = self.server, self.agent
        left = server.connections + server.unauthenticated + agent.node.subscriptions
        return left + agent.logs.subscriptions + len(self.nursery.child_tasks) == 0

    def connect(self) -> JsonClient:
        return JsonClient(self.pipe())

    async def rpc(self) -> RpcClient:
        client = RpcClient(self.pipe())
        await client.handshake()
        return client


class FixedAccess(AccessControl):
    """Admits every client with the same scopes."""

    def __init__(self, *scopes: str) -> None:
        super().__init__()
        self._permissions = Permissions.parse(scopes) if scopes else NONE

    def identify(self, stream: trio.abc.Stream) -> Client:
        client = super().identify(stream)
        client.admit("fixed", "this client", self._permissions)
        return client


def write_tokens(path: Path, **scopes: str) -> dict[str, str]:
    """Write a file of tokens with cheap hashes; return the tokens by name.

    Args:
        path: the file.
        scopes: the scopes of each token, separated by spaces.
    """
    texts = {name: f"{name}.{KEY}" for name in scopes}
    entries = []
    for name, text in texts.items():
        digest = hashlib.scrypt(text.encode(), salt=b"salt", n=2, r=1, p=1, dklen=32)
        cheap = TokenHash(2, 1, 1, b"salt", digest)
        entries.append(Token(name, cheap, Permissions.parse(scopes[name].split())))
    path.write_bytes(dump(entries))
    path.chmod(0o600)
    return texts


@asynccontextmanager
async def serving(
    auth: str = "",
    limits: Limits | None = None,
    agent: FakeAgent | None = None,
    access: AccessControl | None = None,
    audit: AuditLog | None = None,
) -> AsyncIterator[ServerUnderTest]:
    """Serve a fake agent."""
    agent = agent or FakeAgent()
    async with trio.open_nursery() as nursery:
        context = ServerContext(agent, auth, wall, limits or Limits())
        context.audit = audit
        if access is not None:
            context.access = access
        yield ServerUnderTest(agent, Server(context, nursery), nursery)
        nursery.cancel_scope.cancel()


@attrs.frozen
class AgentUnderTest:
    """A served agent, and the other member of its cluster."""

    agent: Agent
    other: Node
    server: Server
    nursery: trio.Nursery

    def _connect(self) -> Pipe:
        client_end, server_end = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.server.handle, server_end)
        return client_end

    def json(self) -> JsonClient:
        return JsonClient(self._connect())

    def rpc_without_handshake(self) -> RpcClient:
        return RpcClient(self._connect())

    async def rpc(self) -> RpcClient:
        client = self.rpc_without_handshake()
        await client.handshake()
        return client


@asynccontextmanager
async def real_agent() -> AsyncIterator[AgentUnderTest]:
    """Serve the agent of node-a, which has node-b in its cluster; probes are rare."""
    timing = Timing(probe_interval=1e6)
    async with (
        open_nodes("node-a", "node-b", timing=timing) as nodes,
        trio.open_nursery() as nursery,
    ):
        node = nodes["node-a"]
        agent = Agent(
            AgentConfig(node=NodeConfig(name="node-a")),
            node,
            Logs("ERR", io.StringIO()),
            Handlers([], node, HandlerOptions()),
            None,
            Metrics(node),
            KeyringFile(DiskFiles(), ""),
        )
        yield AgentUnderTest(
            agent, nodes["node-b"], Server(ServerContext(agent), nursery), nursery
        )
        nursery.cancel_scope.cancel()


async def serve_until_shutdown(agent: FakeAgent, task_status: trio.TaskStatus[str]) -> None:
    """Serve a fake agent on a real socket until its shutdown; report the address."""
    async with open_control(agent, ["127.0.0.1:0"]) as server:
        task_status.started(server.addresses[0])
        await agent.shutdown.wait()


async def handshakes(stream: trio.abc.Stream) -> bool:
    """Return whether a server accepts the handshake of the JSON lines on this stream."""
    reply = await JsonClient(trio.StapledStream(stream, stream)).ask(command="handshake")
    return bool(reply["ok"])


# --------------------------------------------------------------- the Trio and the asyncio client


async def check_results(client: AsyncClient, agent: FakeAgent) -> None:
    """Check the result of each command against `recorded_agent`, which leaves at the end."""
    a, b = await client.members()
    assert (a.name, a.addr, a.tags) == ("vec-a", "127.0.0.21", {"role": "web", "dc": "east"})
    assert await client.members(tags={"role": "w.*"}, name="vec-.", status="alive") == [a]
    assert await client.event("deploy", b"\xff", coalesce=True) == 1
    assert await client.join(["127.0.0.22"], replay=True) == 1
    assert await client.tags({"x": "y"}, ["dc"]) == {"role": "web", "x": "y"}
    assert (await client.info())["serf"]["members"] == 2
    assert await client.coordinate("vec-b") == await client.coordinate()
    assert 0 < await client.rtt("vec-b", "vec-a") < 1e-3
    agent.node.installed_keys = [KEY]
    assert (await client.keys("list")).keys == {KEY: 2}
    assert (await client.keys("use", KEY)).nodes == 2
    await client.force_leave(b.name, prune=True)
    assert await client.members() == await client.members(name="vec-a")
    with pytest.raises(ControlError) as caught:
        await client.join(["x"])
    assert caught.value.causes == (("x", "connection refused"),)
    await client.leave()


async def check_response_from_stream(client: AsyncClient) -> None:
    """Respond to a query of the client itself from its stream, and decline a second one."""
    async with client.stream("query:load") as queries:
        for response in (b"\xff\x00", None):
            async with client.query("load", timeout=5) as results:
                query = await anext(queries)
                assert isinstance(query, records.QueryEventRecord)
                assert query.deadline > query.time
                if response is None:
                    await client.decline(query.id)
                else:
                    await client.respond(query.id, response)
                    assert await anext(results) == QueryAnswer("vec-a", response)
                assert isinstance(await anext(results), QueryDone)
                with pytest.raises(StopAsyncIteration):
                    await anext(results)


# ----------------------------------------------------------------------------- recorded exchanges

VECTORS: Final = json.loads((Path(__file__).parent.parent / "vectors" / "rpc.json").read_text())
RECORDED: Final = [recorded for recorded in VECTORS["exchanges"] if recorded["exchange"]]


def request_reply_pairs(exchange: list[dict[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return pairs of the bytes that the client sent and those of the agent's reply."""
    found: list[tuple[bytes, bytes]] = []
    for step in exchange:
        data = bytes.fromhex(step["hex"])
        if step["from"] == "client":
            found.append((data, b""))
        else:
            found[-1] = found[-1][0], found[-1][1] + data
    return found


def messages(data: bytes) -> list[Any]:
    """Decode all messages."""
    unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape")
    unpacker.feed(data)
    return list(unpacker)


# ----------------------------------------------------------------------------- HashiCorp's agents

needs_serf = [pytest.mark.interop, pytest.mark.serf]


@contextmanager
def serf_agent(host: str, name: str, directory: Path, *options: str) -> Iterator[str]:
    """Run a real agent; yield its RPC address once it answers."""
    assert SERF is not None
    address = f"{host}:7373"
    command = [SERF, "agent", f"-node={name}", f"-bind={host}:7946", f"-rpc-addr={address}"]
    log = (directory / f"{name}.log").open("wb")
    with log, subprocess.Popen([*command, *options], stdout=log, stderr=log) as process:
        try:
            _wait_for(address, process)
            yield address
        finally:
            process.kill()


def _wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(100):
        try:
            RpcSession.connect(address, timeout=5).close()
        except ControlError as error:
            if error.code != "unreachable":
                return
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
        else:
            return
    raise AssertionError(f"no serf agent at {address}")
