"""Hostile clients of HTTP: malformed, slow, large, pipelined, many; the agent goes on."""

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing

from tests.control.http_agents import HOST, HttpAgent, http_agent
from trioserf.control.server.http_api import connection, server

assert sys.platform != "win32"

GET = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n"
UPGRADE = GET + b"Connection: Upgrade\r\nUpgrade: "


@pytest.fixture
async def served() -> AsyncIterator[HttpAgent]:
    async with http_agent(level="DEBUG", user_event_size_limit=9000) as found:
        yield found
        assert "Traceback" not in found.log.getvalue()
        assert "[ERR]" not in found.log.getvalue()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\xff\x00\r\n\r\n", 400),
        (b"\r\n\r\n\r\n", 400),
        (b"GET " + b"x" * 100_000, 431),
        (GET + b"X: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (GET + b"X: y\r\n" * 10_000 + b"\r\n", 431),
        (b"GET /-/healthy HTTP/1.1\r\n\r\n", 400),
        (GET + b"Host: evil\r\n\r\n", 400),
        (GET + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\nx", 405),
        (GET + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 400),
        (b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx", 400),
        (GET + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", 100),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
        (b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
        (b"GET http://evil/ HTTP/1.0\r\n\r\n", 404),
        (UPGRADE + b"h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", 101),
        (
            UPGRADE + b"websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            0,
        ),
    ],
)  # fmt: skip
async def test_malformed_request_ends_its_connection(
    served: HttpAgent, data: bytes, status: int
) -> None:
    received = await served.send(data)
    assert received.startswith(b"HTTP/1.1 %d " % status if status else b"")
    assert received[9:12] != b"200"
    assert await served.works()


async def test_http2_is_not_served(served: HttpAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    request = b"\0\0\x05\x01\x05\0\0\0\x01\x82\x84\x86\x41\0"  # GET / with an empty :authority
    received = await served.send(preface + request)
    assert b"trioserf" not in received
    monkeypatch.setattr(connection, "IDLE", 0.1)
    assert not (await served.send(preface)).startswith(b"HTTP")
    assert await served.works()


async def test_pipelined_requests_are_answered_in_order(served: HttpAgent) -> None:
    paths = [b"/-/healthy", b"/nowhere"] * 20
    requests = [b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in paths]
    requests[-1] = requests[-1].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    received = await served.send(b"".join(requests))
    statuses = [part[1:4] for part in received.split(b"HTTP/1.1")[1:]]
    assert statuses == [b"200", b"404"] * 20


async def test_silent_and_slow_connections_are_closed(
    served: HttpAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.server._config, "keep_alive_timeout", 0.2)
    for data in (b"", b"GET / HTT", GET + b"\r\n"):
        received = await served.send(data)
        assert received.endswith(b"healthy\n" if data.endswith(b"\r\n\r\n") else b"")


async def test_body_without_end_is_not_kept(served: HttpAgent) -> None:
    head = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    received = b""
    with trio.fail_after(30):
        async with await trio.open_tcp_stream(HOST, served.port) as stream:
            await stream.send_all(head)
            received = bytes(await stream.receive_some())
            # Pipelined behind a stream of events: it waits in the kernel, not in the agent.
            with trio.move_on_after(0.5):
                while True:
                    await stream.send_all(b"x" * 65_536)
    assert received.startswith(b"HTTP/1.1 200")
    assert await served.works()


async def follow_without_reading(client: socket.socket, served: HttpAgent) -> None:
    """Begin a stream of events on a socket that takes little."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    await trio.to_thread.run_sync(client.connect, (HOST, served.port))
    client.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while not served.server.api.streams:
        await trio.testing.wait_all_tasks_blocked()


async def test_client_that_reads_nothing_is_closed(
    served: HttpAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WRITE", 0.3)
    payload = b"x" * 8000
    with trio.fail_after(60), socket.socket() as client:
        await follow_without_reading(client, served)
        while served.server.api.streams:
            await served.agent.node.user_event("e", payload)
            await trio.testing.wait_all_tasks_blocked()
    assert await served.works()


async def test_agent_ends_while_a_client_reads_nothing() -> None:
    with trio.fail_after(60), socket.socket() as client:
        async with http_agent(user_event_size_limit=9000) as served:
            await follow_without_reading(client, served)
            for _ in range(1500):  # more than the socket takes
                await served.agent.node.user_event("e", b"x" * 8000)
            began = trio.current_time()
        assert trio.current_time() - began < connection.WRITE


async def test_silent_connections_do_not_keep_others_out(served: HttpAgent) -> None:
    async with AsyncExitStack() as stack:
        held = [
            await stack.enter_async_context(await trio.open_tcp_stream(HOST, served.port))
            for _ in range(server.MAX_CONNECTIONS + 8)
        ]
        assert await served.works()
        with trio.fail_after(30):
            assert not await held[0].receive_some()


async def test_streams_do_not_fill_all_connections(served: HttpAgent) -> None:
    request = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with AsyncExitStack() as stack:
        with trio.fail_after(60):
            for _ in range(server.MAX_CONNECTIONS):
                stream = await trio.open_tcp_stream(HOST, served.port)
                await stack.enter_async_context(stream)
                await stream.send_all(request)
                await stream.receive_some()
        assert await served.works()


async def test_error_in_a_function_is_logged_and_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with http_agent() as served:
        monkeypatch.setattr(served.agent, "info", lambda: 1 / 0)
        status, code, text = (await served.get("/v1/info")).error
        assert (status, code) == (500, "internal")
        assert text.startswith("internal error in 'GET /v1/info': ZeroDivisionError")
        assert "request 'GET /v1/info' failed" in served.log.getvalue()
        assert await served.works()
