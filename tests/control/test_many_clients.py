"""Many clients, concurrent and successive, on real sockets; keys in no reply and no log."""

import gc
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.control.helpers import FakeAgent, JsonClient, RpcClient, handshakes, serving
from trioserf.control.address import split_address
from trioserf.control.server.access import AccessControl
from trioserf.control.server.admission import Limits
from trioserf.control.server.listener import Server, open_control

HOST = "127.15.0.4:0"
CLIENTS = 50
EVENTS = 200
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: the connection ends with a reset, as that of a client that was killed."""


@asynccontextmanager
async def open_at(agent: FakeAgent, limits: Limits | None = None) -> AsyncIterator[Server]:
    async with open_control(agent, [HOST], limits=limits) as server:
        yield server


async def dial(server: Server) -> trio.SocketStream:
    return await trio.open_tcp_stream(*split_address(server.addresses[0]))


async def test_fifty_clients_receive_every_event() -> None:
    agent = FakeAgent()
    received: list[list[str]] = []
    listening = trio.Event()

    async def listen(stream: trio.SocketStream, msgpack: bool) -> None:
        names: list[str] = []
        pipe = trio.StapledStream(stream, stream)
        async with stream:
            if msgpack:
                rpc = RpcClient(pipe)
                await rpc.handshake()
                assert (await rpc.ask("stream", 1, {"Type": "user"}))["Error"] == ""
            else:
                client = JsonClient(pipe)
                assert (await client.ask(command="stream", types=["user"]))["ok"]
            received.append(names)
            if len(received) == CLIENTS:
                listening.set()
            while len(names) < EVENTS:
                if msgpack:
                    await rpc.receive()
                    names.append((await rpc.receive())["Name"])
                else:
                    names.append((await client.receive())["name"])

    async with open_at(agent) as server:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for number in range(CLIENTS):
                    nursery.start_soon(listen, await dial(server), bool(number % 2))
                await listening.wait()
                for number in range(EVENTS):
                    await agent.node.user_event(f"e{number}")
        assert received == [[f"e{number}" for number in range(EVENTS)]] * CLIENTS


async def connect_and_leave(server: Server, number: int) -> None:
    """Connect, open streams and disconnect."""
    stream = await dial(server)
    async with stream:
        pipe = trio.StapledStream(stream, stream)
        if number % 2:
            client = JsonClient(pipe)
            assert (await client.ask(command="stream", seq=1))["ok"]
            await client.send({"command": "monitor", "seq": 2})
        else:
            rpc = RpcClient(pipe)
            await rpc.handshake()
            await rpc.ask("stream", 1, {"Type": "*"})
        if number % 3 == 0:
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


async def wait_for_no_connections(server: Server) -> None:
    with trio.fail_after(10):
        while server.connections:
            await trio.lowlevel.checkpoint()


async def test_a_thousand_connections_leak_no_tasks_descriptors_or_memory() -> None:
    agent = FakeAgent()

    def resources() -> tuple[int, int, int]:
        gc.collect()
        tasks = trio.lowlevel.current_statistics().tasks_living
        return tasks, len(list(Path("/proc/self/fd").iterdir())), len(gc.get_objects())

    async with open_at(agent) as server:
        for number in range(50):
            await connect_and_leave(server, number)
        await wait_for_no_connections(server)
        tasks, descriptors, objects = resources()
        for number in range(1000):
            await connect_and_leave(server, number)
        await wait_for_no_connections(server)
        tasks_after, descriptors_after, objects_after = resources()
    assert tasks_after == tasks
    assert descriptors_after <= descriptors  # some of the first connections were still open
    assert objects_after - objects < 500
    assert agent.node.subscriptions == 0
    assert agent.logs.subscriptions == 0


async def test_slow_clients_are_disconnected_and_delay_no_other_client() -> None:
    limits = Limits(first=0.5, message=0.5)
    async with open_at(FakeAgent(), limits) as server:
        slow = [await dial(server) for _ in range(20)]
        for number, stream in enumerate(slow):
            if number % 2:
                await stream.send_all(b'{"comm' if number % 4 == 1 else b"\x82\xa7Com")
        working = await dial(server)
        client = JsonClient(trio.StapledStream(working, working))
        for _ in range(20):
            assert (await client.ask(command="members"))["ok"]
        with trio.fail_after(5):
            for stream in slow:
                assert await stream.receive_some(1) == b""
                await stream.aclose()
            while server.connections > 1:
                await trio.lowlevel.checkpoint()
        assert (await client.ask(command="members"))["ok"]
        await working.aclose()


async def test_full_server_accepts_again_after_a_disconnect() -> None:
    async with open_at(FakeAgent(), Limits(connections=3, kept_for_unix=0)) as server:
        clients = [await dial(server) for _ in range(3)]
        for client in clients:
            lines = JsonClient(trio.StapledStream(client, client))
            assert (await lines.ask(command="stream"))["ok"]
        with trio.fail_after(5):
            late = await dial(server)
            assert await late.receive_some(1) == b""
            await late.aclose()
            await clients[0].aclose()
            while server.connections == 3:
                await trio.lowlevel.checkpoint()
            again = await dial(server)
            assert await handshakes(again)
        for client in (*clients[1:], again):
            await client.aclose()


SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ="


@pytest.mark.parametrize(
    "request_",
    [
        {"command": "auth", "key": SECRET},
        {"command": "auth", "key": [SECRET]},
        {"command": "auth", "key": "sesame", "extra": SECRET},
        {"command": "keys", "action": "use", "key": SECRET[:-4]},
        {"command": "keys", "action": "use", "key": {"k": SECRET}},
        {"command": "keys", "action": "list", "key": SECRET},
        {"command": "keys", "action": SECRET, "key": SECRET},
        '{"command": "keys", "action": "use", "key": "' + SECRET,
        SECRET,
    ],
)
async def test_keys_appear_in_no_json_reply_and_no_log(
    request_: dict[str, object] | str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving("sesame", Limits(wrong_key=0.01)) as served:
        client = served.connect()
        await client.send({"command": "auth", "key": "sesame"}, request_)
        assert (await client.receive())["ok"]
        reply = await client.receive()
        assert reply["ok"] is False
        assert SECRET[:20] not in json.dumps(reply)
    assert SECRET[:20] not in caplog.text


@pytest.mark.parametrize(
    ("command", "body"),
    [
        ("auth", {"AuthKey": SECRET}),
        ("auth", {"AuthKey": [SECRET]}),
        ("install-key", {"Key": SECRET[:-4]}),
        ("use-key", {"Key": {SECRET: SECRET}}),
        ("remove-key", SECRET),
        (SECRET, {"Key": SECRET}),
    ],
)
async def test_keys_appear_in_no_rpc_reply_and_no_log(
    command: str, body: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving() as served:
        rpc = await served.rpc()
        await rpc.send({"Command": command, "Seq": 1}, body)
        await rpc.stream.send_eof()
        replies = []
        while (reply := await rpc.receive()) is not None:
            replies.append(reply)
        assert SECRET[:20] not in repr(replies)
    if command != SECRET:
        assert SECRET[:20] not in caplog.text


def test_rpc_auth_key_may_be_any_text() -> None:
    access = AccessControl("schlüssel")
    assert access.key_matches("schlüssel")
    for guess in ("", "schl", "schlüssel ", "schlussel", "\ud800"):
        assert not access.key_matches(guess)
    assert not AccessControl().key_matches("")


async def test_logged_client_input_is_truncated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for command, body in (("x\n" * 100_000, {}), ("members-filtered", {"Name": "(" * 100_000})):
        async with serving() as served:
            rpc = await served.rpc()
            await rpc.send({"Command": command, "Seq": 1}, body)
            while await rpc.receive() is not None:
                pass
    assert len(caplog.messages) == 2
    assert all(len(line) < 400 and "\n" not in line for line in caplog.messages)


async def test_keepalive_is_enabled_on_accepted_connections() -> None:
    async with open_at(FakeAgent()) as server:
        client = await dial(server)
        assert await handshakes(client)
        with trio.fail_after(10):
            while not keepalive_runs(client.socket.getpeername()[1]):
                await trio.lowlevel.checkpoint()
        await client.aclose()


def keepalive_runs(port: int) -> bool:
    """Return whether an accepted connection at this port has its keepalive timer set."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(
        row[1].endswith(f":{port:04X}") and row[3] == "01" and row[5].startswith("02:")
        for row in rows
    )
