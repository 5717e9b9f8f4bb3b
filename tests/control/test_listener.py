import gc
import logging
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.control.helpers import FakeAgent, JsonClient, RpcClient, handshakes
from trioserf.control.address import split_address
from trioserf.control.server.connection import Connection
from trioserf.control.server.listener import Server, open_control
from trioserf.errors import AddressError

assert sys.platform != "win32"


@asynccontextmanager
async def open_at(*addresses: str) -> AsyncIterator[Server]:
    async with open_control(FakeAgent(), addresses) as server:
        yield server


async def dial(address: str) -> trio.SocketStream:
    if address.startswith("unix:"):
        return await trio.open_unix_socket(address[5:])
    return await trio.open_tcp_stream(*split_address(address))


async def serves(address: str) -> bool:
    stream = await dial(address)
    async with stream:
        return await handshakes(stream)


async def test_one_port_serves_both_protocols() -> None:
    async with open_at("127.0.0.1:0") as server:
        (address,) = server.addresses
        assert await serves(address)
        stream = await dial(address)
        async with stream:
            rpc = RpcClient(trio.StapledStream(stream, stream))
            await rpc.handshake()
            assert (await rpc.ask("members"))["Error"] == ""


async def test_tcp_and_unix_socket_are_served_together(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with open_at("127.0.0.1:0", f"unix:{path}") as server:
        assert len(server.addresses) == 2
        assert server.addresses[1] == f"unix:{path}"
        for address in server.addresses:
            assert await serves(address)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_each_client_and_its_leave_are_logged_as_in_serf(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trioserf.agent.ipc")
    async with open_at("127.0.0.1:0", f"unix:{tmp_path / 'control.sock'}") as server:
        for address in server.addresses:
            assert await serves(address)
        stream = await dial(server.addresses[0])
        async with stream:
            host, port = stream.socket.getsockname()
            rpc = RpcClient(trio.StapledStream(stream, stream))
            await rpc.handshake()
            assert (await rpc.ask("leave"))["Error"] == ""
    first, second, *rest = caplog.messages
    assert first.startswith("Accepted client: 127.0.0.1:")
    assert second == f"Accepted client: unix uid:{os.getuid()}"
    assert rest == [f"Accepted client: {host}:{port}", "Graceful leave triggered"]


async def test_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with open_at(f"unix:{path}") as server:
        assert await serves(server.addresses[0])


async def test_live_unix_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with open_at(f"unix:{path}") as server:
        with pytest.raises(AddressError, match="already in use"):
            async with open_at(f"unix:{path}"):
                pass
        assert await serves(server.addresses[0])


async def test_file_that_is_not_a_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("words")
    with pytest.raises(AddressError, match="not a socket"):
        async with open_at(f"unix:{path}"):
            pass
    assert path.read_text() == "words"


async def test_replaced_unix_socket_is_not_removed_at_exit(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with open_at(f"unix:{path}"):
        path.unlink()
        path.write_text("another's")
    assert path.exists()


async def test_error_of_missing_directory_names_it(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match="nowhere"):
        async with open_at(f"unix:{tmp_path}/nowhere/control.sock"):
            pass


async def test_error_of_port_in_use_names_the_address() -> None:
    async with open_at("127.0.0.1:0") as server:
        (address,) = server.addresses
        with pytest.raises(AddressError, match=f"{address}: already in use"):
            async with open_at(address):
                pass


async def test_failed_address_closes_the_other_listeners(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with pytest.raises(AddressError):
        async with open_at(f"unix:{path}", "192.0.2.1:1"):
            pass
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:99", ("127.0.0.1", 99)),
        ("127.0.0.1", ("127.0.0.1", 7373)),
        ("localhost:1", ("localhost", 1)),
        ("[::1]:5", ("::1", 5)),
        ("[::1]", ("::1", 7373)),
        ("::1", ("::1", 7373)),
        (":7373", ("", 7373)),
    ],
)
def test_addresses_are_split(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["127.0.0.1:", "a:b", "a:70000", "[::1", "[::1]x", "a:-1"])
def test_invalid_address_is_rejected(text: str) -> None:
    with pytest.raises(AddressError, match="control address"):
        split_address(text)


async def test_error_arrives_although_client_sent_more_than_was_read() -> None:
    async with open_at("127.0.0.1:0") as server:
        stream = await dial(server.addresses[0])
        async with stream, trio.open_nursery() as nursery:

            async def flood() -> None:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(b" " * 3_000_000)

            nursery.start_soon(flood)
            data = await stream.receive_some(65536)
            assert b"line_too_long" in data


async def test_closed_connections_leak_no_descriptors() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with open_at("127.0.0.1:0") as server:
        before = descriptors()
        for _ in range(200):
            assert await serves(server.addresses[0])
        with trio.fail_after(5):
            while server.connections:
                await trio.lowlevel.checkpoint()
        assert descriptors() == before


async def test_closed_connections_wait_for_no_garbage_collection() -> None:
    def connections() -> int:
        return sum(isinstance(one, Connection) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        async with open_at("127.0.0.1:0") as server:
            before = connections()
            for client_of in (JsonClient, RpcClient):
                stream = await dial(server.addresses[0])
                async with stream:
                    client = client_of(trio.StapledStream(stream, stream))
                    if isinstance(client, RpcClient):
                        await client.handshake()
                        await client.ask("stream", 7, {"Type": "*"})
                        await client.ask("monitor", 8, {"LogLevel": "INFO"})
                    else:
                        await client.ask(command="stream")
                        await client.ask(command="monitor")
                    assert connections() == before + 1
                with trio.fail_after(5):
                    while server.connections:
                        await trio.lowlevel.checkpoint()
                await trio.testing.wait_all_tasks_blocked()
                assert connections() == before
    finally:
        gc.enable()


async def test_connections_are_closed_when_agent_ends() -> None:
    async with open_at("127.0.0.1:0") as server:
        stream = await dial(server.addresses[0])
        client = JsonClient(trio.StapledStream(stream, stream))
        assert (await client.ask(command="stream"))["ok"]
    with trio.fail_after(5):
        assert await client.receive() is None
    await stream.aclose()
