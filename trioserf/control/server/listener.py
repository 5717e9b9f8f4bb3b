"""Where clients connect: TCP and Unix listeners, and the first byte that tells the framing.

`{` and white space begin JSON lines; whatever else is taken for msgpack, whose maps never begin
with either. One listener therefore serves Serf's own clients and everyone else.
"""

import errno
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from trioserf.agent.agent import Agent
from trioserf.control.address import split_address, unix_path
from trioserf.control.server.connection import CHUNK, Limits, ServerContext
from trioserf.control.server.error_mapping import capture_error
from trioserf.control.server.json_lines import JsonLines
from trioserf.control.server.json_records import WallClock, utc_now
from trioserf.control.server.msgpack_rpc import MsgpackRpc
from trioserf.counters import Counters
from trioserf.errors import AddressError
from trioserf.exception_groups import unwrap_single_exception

_log = logging.getLogger("trioserf.agent.ipc")

_JSON_STARTS = b"{ \t\r\n"
_BACKLOG = 128
_KEEPALIVE = (
    (socket.SO_KEEPALIVE, socket.SOL_SOCKET, 1),
    (getattr(socket, "TCP_KEEPIDLE", None), socket.IPPROTO_TCP, 60),
    (getattr(socket, "TCP_KEEPINTVL", None), socket.IPPROTO_TCP, 15),
    (getattr(socket, "TCP_KEEPCNT", None), socket.IPPROTO_TCP, 4),
)
"""A client may be silent for ever, but its system must answer: else it is gone after 2 minutes."""


class Server:
    """Connections to one agent: counts them, refuses those over the limits."""

    def __init__(self, service: ServerContext, nursery: trio.Nursery) -> None:
        self.service = service
        self.addresses: list[str] = []
        self.connections = 0
        self.unauthenticated = 0
        self.refused = 0
        self._nursery = nursery
        service.spawn = self._spawn

    def _spawn(self, run: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(run)

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection from its first byte to its end; never raises."""
        self.service.accepted.add()
        limits = self.service.limits
        crowded = bool(self.service.auth) and self.unauthenticated >= limits.unauthenticated
        if crowded or self.connections >= limits.connections:
            self.refused += 1
            _log.warning("Refused a client: too many are connected (%d)", self.connections)
            await trio.aclose_forcefully(stream)
            return
        _keep_alive(stream)
        guest = _Admitted(self)
        try:
            with capture_error("connection"):
                await self._serve(stream, guest)
        finally:
            guest.release()
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.abc.Stream, guest: "_Admitted") -> None:
        """Wait for the first byte, then speak what it begins."""
        limits = self.service.limits
        deadline = trio.current_time() + (limits.auth if self.service.auth else limits.first)
        first = b""
        with trio.move_on_at(deadline), suppress(trio.BrokenResourceError):
            first = bytes(await stream.receive_some(CHUNK))
        if first:
            kind = JsonLines if first[0] in _JSON_STARTS else MsgpackRpc
            await kind(self.service, stream, guest.mark_authenticated).serve(first, deadline)


def _keep_alive(stream: trio.abc.Stream) -> None:
    """Have the system notice a client whose machine or network is gone."""
    if isinstance(stream, trio.SocketStream) and stream.socket.family != socket.AF_UNIX:
        for name, level, value in _KEEPALIVE:
            if name is not None:
                with suppress(OSError):  # the client may be gone already
                    stream.socket.setsockopt(level, name, value)


class _Admitted:
    """A connection in the server's books: a stranger until its key was right."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._strange = bool(server.service.auth)
        server.connections += 1
        server.unauthenticated += self._strange

    def mark_authenticated(self) -> None:
        self._server.unauthenticated -= self._strange
        self._strange = False

    def release(self) -> None:
        self.mark_authenticated()
        self._server.connections -= 1


@asynccontextmanager
async def open_control(
    agent: Agent,
    addresses: Sequence[str],
    *,
    auth: str = "",
    limits: Limits | None = None,
    wall: WallClock = utc_now,
    tally: Counters | None = None,
) -> AsyncIterator[Server]:
    """Serve an agent's control clients on `addresses` while the block runs.

    Args:
        agent: whom the clients drive. Its `shutdown` is set after a `leave`.
        addresses: `host:port`, `[v6]:port`, a bare host (port 7373) or `unix:PATH`. Port 0 lets
            the system choose; `Server.addresses` tells what it chose.
        auth: the key that clients must give first; empty for none.
        limits: what strangers may cost.
        wall: the time of day for records.
        tally: counts connections and commands for metrics.

    Raises:
        AddressError: an address that is none, is taken or may not be used.
    """
    service = ServerContext(agent, auth, wall, limits or Limits())
    if tally is not None:
        service.accepted = tally.counter("agent.ipc.accept")
        service.requested = tally.counter("agent.ipc.command")
    async with AsyncExitStack() as stack:
        stack.enter_context(unwrap_single_exception())
        listeners: list[trio.SocketListener] = []
        bound: list[str] = []
        for address in addresses:
            opened = await _open(address)
            for listener in opened:
                stack.push_async_callback(trio.aclose_forcefully, listener)
            if (path := unix_path(address)) is not None:
                stack.callback(_remove_own(Path(path)))
            listeners += opened
            bound += [_spelled(listener.socket.getsockname()) for listener in opened]
        nursery = await stack.enter_async_context(trio.open_nursery())
        server = Server(service, nursery)
        server.addresses = bound
        if listeners:
            nursery.start_soon(trio.serve_listeners, server.handle, listeners)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()


def _spelled(name: Any) -> str:
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return f"unix:{os.fsdecode(name)}"


async def _open(address: str) -> list[trio.SocketListener]:
    if (path := unix_path(address)) is not None:
        return [_open_unix(Path(path))]
    host, port = split_address(address)
    try:
        return await trio.open_tcp_listeners(port, host=host or None, backlog=_BACKLOG)
    except OSError as error:
        raise AddressError(f"control address {address}: {_why(error)}") from error


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "already in use; another agent may be running there (rpc_addr chooses another)"
    return error.strerror or str(error)


def _open_unix(path: Path) -> trio.SocketListener:
    """Listen on a path that only its owner may use, where a dead agent's socket may still lie."""
    where = f"control address unix:{path}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode comes from the mask so that there is no moment at which others could connect.
    mask = os.umask(0o177)
    try:
        _clear(path)
        sock.bind(str(path))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise AddressError(f"{where}: {_why(error)}") from error
    finally:
        os.umask(mask)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _clear(path: Path) -> None:
    """Remove a socket to which nobody listens; whatever else is there stays (OSError)."""
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "something that is no socket is there")
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # it listens, and is busy
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _remove_own(path: Path) -> Callable[[], None]:
    """Make a call that removes the socket at `path`, unless another took its place."""
    ours = path.lstat()

    def remove() -> None:
        with suppress(FileNotFoundError):
            there = path.lstat()
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                path.unlink()

    return remove
