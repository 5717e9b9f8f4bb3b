"""HTTP: health, metrics, members and events of an agent, read-only (control/README.md, § HTTP).

Hypercorn speaks HTTP and Starlette selects the function of a path. Both are imported only if an
address is configured.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from trioserf.agent.http_options import HTTP_EXTRA, HttpOptions
from trioserf.agent.optional_dependencies import require_extra

if TYPE_CHECKING:
    from trioserf.agent.agent import Agent
    from trioserf.control.server.http_api.binding import HttpSockets
    from trioserf.control.server.http_api.server import HttpServer


@asynccontextmanager
async def bind_http(options: HttpOptions) -> AsyncIterator["HttpSockets | None"]:
    """Listen on the addresses, if any, while the block runs; `serve_http` serves the clients.

    Raises:
        AddressError: an address is in use or may not be used.
        ConfigError: an address is not valid, or a file or a package is missing or unusable.
    """
    if not options.addresses:
        yield None
        return
    with require_extra(options.key, HTTP_EXTRA):
        from trioserf.control.server.http_api import server  # noqa: F401
    from trioserf.control.server.http_api.binding import open_sockets

    async with open_sockets(options) as sockets:
        yield sockets


@asynccontextmanager
async def serve_http(
    agent: "Agent", sockets: "HttpSockets | None"
) -> AsyncIterator["HttpServer | None"]:
    """Serve HTTP on these sockets, if there are any, while the block runs."""
    if sockets is None:
        yield None
        return
    from trioserf.control.server.http_api.server import open_server

    async with open_server(agent, sockets) as server:
        yield server
