"""TCP and Unix listeners of the control socket; the first byte selects the framing.

`{` and white space begin JSON lines, any other byte msgpack, whose maps never begin with these.
One port therefore serves Serf's own clients too. (See control/README.md, § Connection.)
"""

import errno
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from trioserf.address import format_host_port
from trioserf.agent.agent import Agent
from trioserf.agent.listeners import PatientListener
from trioserf.control.address import split_address, unix_path
from trioserf.control.server.access import AccessControl, Client
from trioserf.control.server.admission import LimitedLog, Limits, Place, PlaceTable, source_of
from trioserf.control.server.audit import AuditLog
from trioserf.control.server.connection import CHUNK, ServerContext, drain
from trioserf.control.server.error_mapping import capture_error
from trioserf.control.server.json_lines import JsonLines
from trioserf.control.server.json_records import WallClock, utc_now
from trioserf.control.server.msgpack_rpc import MsgpackRpc
from trioserf.control.server.peers import (
    PRIVATE,
    PeerRules,
    SocketRights,
    check_rules_apply,
)
from trioserf.control.tls import TlsFiles, split_tls
from trioserf.counters import Counters
from trioserf.defaults import TLS
from trioserf.errors import AddressError, ConfigError
from trioserf.exception_groups import unwrap_single_exception
from trioserf.net.threads import run_in_thread

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

_log = logging.getLogger("trioserf.agent.ipc")

_JSON_STARTS = b"{ \t\r\n"
_TLS_HANDSHAKE = b"\x16\x03"
_BACKLOG = 128
_KEEPALIVE = (
    (socket.SO_KEEPALIVE, socket.SOL_SOCKET, 1),
    (getattr(socket, "TCP_KEEPIDLE", None), socket.IPPROTO_TCP, 60),
    (getattr(socket, "TCP_KEEPINTVL", None), socket.IPPROTO_TCP, 15),
    (getattr(socket, "TCP_KEEPCNT", None), socket.IPPROTO_TCP, 4),
)
"""An idle connection stays open while the client's system responds; else it ends in 2 minutes."""


class Server:
    """Serves the connections to one agent; closes idle ones or refuses new ones over the limits.

    Attributes:
        addresses: where it listens.
        refused: the number of refused connections.
        tls: the certificates for new connections over TLS; may be replaced by others.
    """

    def __init__(
        self,
        context: ServerContext,
        nursery: trio.Nursery,
        tls: "ssl.SSLContext | None" = None,
    ) -> None:
        self.context = context
        self.tls = tls
        self.addresses: list[str] = []
        self.refused = 0
        self._places = PlaceTable(context.limits, needs_key=context.access.has_keys)
        self._nursery = nursery
        self._log = LimitedLog(_log)
        context.spawn = self._spawn

    @property
    def connections(self) -> int:
        """The number of connections."""
        return len(self._places)

    @property
    def unauthenticated(self) -> int:
        """The number of unauthenticated ones, if `rpc_auth` is set."""
        return self._places.unauthenticated

    def _spawn(self, run: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(run)

    async def reload(self) -> None:
        """Read the file of tokens again; if it cannot be used, log that and keep the old ones."""
        try:
            await self.context.access.reload()
        except ConfigError as error:
            _log.error("the tokens stay as they were: %s", error)

    async def handle_tls(self, stream: trio.abc.Stream) -> None:
        """Serve one connection over TLS (see `handle`)."""
        await self.handle(stream, tls=self.tls)

    async def handle(
        self,
        stream: trio.abc.Stream,
        source: str | None = None,
        tls: "ssl.SSLContext | None" = None,
    ) -> None:
        """Serve one connection from its first byte to its end; never raises.

        Args:
            stream: the connection.
            source: where it comes from; default: what `source_of` returns.
            tls: the certificates, if the connection begins with a handshake of TLS.
        """
        self.context.accepted.add()
        source = source or source_of(stream)
        client = self.context.access.identify(stream)
        try:
            with trio.CancelScope() as scope:
                place = self._places.admit(source, scope.cancel)
                if place is None:
                    self.refused += 1
                    self._log.warning("Refused a client at %s: all connections are busy", source)
                else:
                    _log.info("Accepted client: %s", client)
                    _keep_alive(stream)
                    try:
                        with capture_error("connection"):
                            await self._serve(stream, place, client, tls)
                    finally:
                        place.release()
            if scope.cancelled_caught:
                self._log.warning("Disconnected an idle client at %s for another one", source)
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve(
        self,
        transport: trio.abc.Stream,
        place: Place,
        client: Client,
        tls: "ssl.SSLContext | None",
    ) -> None:
        """Wait for the first byte, then serve the connection in its framing."""
        limits = self.context.limits
        deadline = trio.current_time() + (limits.first if client.authenticated else limits.auth)
        first = b""
        stream: trio.abc.Stream | None = transport
        with trio.move_on_at(deadline), suppress(trio.BrokenResourceError):
            if tls is not None:
                stream = await self._start_tls(transport, place, tls)
            if stream is not None:
                first = bytes(await stream.receive_some(CHUNK))
        if stream is None or not first:
            return
        if first.startswith(_TLS_HANDSHAKE) and tls is None:
            text = "A client at %s speaks TLS, but connects to an address without tls://"
            self._log.warning(text, place.source)
        kind = JsonLines if first[0] in _JSON_STARTS else MsgpackRpc
        await kind(self.context, stream, place, client).serve(first, deadline)

    async def _start_tls(
        self, transport: trio.abc.Stream, place: Place, context: "ssl.SSLContext"
    ) -> trio.abc.Stream | None:
        """Do the handshake; return None if it failed."""
        from trioserf.control.server.tls import HandshakeError, start_tls

        try:
            return await start_tls(transport, context)
        except HandshakeError as error:
            self._log.warning("No TLS with a client at %s: %s", place.source, error)
            await drain(transport, self.context.limits.linger)
            return None


def _keep_alive(stream: trio.abc.Stream) -> None:
    """Enable keepalive probes, which detect a client whose machine or network is down."""
    if isinstance(stream, trio.SocketStream) and stream.socket.family != socket.AF_UNIX:
        for name, level, value in _KEEPALIVE:
            if name is not None:
                with suppress(OSError):  # the client may have disconnected already
                    stream.socket.setsockopt(level, name, value)


@asynccontextmanager
async def open_control(
    agent: Agent,
    addresses: Sequence[str],
    *,
    auth: str = "",
    tokens: str = "",
    allow: Sequence[str] = (),
    rights: SocketRights | None = None,
    limits: Limits | None = None,
    tls: TlsFiles | None = None,
    wall: WallClock = utc_now,
    counters: Counters | None = None,
    audit: AuditLog | None = None,
) -> AsyncIterator[Server]:
    """Serve clients of an agent on `addresses` while the block runs.

    Args:
        agent: the agent that clients control. Its `shutdown` is set after a `leave`.
        addresses: `host:port`, `[v6]:port`, a bare host (port 7373), the same after `tls://`, or
            `unix:PATH`. Port 0 selects a free port; `Server.addresses` has the result.
        auth: the key that clients must send first; empty for none.
        tokens: file of tokens, of which clients must send one or the key; empty for none.
        allow: users of Unix sockets that need no key (see control/README.md, § Users of a Unix
            socket); empty for all that can open them.
        rights: mode and group of Unix sockets; None for what `allow` needs.
        limits: limits of each connection.
        tls: the certificate for addresses that begin with `tls://`.
        wall: the time of day for records.
        counters: count connections and commands for metrics.
        audit: the audit log, if there is one.

    Raises:
        AddressError: an address that is not valid, is in use or may not be used.
        ConfigError: a file of `tls` or of tokens, or a rule cannot be used, or an address needs
            `tls`.
    """
    context = ServerContext(agent, auth, wall, limits or Limits())
    rules = await _in_thread(partial(PeerRules.parse, allow)) if allow else None
    context.access = AccessControl(auth, Path(tokens) if tokens else None, rules)
    context.audit = audit
    await context.access.reload()
    if rules is not None:
        with_certificates = tls is not None and bool(tls.client_ca)
        keyed = context.access.has_keys
        check_rules_apply(addresses, has_keys=keyed, has_certificates=with_certificates)
    if counters is not None:
        context.accepted = counters.counter("agent.ipc.accept")
        context.requested = counters.counter("agent.ipc.command")
    async with AsyncExitStack() as stack:
        stack.enter_context(unwrap_single_exception())
        certificates = await load_tls(tls)
        listeners: dict[bool, list[trio.SocketListener]] = {False: [], True: []}
        bound: list[str] = []
        for address in addresses:
            is_tls, host = split_tls(address)
            if is_tls and certificates is None:
                raise ConfigError(f"control address {address}: needs rpc_tls_cert")
            if is_tls and unix_path(host) is not None:
                raise AddressError(
                    f"control address {address}: expected {TLS}host:port, or {host}"
                )
            opened = await _open(host, rules, rights or SocketRights())
            for listener in opened:
                stack.push_async_callback(trio.aclose_forcefully, listener)
            if (path := unix_path(address)) is not None:
                stack.callback(_remove_own(Path(path)))
            listeners[is_tls] += opened
            bound += [
                TLS * is_tls + _format_address(listener.socket.getsockname())
                for listener in opened
            ]
        nursery = await stack.enter_async_context(trio.open_nursery())
        server = Server(context, nursery, certificates)
        server.addresses = bound
        for handler, opened in (
            (server.handle, listeners[False]),
            (server.handle_tls, listeners[True]),
        ):
            if opened:
                patient = [PatientListener(one, _log) for one in opened]
                nursery.start_soon(trio.serve_listeners, handler, patient)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()


async def load_tls(files: TlsFiles | None) -> "ssl.SSLContext | None":
    """Read the files of certificates; None without them.

    Raises:
        ConfigError: a file cannot be used.
    """
    return None if files is None else await _in_thread(files.load)


async def _in_thread(load: Callable[[], T]) -> T:
    """Read a part of the configuration in a thread (raises ConfigError)."""
    try:
        return await run_in_thread(load)
    except BlockingIOError as error:
        raise ConfigError(f"the control port's files cannot be read: {error.strerror}") from error


def _format_address(name: Any) -> str:
    if isinstance(name, tuple):
        return format_host_port(name[0], name[1])
    return f"unix:{os.fsdecode(name)}"


async def _open(
    address: str, rules: PeerRules | None, rights: SocketRights
) -> list[trio.SocketListener]:
    if (path := unix_path(address)) is not None:
        mode, group = await _in_thread(partial(_socket_rights, rights, rules))
        return [_open_unix(Path(path), mode, group)]
    host, port = split_address(address)
    try:
        return await trio.open_tcp_listeners(port, host=host or None, backlog=_BACKLOG)
    except OSError as error:
        raise AddressError(f"control address {address}: {_reason(error)}") from error


def _socket_rights(rights: SocketRights, rules: PeerRules | None) -> tuple[int, int | None]:
    """Return mode and group of a new Unix socket; look up names (raises ConfigError)."""
    try:
        return rights.apply(rules)
    except ValueError as error:
        raise ConfigError(f"rpc_socket_mode, rpc_socket_group: {error}") from None


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "already in use; another agent may be running there (rpc_addr chooses another)"
    return error.strerror or str(error)


def _open_unix(path: Path, mode: int, group: int | None) -> trio.SocketListener:
    """Listen on a path; replace the socket of an agent that has ended."""
    where = f"control address unix:{path}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode comes from the mask, so that other users cannot connect even for a moment.
    mask = os.umask(0o177)
    try:
        _remove_stale(path)
        sock.bind(str(path))
        if group is not None:
            _set_group(path, group)
        if mode != PRIVATE:
            path.chmod(mode)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except (OSError, AddressError) as error:
        sock.close()
        reason = _reason(error) if isinstance(error, OSError) else str(error)
        raise AddressError(f"{where}: {reason}") from error
    finally:
        os.umask(mask)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _set_group(path: Path, group: int) -> None:
    """Set the group of a new socket; remove it if that fails.

    Raises:
        AddressError: the agent may not do that.
    """
    try:
        os.chown(path, -1, group, follow_symlinks=False)
    except OSError as error:
        path.unlink()
        raise AddressError(
            f"its group cannot be set to gid {group} for rpc_allow or rpc_socket_group:"
            f" {error.strerror}; expected an"
            " agent that is root or a member of this group"
        ) from error


def _remove_stale(path: Path) -> None:
    """Remove a socket without a listener; raise OSError for any other file."""
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is not a socket is there")
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # a busy agent listens there
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _remove_own(path: Path) -> Callable[[], None]:
    """Return a function that removes the socket at `path`, unless it was replaced."""
    own = path.lstat()

    def remove() -> None:
        with suppress(FileNotFoundError):
            current = path.lstat()
            if (current.st_dev, current.st_ino) == (own.st_dev, own.st_ino):
                path.unlink()

    return remove
