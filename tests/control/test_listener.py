import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.control.helpers import FakeAgent, JsonClient, RpcClient
from trioserf.control.address import split_address
from trioserf.control.server.listener import Server, open_control
from trioserf.errors import AddressError


@asynccontextmanager
async def open_at(*addresses: str) -> AsyncIterator[Server]:
    async with open_control(FakeAgent(), addresses) as server:
        yield server


async def dial(address: str) -> trio.abc.HalfCloseableStream:
    if address.startswith("unix:"):
        return await trio.open_unix_socket(address[5:])
    return await trio.open_tcp_stream(*split_address(address))


async def greets(address: str) -> bool:
    stream = await dial(address)
    async with stream:
        reply = await JsonClient(trio.StapledStream(stream, stream)).ask(command="handshake")
        return bool(reply["ok"])


async def test_one_port_speaks_both_protocols() -> None:
    async with open_at("127.0.0.1:0") as server:
        (address,) = server.addresses
        assert await greets(address)
        stream = await dial(address)
        async with stream:
            rpc = RpcClient(trio.StapledStream(stream, stream))
            await rpc.handshake()
            assert (await rpc.ask("members"))["Error"] == ""


async def test_several_listeners_and_a_unix_socket_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with open_at("127.0.0.1:0", f"unix:{path}") as server:
        assert len(server.addresses) == 2
        assert server.addresses[1] == f"unix:{path}"
        for address in server.addresses:
            assert await greets(address)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with open_at(f"unix:{path}") as server:
        assert await greets(server.addresses[0])


async def test_a_live_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with open_at(f"unix:{path}") as server:
        with pytest.raises(AddressError, match="already in use"):
            async with open_at(f"unix:{path}"):
                pass
        assert await greets(server.addresses[0])


async def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("words")
    with pytest.raises(AddressError, match="not a socket"):
        async with open_at(f"unix:{path}"):
            pass
    assert path.read_text() == "words"


async def test_the_socket_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with open_at(f"unix:{path}"):
        path.unlink()
        path.write_text("another's")
    assert path.exists()


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match="nowhere"):
        async with open_at(f"unix:{tmp_path}/nowhere/control.sock"):
            pass


async def test_a_port_that_is_taken_is_named() -> None:
    async with open_at("127.0.0.1:0") as server:
        (address,) = server.addresses
        with pytest.raises(AddressError, match=f"{address}: already in use"):
            async with open_at(address):
                pass


async def test_when_one_address_fails_the_others_are_given_back(tmp_path: Path) -> None:
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
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="control address"):
        split_address(text)


async def test_a_reply_arrives_though_the_client_has_said_more_than_we_read() -> None:
    async with open_at("127.0.0.1:0") as server:
        stream = await dial(server.addresses[0])
        async with stream, trio.open_nursery() as nursery:

            async def flood() -> None:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(b" " * 3_000_000)

            nursery.start_soon(flood)
            data = await stream.receive_some(65536)
            assert b"line_too_long" in data


async def test_visits_leave_no_descriptor_behind() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with open_at("127.0.0.1:0") as server:
        before = descriptors()
        for _ in range(200):
            assert await greets(server.addresses[0])
        with trio.fail_after(5):
            while server.connections:
                await trio.lowlevel.checkpoint()
        assert descriptors() == before


async def test_an_agent_that_ends_closes_its_connections() -> None:
    async with open_at("127.0.0.1:0") as server:
        stream = await dial(server.addresses[0])
        wire = JsonClient(trio.StapledStream(stream, stream))
        assert (await wire.ask(command="stream"))["ok"]
    with trio.fail_after(5):
        assert await wire.receive() is None
    await stream.aclose()
