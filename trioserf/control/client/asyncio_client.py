"""An agent's control socket from an asyncio program: the interface of the Trio client.

Example:
    async with connect("127.0.0.1:7373") as agent:
        print(await agent.members(status="alive"))
        async for record in agent.query("load", timeout=2):
            print(record)
"""

import asyncio
import ssl  # asyncio imports it
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial

from trioserf.control.address import DEFAULT_ADDRESS, split_address, unix_path
from trioserf.control.client.async_client import (
    CHUNK,
    WRITE_TIMEOUT,
    AsyncClient,
    handshake_error,
)
from trioserf.control.client.requests import check_connection, unreachable
from trioserf.control.errors import ControlError
from trioserf.control.tls import (
    ClientTls,
    Tls,
    client_tls,
    lost_connection,
    split_tls,
    tls_error,
)
from trioserf.errors import AddressError, ConfigError

CLOSE_TIMEOUT = 1.0
"""Seconds for the end of a TLS connection, which the agent need not confirm."""


class AgentClient(AsyncClient):
    """An open connection to an agent; made by `connect`."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_lost: Callable[[BaseException | None], ControlError],
    ) -> None:
        super().__init__(asyncio.Event, partial(asyncio.sleep, 0))
        self._on_lost = on_lost
        self._input = reader
        self._output = writer

    async def _send(self, data: bytes) -> None:
        """Write a whole line: the writer buffers it, so a cancelled caller leaves no half line."""
        if self._ended is not None:
            raise self._ended
        self._output.write(data)
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                await self._output.drain()
        except TimeoutError:
            self._end(ControlError("disconnected", "the agent accepts no more requests"))
        except OSError:
            # The agent's last records may still arrive: `read` reports the end.
            return

    async def _send_shielded(self, data: bytes) -> None:
        self._send_later(data)

    def _send_later(self, data: bytes) -> None:
        if self._ended is None:
            self._output.write(data)

    async def read(self) -> None:
        """Dispatch what the agent sends until the connection ends; run by `connect`."""
        end = ControlError("disconnected", "the agent closed the connection")
        try:
            while data := await self._input.read(CHUNK):
                self._feed(data)
        except OSError as error:
            end = self._on_lost(error)
        except ControlError as error:
            end = error
        finally:
            self._end(end)


def connect(
    address: str = DEFAULT_ADDRESS,
    auth: str | None = None,
    *,
    timeout: float = 10.0,
    tls: Tls | None = None,
) -> AbstractAsyncContextManager[AgentClient]:
    """Connect to a trioserf agent while the block runs; arguments and errors as the Trio client's.

    Raises:
        ControlError: `unreachable`, `timeout`, `auth_required`, `auth_failed` or `protocol`.
        TypeError: an argument of a wrong type.
    """
    check_connection(address, auth, timeout, tls)
    return _connect(address, auth, timeout, tls)


@asynccontextmanager
async def _connect(
    address: str, auth: str | None, timeout: float, tls: Tls | None
) -> AsyncIterator[AgentClient]:
    deadline = asyncio.get_running_loop().time() + timeout
    reader, writer, on_lost = await _dial(address, tls, deadline)
    client = AgentClient(reader, writer, on_lost)
    reading = asyncio.create_task(client.read())
    try:
        try:
            async with asyncio.timeout_at(deadline):
                await client.handshake(auth)
        except TimeoutError:
            raise ControlError("timeout", f"no answer from the agent at {address}") from None
        except ControlError as error:
            raise handshake_error(error, address) from None
        yield client
    finally:
        reading.cancel()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        await asyncio.wait([reading])
    if not reading.cancelled():
        reading.result()  # an exception here is a bug of the client


async def _dial(
    address: str, tls: Tls | None, deadline: float
) -> tuple[
    asyncio.StreamReader, asyncio.StreamWriter, Callable[[BaseException | None], ControlError]
]:
    """Connect; return the streams, and a function that converts the exception that ends them."""
    path = unix_path(address)
    handshake: ClientTls | None = None
    try:
        async with asyncio.timeout_at(deadline):
            handshake = await asyncio.to_thread(client_tls, address, tls)
            on_lost = partial(lost_connection, address=address, tls=handshake)
            if path is not None:
                return *await asyncio.open_unix_connection(path), on_lost
            host, port = split_address(split_tls(address)[1])
            if handshake is None:
                return *await asyncio.open_connection(host or "127.0.0.1", port), on_lost
            streams = await asyncio.open_connection(
                host or "127.0.0.1",
                port,
                ssl=handshake.context,
                server_hostname=handshake.server_name,
                ssl_shutdown_timeout=CLOSE_TIMEOUT,
            )
            return *streams, on_lost
    except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError) as error:
        if handshake is None:
            raise unreachable(address, error) from None
        raise tls_error(error, address, handshake) from None
    except (AddressError, ConfigError, OSError) as error:
        raise unreachable(address, error) from None
