"""The paths of HTTP and their functions, for Starlette's router.

Records, filters and errors are those of the control socket: a path that has a command there reads
the parameters of that command and calls it.
"""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from trioserf.agent.agent import Agent
from trioserf.control.errors import ControlError
from trioserf.control.server import params
from trioserf.control.server.commands import COMMANDS, event_filters
from trioserf.control.server.http_api import openapi
from trioserf.control.server.http_api.connection import HttpConnection
from trioserf.control.server.http_api.discovery import targets
from trioserf.control.server.http_api.event_log import EventLog
from trioserf.control.server.json_lines import encode
from trioserf.control.server.member_filter import MemberFilter
from trioserf.control.server.params import Param, Params, bad_request
from trioserf.event_filter import EventFilter

_STATUSES: Final = {
    "auth_required": 401,
    "auth_failed": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "not_ready": 503,
    "unhealthy": 503,
    "too_many_streams": 503,
    "leaving": 503,
    "timeout": 503,
    "internal": 500,
}
"""The status of each code; that of all others is 400."""
MAX_STREAMS: Final = 32
"""Streams of events at a time."""
HEARTBEAT: Final = 15.0
"""Seconds after which a stream without events gets a comment."""
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_JSON: Final = "application/json"
_METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"

_TAGS: Final = Param("tag", params.mapping, {}, target="tags")
_MEMBERS: Final = Params(Param("name", params.text, ""), Param("status", params.text, ""), _TAGS)
_EVENTS: Final = Params(Param("type", params.texts, ()))
_SD: Final = Params(
    Param("port_tag", params.text),
    Param("name", params.text, ""),
    Param("status", params.text, "alive"),
    _TAGS,
)


def error_response(error: ControlError) -> Response:
    """Return the response to a request that failed: the error as the control socket has it."""
    status = _STATUSES.get(error.code, 400)
    headers = dict(_HEADERS)
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = "GET, HEAD"
    body = encode({"error": {"code": error.code, "message": error.message}}) + b"\n"
    return Response(body, status, headers, _JSON)


def _json(value: Any) -> Response:
    return Response(encode(value) + b"\n", headers=_HEADERS, media_type=_JSON)


def _text(text: str) -> Response:
    return Response(text, headers=_HEADERS, media_type="text/plain")


def _values(request: Request, declared: Params) -> dict[str, Any]:
    """Return the parameters of a query string.

    Raises:
        ControlError: `bad_request`, with the name of the wrong parameter.
    """
    found: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name == "tag" and name in declared.names:
            tag, equals, expression = value.partition("=")
            tags = found.setdefault(name, {})
            if not (tag and equals) or tag in tags:
                raise bad_request("tag: expected NAME=REGEX, once for each name")
            tags[tag] = expression
        elif name == "type":
            found.setdefault(name, []).append(value)
        elif name in found:
            raise bad_request(f"{name}: expected once")
        else:
            found[name] = value
    return declared.read(found)


class HttpApi:
    """The functions of the paths.

    Args:
        agent: the agent.
        events: its recent events.

    Attributes:
        streams: the number of open streams of events.
    """

    def __init__(self, agent: Agent, events: EventLog) -> None:
        self._agent = agent
        self._events = events
        self.streams = 0

    def router(self) -> Router:
        """Return the application; it raises the errors of its functions."""
        paths: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
            "/-/healthy": self._healthy,
            "/-/ready": self._ready,
            "/": self._metrics,
            "/metrics": self._metrics,
            "/v1/members": self._members,
            "/v1/info": self._info,
            "/v1/events": self._stream,
            "/v1/sd": self._discover,
            "/openapi.json": self._openapi,
        }
        routes = [Route(path, function) for path, function in paths.items()]
        return Router(routes, redirect_slashes=False, default=_not_found)

    async def _healthy(self, request: Request) -> Response:
        _values(request, Params())
        if reason := await self._agent.health.why_unhealthy():
            raise ControlError("unhealthy", reason)
        return _text("healthy\n")

    async def _ready(self, request: Request) -> Response:
        _values(request, Params())
        if reason := self._agent.health.why_not_ready():
            raise ControlError("not_ready", reason)
        return _text("ready\n")

    async def _metrics(self, request: Request) -> Response:
        del request  # Prometheus may send parameters
        assert self._agent.page is not None
        return Response(self._agent.page.text(), headers={**_HEADERS, "Content-Type": _METRICS})

    async def _members(self, request: Request) -> Response:
        command = COMMANDS["members"]
        values = _values(request, _MEMBERS)
        return _json(command.show(await command.run(self._agent, **values)))

    async def _info(self, request: Request) -> Response:
        command = COMMANDS["info"]
        values = _values(request, command.params)
        return _json(command.show(await command.run(self._agent, **values)))

    async def _discover(self, request: Request) -> Response:
        values = _values(request, _SD)
        port_tag = values.pop("port_tag")
        chosen = MemberFilter.of(**values).select(self._agent.node.members())
        return _json(targets(chosen, port_tag))

    async def _openapi(self, request: Request) -> Response:
        _values(request, Params())
        return _json(openapi.document(has_token=request.state.has_token))

    async def _stream(self, request: Request) -> Response:
        filters = event_filters(_values(request, _EVENTS)["type"])
        position = self._events.next
        if after := request.headers.get("last-event-id"):
            position = self._events.start_after(after)
        if self.streams >= MAX_STREAMS:
            raise ControlError("too_many_streams", f"{MAX_STREAMS} streams are open already")
        return _EventResponse(self, request.state.connection, position, filters)

    async def send_events(
        self,
        send: Callable[[bytes], Awaitable[None]],
        position: int,
        filters: list[EventFilter],
    ) -> None:
        """Send events from a position on until cancelled, and comments in between."""
        self.streams += 1
        try:
            while True:
                messages = b": \n\n"
                with trio.move_on_after(HEARTBEAT):
                    position, messages = await self._events.read(position, filters)
                if messages:
                    await send(messages)
        finally:
            self.streams -= 1


class _EventResponse(Response):
    """A response that lasts until its client disconnects."""

    def __init__(
        self,
        api: HttpApi,
        connection: HttpConnection,
        position: int,
        filters: list[EventFilter],
    ) -> None:
        super().__init__(headers=_HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self._api = api
        self._connection = connection
        self._position = position
        self._filters = filters

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] != "HEAD":
            # The comment shows the client at once that it is connected.
            await send({"type": "http.response.body", "body": b": \n\n", "more_body": True})

            async def send_part(data: bytes) -> None:
                await send({"type": "http.response.body", "body": data, "more_body": True})

            with self._connection.streaming():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        self._api.send_events, send_part, self._position, self._filters
                    )
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b""})


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    del scope, receive, send
    raise ControlError("not_found", "no such path; /openapi.json lists all paths")


def method_error() -> ControlError:
    """Return the error of any method but GET and HEAD."""
    return ControlError("method_not_allowed", "only GET and HEAD are served")
