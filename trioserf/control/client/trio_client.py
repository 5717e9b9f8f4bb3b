"""An agent's control socket from a Trio program.

Example:
    async with connect("127.0.0.1:7373") as agent:
        print(await agent.members(status="alive"))
        async for record in agent.query("load", timeout=2):
            print(record)
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial

import trio

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
from trioserf.event_loop import require_trio
from trioserf.exception_groups import unwrap_single_exception


class AgentClient(AsyncClient):
    """An open connection to an agent; made by `connect`."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        nursery: trio.Nursery,
        on_lost: Callable[[BaseException | None], ControlError],
    ) -> None:
        super().__init__(trio.Event, trio.lowlevel.checkpoint)
        self._on_lost = on_lost
        self._stream = stream
        self._nursery = nursery
        self._lock = trio.StrictFIFOLock()

    async def _send(self, data: bytes) -> None:
        """Write a whole line; once started it is not cancelled, but has its own deadline."""
        async with self._lock:
            if self._ended is not None:
                raise self._ended
            with trio.move_on_after(WRITE_TIMEOUT, shield=True) as scope:
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    # The agent's last records may still arrive: `read` reports the end.
                    return
            if scope.cancelled_caught:
                self._end(ControlError("disconnected", "the agent accepts no more requests"))

    async def _send_shielded(self, data: bytes) -> None:
        with suppress(ControlError), trio.CancelScope(shield=True):
            await self._send(data)

    def _send_later(self, data: bytes) -> None:
        self._nursery.start_soon(self._send_shielded, data)

    async def read(self) -> None:
        """Dispatch what the agent sends until the connection ends; run by `connect`."""
        end = ControlError("disconnected", "the agent closed the connection")
        try:
            while data := bytes(await self._stream.receive_some(CHUNK)):
                self._feed(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            end = self._on_lost(error.__cause__ or error)
        except ControlError as error:
            end = error
        self._end(end)


def connect(
    address: str = DEFAULT_ADDRESS,
    auth: str | None = None,
    *,
    timeout: float = 10.0,
    tls: Tls | None = None,
) -> AbstractAsyncContextManager[AgentClient]:
    """Connect to a trioserf agent while the block runs.

    Args:
        address: `host:port`, `[v6]:port`, a bare host (port 7373), the same after `tls://`, or
            `unix:PATH`.
        auth: the agent's key, if it requires one.
        timeout: seconds for the connection and the handshake.
        tls: the options of TLS, for an address that begins with `tls://`.

    Raises:
        ControlError: `unreachable`, `timeout`, `auth_required`, `auth_failed`, or `protocol` when
            the other side does not speak JSON lines (HashiCorp's agents do not).
        RuntimeError: the caller is not a Trio task; the text names the other clients.
        TypeError: an argument of a wrong type.
    """
    require_trio("connect")
    check_connection(address, auth, timeout, tls)
    return _connect(address, auth, timeout, tls)


@asynccontextmanager
async def _connect(
    address: str, auth: str | None, timeout: float, tls: Tls | None
) -> AsyncIterator[AgentClient]:
    deadline = trio.current_time() + timeout
    stream, on_lost = await _dial(address, tls, deadline)
    with unwrap_single_exception():
        async with stream, trio.open_nursery() as nursery:
            client = AgentClient(stream, nursery, on_lost)
            nursery.start_soon(client.read)
            try:
                with trio.fail_at(deadline):
                    await client.handshake(auth)
            except trio.TooSlowError:
                text = f"no answer from the agent at {address}"
                raise ControlError("timeout", text) from None
            except ControlError as error:
                raise handshake_error(error, address) from None
            yield client
            nursery.cancel_scope.cancel()


async def _dial(
    address: str, tls: Tls | None, deadline: float
) -> tuple[trio.abc.Stream, Callable[[BaseException | None], ControlError]]:
    """Connect; return the stream, and a function that converts the exception that ends it."""
    try:
        with trio.fail_at(deadline):
            handshake = await trio.to_thread.run_sync(client_tls, address, tls)
            stream = await _open_stream(split_tls(address)[1])
            if handshake is not None:
                stream = await _start_tls(stream, address, handshake)
    except trio.TooSlowError:
        raise unreachable(address, TimeoutError()) from None
    except (AddressError, ConfigError, OSError) as error:
        raise unreachable(address, error) from None
    return stream, partial(lost_connection, address=address, tls=handshake)


async def _open_stream(address: str) -> trio.abc.Stream:
    path = unix_path(address)
    if path is not None:
        return await trio.open_unix_socket(path)
    host, port = split_address(address)
    return await trio.open_tcp_stream(host or "127.0.0.1", port)


async def _start_tls(
    transport: trio.abc.Stream, address: str, tls: ClientTls
) -> trio.SSLStream[trio.abc.Stream]:
    stream = trio.SSLStream(
        transport, tls.context, server_hostname=tls.server_name, https_compatible=True
    )
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(transport)
        raise tls_error(error.__cause__, address, tls) from None
    except trio.Cancelled:
        await trio.aclose_forcefully(transport)
        raise
    return stream
