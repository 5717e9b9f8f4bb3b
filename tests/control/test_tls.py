"""TLS on the control port: every client, both framings, and errors that name what mends them."""

import asyncio
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.control.certificates import Authority, new_authority, private_bytes
from tests.control.helpers import FakeAgent, JsonClient, handshakes
from trioserf.control.address import split_address
from trioserf.control.client import asyncio_client, trio_client
from trioserf.control.client.connect import connect_any
from trioserf.control.client.json_session import JsonSession
from trioserf.control.client.rpc_session import RpcSession
from trioserf.control.client.session import AgentSession
from trioserf.control.errors import ControlError
from trioserf.control.server.admission import Limits
from trioserf.control.server.binding import load_tls
from trioserf.control.server.http import HTTP_ERROR
from trioserf.control.server.listener import Server, open_control
from trioserf.control.tls import Tls, TlsFiles
from trioserf.errors import AddressError, ConfigError


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return new_authority(tmp_path)


@asynccontextmanager
async def open_at(
    files: TlsFiles | None,
    address: str = "tls://127.0.0.1:0",
    auth: str = "",
    limits: Limits | None = None,
) -> AsyncIterator[Server]:
    async with open_control(FakeAgent(), [address], auth=auth, tls=files, limits=limits) as server:
        yield server


# --- the clients: each connects, asks and returns the names of members ---

Ask = Callable[[str, str, Tls | None], list[str]]


def ask_with(connect: Callable[..., AgentSession]) -> Ask:
    def ask(address: str, auth: str, tls: Tls | None) -> list[str]:
        with connect(address, auth, timeout=5, tls=tls) as session:
            assert [type(record).__name__ for record in session.query("load")][-1] == "QueryDone"
            return [member.name for member in session.members()]

    return ask


def ask_with_trio(address: str, auth: str, tls: Tls | None) -> list[str]:
    async def main() -> list[str]:
        async with trio_client.connect(address, auth, timeout=5, tls=tls) as agent:
            return [member.name for member in await agent.members()]

    return trio.run(main)


def ask_with_asyncio(address: str, auth: str, tls: Tls | None) -> list[str]:
    async def main() -> list[str]:
        async with asyncio_client.connect(address, auth, timeout=5, tls=tls) as agent:
            return [member.name for member in await agent.members()]

    return asyncio.run(main())


CLIENTS = {
    "any": ask_with(connect_any),
    "json": ask_with(JsonSession.connect),
    "msgpack": ask_with(RpcSession.connect),
    "trio": ask_with_trio,
    "asyncio": ask_with_asyncio,
}
each_client = pytest.mark.parametrize("client", CLIENTS)


async def ask(client: str, address: str, tls: Tls | None = None, auth: str = "") -> list[str]:
    return await trio.to_thread.run_sync(CLIENTS[client], address, auth, tls)


async def error_of(client: str, address: str, tls: Tls | None = None) -> str:
    """Return the text of the error of a connection that fails; it must be one line."""
    with pytest.raises(ControlError) as caught:
        await ask(client, address, tls)
    assert "\n" not in caught.value.message
    assert caught.value.code in ("unreachable", "bad_request")
    return caught.value.message


@each_client
async def test_client_with_the_ca_is_served(client: str, ca: Authority) -> None:
    async with open_at(ca.issue("agent", "127.0.0.1"), auth="sesame") as server:
        (address,) = server.addresses
        assert address.startswith("tls://127.0.0.1:")
        assert await ask(client, address, Tls(ca.file), "sesame") == ["node-a"]
        assert server.refused == 0


@each_client
async def test_certificate_of_another_ca_is_not_accepted(client: str, ca: Authority) -> None:
    other = new_authority(ca.directory, "other")
    async with open_at(ca.issue("agent", "127.0.0.1")) as server:
        (address,) = server.addresses
        for tls in (Tls(other.file), None):
            text = await error_of(client, address, tls)
            assert text.startswith(f"agent at {address}: certificate not accepted (")
            assert text.endswith("; --tls-ca names the file of the CA that signed it")


@each_client
async def test_certificate_of_another_name_is_not_accepted(client: str, ca: Authority) -> None:
    async with open_at(ca.issue("agent", "agent.example")) as server:
        (address,) = server.addresses
        text = await error_of(client, address, Tls(ca.file))
        assert text == (
            f"agent at {address}: its certificate is not for 127.0.0.1;"
            " --tls-server-name sets the name"
        )
        assert await ask(client, address, Tls(ca.file, server_name="agent.example")) == ["node-a"]


@each_client
async def test_client_certificate_is_required_if_its_ca_is_set(
    client: str, ca: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    clients = new_authority(ca.directory, "clients")
    files = ca.issue("agent", "127.0.0.1")._replace(client_ca=clients.file)
    async with open_at(files) as server:
        (address,) = server.addresses
        text = await error_of(client, address, Tls(ca.file))
        assert text == (
            f"agent at {address}: it requires a client certificate;"
            " --tls-cert and --tls-key name one"
        )
        cert, key, _ = ca.issue("forged")
        text = await error_of(client, address, Tls(ca.file, cert, key))
        assert text.startswith(f"agent at {address}: it does not accept the client certificate;")
        cert, key, _ = clients.issue("operator")
        assert await ask(client, address, Tls(ca.file, cert, key)) == ["node-a"]
    assert caplog.messages[0].startswith("No TLS with a client at loopback: peer did not return")


@each_client
async def test_plain_client_at_an_address_of_tls_is_corrected(client: str, ca: Authority) -> None:
    async with open_at(ca.issue("agent", "127.0.0.1")) as server:
        text = await error_of(client, server.addresses[0].removeprefix("tls://"))
        assert text == "this address speaks TLS; put tls:// before it"


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_http_request_at_an_address_of_tls_gets_one_line(
    ca: Authority, is_encrypted: bool
) -> None:
    async with open_at(ca.issue("agent", "127.0.0.1")) as server:
        host, port = server.addresses[0].removeprefix("tls://").split(":")
        stream: trio.abc.Stream = await trio.open_tcp_stream(host, int(port))
        if is_encrypted:
            context = ssl.create_default_context(cafile=ca.file)
            stream = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            reply = b""
            while data := await stream.receive_some(65536):
                reply += data
    assert reply == HTTP_ERROR


@each_client
async def test_tls_client_at_a_plain_address_is_corrected(
    client: str, ca: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_at(None, "127.0.0.1:0") as server:
        (address,) = server.addresses
        assert await error_of(client, f"tls://{address}", Tls(ca.file)) == (
            f"agent at tls://{address}: it does not speak TLS;"
            f" without TLS its address is {address}"
        )
    assert "A client at loopback speaks TLS, but connects to an address without tls://" in (
        caplog.text
    )


@each_client
async def test_files_of_a_client_are_checked(client: str, ca: Authority) -> None:
    cert, key, _ = ca.issue("one")
    other = ca.issue("two").key
    empty = ca.directory / "empty"
    empty.touch()
    locked = ca.directory / "locked"
    locked.write_bytes(
        private_bytes(
            ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"x")
        )
    )
    address = "tls://127.0.0.1:1"
    for tls, expected in (
        (Tls("/nowhere"), "--tls-ca: /nowhere cannot be read: No such file or directory"),
        (Tls(str(empty)), f"--tls-ca: expected certificates as PEM; not so in {empty}"),
        (Tls(cert="/nowhere", key=key), "--tls-cert: /nowhere cannot be read"),
        (Tls(cert=cert, key=other), f"--tls-key: {other} is not the key of the certificate in"),
        (Tls(cert=cert, key=str(locked)), "--tls-cert, --tls-key: expected a certificate and its"),
        (Tls(cert=cert), "--tls-cert, --tls-key: expected a certificate and its private key"),
        (Tls(key=key), "--tls-key: needs --tls-cert"),
    ):
        assert (await error_of(client, address, tls)).startswith(expected)
    text = await error_of(client, "127.0.0.1:1", Tls(ca.file))
    assert text.endswith("expected tls://127.0.0.1:1")


async def test_new_certificate_is_used_and_a_bad_one_is_not(ca: Authority) -> None:
    other = new_authority(ca.directory, "other")
    old, new = ca.issue("old", "127.0.0.1"), other.issue("new", "127.0.0.1")
    async with open_at(old) as server:
        (address,) = server.addresses
        tcp = split_address(address.removeprefix("tls://"))
        context = ssl.create_default_context(cafile=ca.file)
        stream = await trio.open_ssl_over_tcp_stream(
            *tcp, ssl_context=context, https_compatible=True
        )
        for bad in (
            TlsFiles("/nowhere"),
            old._replace(key=new.key),
            old._replace(client_ca=new.key),
        ):
            with pytest.raises(ConfigError, match="rpc_tls_"):
                await load_tls(bad)
        assert await ask("json", address, Tls(ca.file)) == ["node-a"]
        server.tls = await load_tls(new)
        assert await ask("json", address, Tls(other.file)) == ["node-a"]
        await error_of("json", address, Tls(ca.file))
        assert await handshakes(stream)
        await trio.aclose_forcefully(stream)


async def test_silent_and_stalled_handshakes_end_at_the_deadline(ca: Authority) -> None:
    files = ca.issue("agent", "127.0.0.1")
    async with open_at(files, limits=Limits(first=0.2)) as server:
        tcp = split_address(server.addresses[0].removeprefix("tls://"))
        with trio.fail_after(5):
            for sent in (b"", b"\x16", b"\x16\x03\x01\x02\x00"):
                async with await trio.open_tcp_stream(*tcp) as stream:
                    if sent:
                        await stream.send_all(sent)
                    assert await stream.receive_some(1) == b""
            while server.connections:
                await trio.lowlevel.checkpoint()


async def test_handshaken_but_silent_connections_make_room(ca: Authority) -> None:
    files = ca.issue("agent", "127.0.0.1")
    async with open_at(files, limits=Limits(connections=3, kept_for_unix=0)) as server:
        (address,) = server.addresses
        tcp = split_address(address.removeprefix("tls://"))
        context = ssl.create_default_context(cafile=ca.file)
        streams = []
        for _ in range(5):
            stream = await trio.open_ssl_over_tcp_stream(
                *tcp, ssl_context=context, https_compatible=True
            )
            await stream.do_handshake()
            streams.append(stream)
        assert await ask("json", address, Tls(ca.file)) == ["node-a"]
        assert server.refused == 0
        for stream in streams:
            await trio.aclose_forcefully(stream)


async def test_random_bytes_end_a_connection_and_no_other(
    ca: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(1)
    async with open_at(ca.issue("agent", "127.0.0.1")) as server:
        (address,) = server.addresses
        for first in (b"\x16\x03\x01", b"\x16", b"{", b"\x82", b"GET / HTTP/1.1\r\n", b""):
            tcp = split_address(address.removeprefix("tls://"))
            async with await trio.open_tcp_stream(*tcp) as stream:
                await stream.send_all(first + rng.randbytes(3000))
                await stream.send_eof()
                with trio.fail_after(5), suppress(trio.BrokenResourceError):
                    while await stream.receive_some(1000):
                        pass
        for sent in (b"", b"\x16"):
            stream = await trio.open_tcp_stream(*tcp)
            await stream.send_all(sent)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
        assert await ask("json", address, Tls(ca.file)) == ["node-a"]
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("address", ["tls://unix:/tmp/x", "tls://127.0.0.1:0"])
async def test_address_of_tls_needs_host_and_certificate(address: str, ca: Authority) -> None:
    files = ca.issue("agent") if "unix" in address else None
    with pytest.raises((AddressError, ConfigError), match=f"control address {address}: "):
        async with open_at(files, address):
            pass


async def test_large_replies_and_errors_arrive_over_tls(ca: Authority) -> None:
    async with open_at(ca.issue("agent", "127.0.0.1")) as server:
        tcp = split_address(server.addresses[0].removeprefix("tls://"))
        context = ssl.create_default_context(cafile=ca.file)
        stream = await trio.open_ssl_over_tcp_stream(
            *tcp, ssl_context=context, https_compatible=True
        )
        client = JsonClient(trio.StapledStream(stream, stream))
        for seq in range(300):
            await client.send({"command": "nonsense" * 100, "seq": seq})
        for seq in range(300):
            assert (await client.receive())["seq"] == seq
        with suppress(trio.BrokenResourceError):
            await stream.send_all(b"{" * 1_100_000)
        assert (await client.receive())["error"]["code"] == "line_too_long"
        await trio.aclose_forcefully(stream)
