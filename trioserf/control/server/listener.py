"""The server of the control socket; the first byte of a connection selects its framing.

`{`, white space and letters begin JSON lines, any other byte msgpack, whose maps never begin with
these. No JSON object begins with a letter, but an HTTP request does, and gets an error in HTTP.
One port therefore serves Serf's own clients too. (See control/README.md, § Connection.)
"""

import logging
import string
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from trioserf.agent.agent import Agent
from trioserf.agent.listeners import PatientListener
from trioserf.control.server.access import Client
from trioserf.control.server.admission import LimitedLog, Limits, Place, PlaceTable, source_of
from trioserf.control.server.audit import AuditLog
from trioserf.control.server.binding import ControlSockets, bind_control
from trioserf.control.server.connection import CHUNK, Connection, ServerContext, drain
from trioserf.control.server.error_mapping import capture_error
from trioserf.control.server.json_lines import JsonLines
from trioserf.control.server.json_records import WallClock, utc_now
from trioserf.control.server.peers import SocketRights
from trioserf.control.tls import TlsFiles
from trioserf.counters import Counters
from trioserf.errors import ConfigError
from trioserf.exception_groups import unwrap_single_exception
from trioserf.operating_system.sockets import KEEPALIVE, is_unix

if TYPE_CHECKING:
    import ssl

_log = logging.getLogger("trioserf.agent.ipc")

_JSON_STARTS = b"{ \t\r\n" + string.ascii_letters.encode()
_TLS_HANDSHAKE = b"\x16\x03"


def _msgpack_rpc() -> type[Connection]:
    """Return the other framing, which many agents never need; its import takes 3 ms."""
    from trioserf.control.server.msgpack_rpc import MsgpackRpc

    return MsgpackRpc


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

    def make_room(self) -> bool:
        """End a connection that asks nothing; return False if there is none (see `PlaceTable`)."""
        return self._places.make_room()

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
        kind = JsonLines if first[0] in _JSON_STARTS else _msgpack_rpc()
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
    if isinstance(stream, trio.SocketStream) and not is_unix(stream.socket.family):
        for level, option, value in KEEPALIVE:
            with suppress(OSError):  # the client may have disconnected already
                stream.socket.setsockopt(level, option, value)


@asynccontextmanager
async def serve_control(
    agent: Agent,
    sockets: ControlSockets,
    *,
    limits: Limits | None = None,
    wall: WallClock = utc_now,
    counters: Counters | None = None,
    audit: AuditLog | None = None,
) -> AsyncIterator[Server]:
    """Serve clients of an agent on these sockets while the block runs.

    Args:
        agent: the agent that clients control. Its `shutdown` is set after a `leave`.
        sockets: the sockets, closed at the end of the block.
        limits: limits of each connection.
        wall: the time of day for records.
        counters: count connections and commands for metrics.
        audit: the audit log, if there is one.
    """
    context = ServerContext(
        agent, wall=wall, limits=limits or Limits(), access=sockets.access, audit=audit
    )
    if counters is not None:
        context.accepted = counters.counter("agent.ipc.accept")
        context.requested = counters.counter("agent.ipc.command")
    with unwrap_single_exception():
        async with trio.open_nursery() as nursery:
            server = Server(context, nursery, sockets.certificates)
            server.addresses = sockets.addresses
            for handler, listeners in (
                (server.handle, sockets.plain),
                (server.handle_tls, sockets.encrypted),
            ):
                if listeners:
                    patient = [PatientListener(one, _log, server.make_room) for one in listeners]
                    nursery.start_soon(trio.serve_listeners, handler, patient)
            try:
                yield server
            finally:
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_control(
    agent: Agent,
    addresses: Sequence[str],
    *,
    auth: str = "",
    tokens: str = "",
    allow: Sequence[str] = (),
    rights: SocketRights | None = None,
    tls: TlsFiles | None = None,
    limits: Limits | None = None,
    wall: WallClock = utc_now,
    counters: Counters | None = None,
    audit: AuditLog | None = None,
) -> AsyncIterator[Server]:
    """Bind `addresses`, and serve clients of an agent there, while the block runs.

    For the arguments and errors see `bind_control` and `serve_control`.
    """
    async with (
        bind_control(
            addresses, auth=auth, tokens=tokens, allow=allow, rights=rights, tls=tls
        ) as sockets,
        serve_control(
            agent, sockets, limits=limits, wall=wall, counters=counters, audit=audit
        ) as server,
    ):
        yield server
