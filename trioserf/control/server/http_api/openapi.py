"""The OpenAPI document of the paths, for `/openapi.json`."""

from collections.abc import Mapping
from typing import Any, Final, get_args

from trioserf._version import __version__
from trioserf.results import MemberStatus

_Object = dict[str, Any]

_TEXT: Final[_Object] = {"type": "string"}
_WHOLE: Final[_Object] = {"type": "integer", "minimum": 0}
_TEXTS_BY_NAME: Final[_Object] = {"type": "object", "additionalProperties": _TEXT}


def _object(optional: Mapping[str, Any] | None = None, **fields: Any) -> _Object:
    return {
        "type": "object",
        "required": list(fields),
        "properties": fields | dict(optional or {}),
    }


def _list(item: _Object) -> _Object:
    return {"type": "array", "items": item}


def _ref(name: str) -> _Object:
    return {"$ref": f"#/components/schemas/{name}"}


_SCHEMAS: Final[_Object] = {
    "Error": _object(error=_object(code=_TEXT, message=_TEXT)),
    "Member": _object(
        name=_TEXT,
        addr=_TEXT,
        port={"type": "integer", "minimum": 0, "maximum": 65_535},
        tags=_TEXTS_BY_NAME,
        status={"type": "string", "enum": list(get_args(MemberStatus))},
        protocol=_object(min=_WHOLE, max=_WHOLE, version=_WHOLE),
        release=_TEXT,
    ),
    "Members": _object(members=_list(_ref("Member"))),
    "Info": _object(
        agent={"type": "object"},
        runtime={"type": "object"},
        serf={"type": "object"},
        tags=_TEXTS_BY_NAME,
        event_handlers=_TEXTS_BY_NAME,
    ),
    "Event": _object(
        {
            "time": {"type": "string", "format": "date-time"},
            "members": _list(_ref("Member")),
            "cause": {"type": "object"},
            "name": _TEXT,
            "ltime": _WHOLE,
            "id": _WHOLE,
            "payload": _TEXT,
            "payload_base64": _TEXT,
            "coalesce": {"type": "boolean"},
            "from": _TEXT,
            "deadline": {"type": "string", "format": "date-time"},
            "count": _WHOLE,
        },
        event=_TEXT,
    ),
    "Targets": _list(_object(targets=_list(_TEXT), labels=_TEXTS_BY_NAME)),
}


def _parameter(
    name: str, text: str, *, schema: _Object = _TEXT, where: str = "query", required: bool = False
) -> _Object:
    return {
        "name": name,
        "in": where,
        "description": text,
        "required": required,
        "schema": schema,
    }


_FILTERS: Final = (
    _parameter("name", "Regular expression of RE2 that the whole name must match."),
    _parameter("status", "Regular expression that the whole status must match."),
    _parameter(
        "tag",
        "NAME=REGEX: the whole value of this tag must match; once for each tag.",
        schema=_list({"type": "string", "pattern": "^[^=]+=.*$"}),
    ),
)


def _operation(
    name: str,
    summary: str,
    content: str,
    schema: _Object,
    *parameters: _Object,
    errors: tuple[int, ...] = (400,),
    is_open: bool = False,
) -> _Object:
    responses: _Object = {
        "200": {"description": "As requested.", "content": {content: {"schema": schema}}}
    }
    for status in (*errors, 403, 405, *(() if is_open else (401,))):
        responses[str(status)] = {
            "description": _REASONS[status],
            "content": {"application/json": {"schema": _ref("Error")}},
        }
    return {
        "operationId": name,
        "summary": summary,
        "parameters": list(parameters),
        "responses": responses,
        **({"security": []} if is_open else {}),
    }


_REASONS: Final = {
    400: "A parameter is not valid.",
    401: "The token is missing or wrong.",
    403: "Host or Origin is not a name of this server.",
    405: "Only GET and HEAD are served.",
    503: "Not now; the message has the reason.",
}
_PLAIN: Final = "text/plain"
_JSON: Final = "application/json"
_OPERATIONS: Final = {
    "/-/healthy": _operation(
        "healthy", "Whether the agent works.", _PLAIN, _TEXT, errors=(400, 503), is_open=True
    ),
    "/-/ready": _operation(
        "ready",
        "Whether the agent has joined one of the addresses that it is configured to join.",
        _PLAIN,
        _TEXT,
        errors=(400, 503),
        is_open=True,
    ),
    "/metrics": _operation("metrics", "Metrics for Prometheus.", _PLAIN, _TEXT, errors=()),
    "/v1/members": _operation("members", "The members.", _JSON, _ref("Members"), *_FILTERS),
    "/v1/info": _operation("info", "The groups of `serf info`.", _JSON, _ref("Info")),
    "/v1/events": _operation(
        "events",
        "Events as they happen, as server-sent events; the data of each is an `Event` in JSON."
        " The event `dropped` stands for events that are not kept any more.",
        "text/event-stream",
        _TEXT,
        _parameter(
            "type",
            "member-join, user, user:NAME, query and so on; several, or commas. Default: all of"
            " Serf's kinds.",
            schema=_list(_TEXT),
        ),
        _parameter("Last-Event-ID", "Continue after this event.", where="header"),
        errors=(400, 503),
    ),
    "/v1/sd": _operation(
        "targets",
        "Targets for http_sd_configs of Prometheus: members with a port in a tag.",
        _JSON,
        _ref("Targets"),
        _parameter("port_tag", "The tag with the port.", required=True),
        *_FILTERS,
    ),
    "/openapi.json": _operation("openapi", "This document.", _JSON, {"type": "object"}),
}


def document(*, has_token: bool) -> _Object:
    """Return the document.

    Args:
        has_token: whether requests need the token.
    """
    components: _Object = {"schemas": _SCHEMAS}
    if has_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "trioserf",
            "version": __version__,
            "description": "Read-only access to one agent of a Serf cluster.",
        },
        "paths": {path: {"get": operation} for path, operation in _OPERATIONS.items()},
        "components": components,
        **({"security": [{"token": []}]} if has_token else {}),
    }
