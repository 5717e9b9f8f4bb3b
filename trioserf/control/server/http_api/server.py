"""The server of HTTP: connections, and what each request is checked for."""

import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.datastructures import Headers

from trioserf.agent.agent import Agent
from trioserf.agent.listeners import PatientListener
from trioserf.control.errors import ControlError
from trioserf.control.server.admission import LimitedLog, Limits, PlaceTable, source_of
from trioserf.control.server.error_mapping import capture_error
from trioserf.control.server.http_api.app import HttpApi, error_response, method_error
from trioserf.control.server.http_api.binding import HttpFiles, HttpSockets
from trioserf.control.server.http_api.connection import (
    IDLE,
    MAX_HEAD,
    HttpConnection,
    LimitedStream,
)
from trioserf.control.server.http_api.event_log import EventLog
from trioserf.control.server.json_records import WallClock, utc_now
from trioserf.control.server.params import bad_request
from trioserf.exception_groups import unwrap_single_exception

_log = logging.getLogger("trioserf.agent.http")

MAX_CONNECTIONS: Final = 64
"""Connections at a time; a further one closes the one that has been idle longest."""
MAX_PER_HOST: Final = 32
"""How many of them may come from one other host."""
_LIMITS: Final = Limits(
    connections=MAX_CONNECTIONS, kept_for_unix=0, loopback=MAX_CONNECTIONS, source=MAX_PER_HOST
)
_WITHOUT_TOKEN: Final = ("/-/healthy", "/-/ready")
"""Paths that need no token."""


class HttpServer:
    """Serves the connections to one agent.

    Args:
        agent: the agent.
        sockets: where it listens.
        wall: the time of day in UTC.

    Attributes:
        addresses: where it listens.
        events: the recent events.
        api: the functions of the paths.
    """

    def __init__(self, agent: Agent, sockets: HttpSockets, wall: WallClock) -> None:
        self.addresses = sockets.addresses
        self.events = EventLog(agent.node, wall)
        self._files = sockets.files
        self.api = HttpApi(agent, self.events)
        self._app = self.api.router()
        self._places = PlaceTable(_LIMITS, needs_key=False)
        self._limited_log = LimitedLog(_log)
        self._context = WorkerContext(None)
        self._config = _hypercorn_config()

    def make_room(self) -> bool:
        """End an idle connection; return False if there is none."""
        return self._places.make_room()

    def replace(self, files: HttpFiles) -> None:
        """Use other files for new connections, and for further requests."""
        self._files = files

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection from its first byte to its end; never raises."""
        source = source_of(stream)
        try:
            with trio.CancelScope() as scope:
                place = self._places.admit(source, scope.cancel)
                if place is None:
                    self._limited_log.warning("Refused a client of HTTP at %s: too many", source)
                    return
                try:
                    with capture_error("connection of HTTP"):
                        await self._serve(stream, HttpConnection(scope, place))
                finally:
                    place.release()
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.SocketStream, connection: HttpConnection) -> None:
        limited = LimitedStream(stream)
        transport: Any = limited
        if self._files.tls is not None:
            transport = trio.SSLStream(
                limited, self._files.tls, server_side=True, https_compatible=True
            )
        state = ConnectionState({"connection": connection})
        server = TCPServer(ASGIWrapper(self), self._config, self._context, state, transport)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_abort_when_cancelled, limited)
                await server.run()
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as group:
            _log.debug("a connection of HTTP broke: %s", group.exceptions[0])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request; an ASGI application."""
        connection: HttpConnection = scope["state"]["connection"]
        if scope["type"] != "http" or not scope["http_version"].startswith("1."):
            # Neither WebSockets nor HTTP/2, whose streams would need limits of their own.
            connection.close()
            return
        files = self._files
        scope["state"]["has_token"] = bool(files.token)
        has_begun = False

        async def send_on(message: Any) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        with connection.request():
            with capture_error(f"GET {scope['path']}") as caught:
                self._check(scope, files)
                await self._app(scope, receive, send_on)
            if caught.control_error is not None:
                if has_begun:
                    connection.close()
                else:
                    await error_response(caught.control_error)(scope, receive, send)

    def _check(self, scope: Any, files: HttpFiles) -> None:
        """Check what all requests must fulfil.

        Raises:
            ControlError: what it does not.
        """
        headers = Headers(scope=scope)
        own = scope["server"][0]
        for host in headers.getlist("host"):
            if not files.names.accepts_host(host, own):
                raise ControlError(
                    "forbidden",
                    f"Host: {host!r} is not a name of this server; http_hosts adds one",
                )
        for origin in headers.getlist("origin"):
            if not files.names.accepts_origin(origin, own):
                raise ControlError(
                    "forbidden",
                    f"Origin: {origin!r} is not a name of this server; http_hosts adds one",
                )
        if scope["method"] not in ("GET", "HEAD"):
            raise method_error()
        if files.token and scope["path"] not in _WITHOUT_TOKEN:
            self._check_token(headers.getlist("authorization"), files.token, scope)
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            raise bad_request("expected a request without a body")

    def _check_token(self, sent: list[str], token: bytes, scope: Any) -> None:
        if len(sent) != 1:
            raise ControlError("auth_required", "expected the header Authorization: Bearer TOKEN")
        scheme, _, value = sent[0].partition(" ")
        found = value.strip().encode("latin-1")
        if scheme.lower() != "bearer" or not hmac.compare_digest(found, token):
            client = (scope["client"] or ("unknown",))[0]
            self._limited_log.warning("Rejected a token of HTTP from %s", client)
            raise ControlError("auth_failed", "the token is not the one in http_token_file")


def _hypercorn_config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = _log
    config.include_server_header = False
    config.keep_alive_timeout = IDLE
    config.ssl_handshake_timeout = IDLE
    config.h11_max_incomplete_size = MAX_HEAD
    # Bodies are refused; what has arrived until then waits here, and must not block the reader.
    config.max_app_queue_size = 1 << 20
    return config


async def _abort_when_cancelled(stream: LimitedStream) -> None:
    """Close the socket when the connection is cancelled, for a task that is shielded."""
    try:
        await trio.sleep_forever()
    finally:
        stream.abort()


@asynccontextmanager
async def open_server(
    agent: Agent, sockets: HttpSockets, *, wall: WallClock = utc_now
) -> AsyncIterator[HttpServer]:
    """Serve HTTP on these sockets while the block runs."""
    server = HttpServer(agent, sockets, wall)
    with unwrap_single_exception():
        async with trio.open_nursery() as nursery:
            await nursery.start(server.events.run)
            patient = [PatientListener(one, _log, server.make_room) for one in sockets.listeners]
            nursery.start_soon(trio.serve_listeners, server.handle, patient)
            try:
                yield server
            finally:
                nursery.cancel_scope.cancel()
