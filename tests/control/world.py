"""An agent in memory, a server in front of it, and connections without a network."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import msgpack
import trio
import trio.testing

from tests.control.fake_agent import FakeAgent, wall
from trioserf.control.server.connection import Limits, ServerContext
from trioserf.control.server.listener import Server

Pipe = trio.StapledStream[Any, Any]


class JsonClient:
    """The client's end of a connection, speaking lines."""

    def __init__(self, stream: Pipe) -> None:
        self.stream = stream
        self._read = b""

    async def send(self, *requests: dict[str, Any] | str | bytes) -> None:
        for request in requests:
            text = json.dumps(request) if isinstance(request, dict) else request
            data = text.encode() if isinstance(text, str) else text
            await self.stream.send_all(data + b"\n")

    async def receive(self) -> Any:
        """The next line as an object; None at the end."""
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
    """The client's end of a connection, speaking Serf's RPC."""

    def __init__(self, stream: Pipe) -> None:
        self.stream = stream
        self._unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape")

    async def send(self, *messages: Any) -> None:
        await self.stream.send_all(
            b"".join(
                one if isinstance(one, bytes) else msgpack.packb(one, use_bin_type=True)
                for one in messages
            )
        )

    async def receive(self) -> Any:
        """The next message; None at the end."""
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
        """Send a request; give its reply's header."""
        await self.send(*[{"Command": command, "Seq": seq}, body][: 1 + (body is not None)])
        return await self.receive()


@attrs.frozen
class ServerUnderTest:
    agent: FakeAgent
    server: Server
    nursery: trio.Nursery

    def pipe(self) -> Pipe:
        """Connect; give the client's end."""
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.server.handle, theirs)
        return ours

    def narrow_pipe(self) -> Pipe:
        """Connect with no buffer at all: what the client does not read cannot be written."""
        ours, theirs = trio.testing.lockstep_stream_pair()
        self.nursery.start_soon(self.server.handle, theirs)
        return ours

    async def empty(self) -> bool:
        """Tell whether every connection is gone, with all that belonged to it."""
        await trio.testing.wait_all_tasks_blocked()
        node, logs = self.agent.node, self.agent.logs
        left = self.server.connections + self.server.unauthenticated + node.subscriptions
        return left + len(logs.watchers) + len(self.nursery.child_tasks) == 0

    def wire(self) -> JsonClient:
        return JsonClient(self.pipe())

    async def rpc(self) -> RpcClient:
        wire = RpcClient(self.pipe())
        await wire.handshake()
        return wire


@asynccontextmanager
async def serving(
    auth: str = "", limits: Limits | None = None, agent: FakeAgent | None = None
) -> AsyncIterator[ServerUnderTest]:
    """Serve an agent in memory."""
    agent = agent or FakeAgent()
    async with trio.open_nursery() as nursery:
        yield ServerUnderTest(
            agent, Server(ServerContext(agent, auth, wall, limits or Limits()), nursery), nursery
        )
        nursery.cancel_scope.cancel()
