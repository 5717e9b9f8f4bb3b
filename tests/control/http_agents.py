"""Agents that serve HTTP, each in this process, and a client."""

import http.client
import io
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import trio

from trioserf.agent.agent import Agent, open_agent
from trioserf.agent.config import AgentConfig
from trioserf.agent.logs import open_logs
from trioserf.control.server.http_api import bind_http, serve_http
from trioserf.control.server.http_api.server import HttpServer
from trioserf.settings import build

HOST: Final = "127.18.6.1"
TIMEOUT: Final = 30
"""Seconds that a request may take."""


@attrs.frozen
class Answer:
    """A response; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str, str]:
        """The status, and the code and message of the error."""
        found = self.json["error"]
        return self.status, found["code"], found["message"]


@attrs.frozen
class HttpAgent:
    """An agent, its server, and the log."""

    agent: Agent
    server: HttpServer
    log: io.StringIO
    tls: ssl.SSLContext | None = None

    @property
    def port(self) -> int:
        return int(self.server.addresses[0].rpartition(":")[2])

    async def get(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: bytes | None = None,
        port: int = 0,
    ) -> Answer:
        """Send a request and return the response."""

        def request() -> Answer:
            client: http.client.HTTPConnection
            if self.tls is None:
                client = http.client.HTTPConnection(HOST, port or self.port, timeout=TIMEOUT)
            else:
                client = http.client.HTTPSConnection(
                    HOST, port or self.port, timeout=TIMEOUT, context=self.tls
                )
            try:
                client.request(method, path, body, dict(headers or {}))
                response = client.getresponse()
                found = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, found, response.read())
            finally:
                client.close()

        return await trio.to_thread.run_sync(request)

    async def send(self, data: bytes, *, limit: float = TIMEOUT) -> bytes:
        """Send bytes; return all that is received until the server closes the connection."""
        received = b""
        with trio.fail_after(limit):
            async with await trio.open_tcp_stream(HOST, self.port) as stream:
                try:
                    await stream.send_all(data)
                    async for part in stream:
                        received += bytes(part)
                except trio.BrokenResourceError:
                    pass  # the server closes without reading everything
        return received

    async def works(self) -> bool:
        """Return whether the server still answers."""
        return (await self.get("/-/healthy")).status == 200


@asynccontextmanager
async def http_agent(
    tls: ssl.SSLContext | None = None, *, level: str = "INFO", **values: Any
) -> AsyncIterator[HttpAgent]:
    """Run an agent with these configuration keys while the block runs.

    Args:
        tls: what the client verifies the certificate with.
        level: the level of the log.
        values: configuration keys beside addresses and name.
    """
    defaults: dict[str, Any] = {
        "node_name": "a", "bind": f"{HOST}:0", "rpc_addr": (f"{HOST}:0",),
        "http_addr": f"{HOST}:0",
    }  # fmt: skip
    config = build(AgentConfig, defaults | values)
    log = io.StringIO()
    with open_logs(level, log) as logs:
        logs.release()
        async with (
            bind_http(config.http) as sockets,
            open_agent(config, logs) as agent,
            serve_http(agent, sockets) as server,
        ):
            assert server is not None
            yield HttpAgent(agent, server, log, tls)


class EventStream:
    """A client of `/v1/events`; the first message is a comment."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._data = b""

    async def _line(self) -> bytes:
        while b"\r\n" not in self._data:
            part = await self._stream.receive_some(4096)
            assert part, "the stream has ended"
            self._data += bytes(part)
        line, _, self._data = self._data.partition(b"\r\n")
        return line

    async def head(self) -> list[bytes]:
        lines = []
        while line := await self._line():
            lines.append(line)
        return lines

    async def chunk(self) -> bytes:
        size = int(await self._line(), 16)
        while len(self._data) < size + 2:
            part = await self._stream.receive_some(4096)
            assert part, "the stream has ended"
            self._data += bytes(part)
        chunk, self._data = self._data[:size], self._data[size + 2 :]
        return chunk

    async def events(self, count: int) -> list[tuple[str, str, dict[str, Any]]]:
        """Return the ids, kinds and records of the next events."""
        found: list[tuple[str, str, dict[str, Any]]] = []
        while len(found) < count:
            for message in (await self.chunk()).decode().split("\n\n"):
                if message and not message.startswith(":"):
                    fields = dict(line.split(": ", 1) for line in message.split("\n"))
                    record = json.loads(fields["data"])
                    found.append((fields["id"], fields["event"], record))
        return found


@asynccontextmanager
async def event_stream(
    served: HttpAgent, query: str = "", after: str = ""
) -> AsyncIterator[EventStream]:
    header = f"Last-Event-ID: {after}\r\n" if after else ""
    with trio.fail_after(30):
        async with await trio.open_tcp_stream(HOST, served.port) as stream:
            request = f"GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n"
            await stream.send_all(request.encode())
            client = EventStream(stream)
            head = await client.head()
            assert head[0].startswith(b"HTTP/1.1 200")
            assert b"content-type: text/event-stream; charset=utf-8" in head
            assert await client.chunk() == b": \n\n"
            yield client
