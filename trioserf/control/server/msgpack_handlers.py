"""The commands of Serf's RPC: bodies of requests and replies, over the command table."""

import binascii
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from trioserf.agent.agent import Agent
from trioserf.control.errors import ControlError
from trioserf.control.server import commands
from trioserf.control.server import msgpack_fields as fields
from trioserf.control.server import params as checks
from trioserf.control.server.go_errors import go_base64_error, go_join_error
from trioserf.control.server.msgpack_fields import Body, Reader, member_fields, pack
from trioserf.coordinate import Coordinate
from trioserf.errors import (
    AlreadyAnswered,
    InvalidFilter,
    JoinFailed,
    NoSuchMember,
    NoSuchQuery,
)
from trioserf.results import QueryAck, QueryAnswer, QueryDone, QueryResult
from trioserf.serf.events import Event, MemberEvent, UserEventReceived
from trioserf.serf.internal_queries import KeyAction

BODIES: Mapping[str, Mapping[str, Reader]] = {
    "handshake": {"Version": fields.number(-(2**31), 2**31 - 1)},
    "auth": {"AuthKey": fields.text},
    "event": {"Name": fields.text, "Payload": fields.blob, "Coalesce": fields.truth},
    "force-leave": {"Node": fields.text, "Prune": fields.truth},
    "join": {"Existing": fields.texts, "Replay": fields.truth},
    "members-filtered": {"Tags": fields.mapping, "Status": fields.text, "Name": fields.text},
    "stream": {"Type": fields.text},
    "monitor": {"LogLevel": fields.text},
    "stop": {"Stop": fields.U64},
    "install-key": {"Key": fields.text},
    "use-key": {"Key": fields.text},
    "remove-key": {"Key": fields.text},
    "tags": {"Tags": fields.mapping, "DeleteTags": fields.texts},
    "query": {
        "FilterNodes": fields.texts,
        "FilterTags": fields.mapping,
        "RequestAck": fields.truth,
        "RelayFactor": fields.number(0, 255),
        "Timeout": fields.number(-(2**63), 2**63 - 1),
        "Name": fields.text,
        "Payload": fields.blob,
    },
    "respond": {"ID": fields.U64, "Payload": fields.blob},
    "get-coordinate": {"Node": fields.text},
}
"""Fields of the requests' bodies."""

PROMPT = frozenset(("event", "stats", "get-coordinate"))
"""Commands that wait for no member: their replies may be sent together with others."""

BODILESS = frozenset(("members", "leave", "list-keys", "stats"))
"""Commands without a body."""


async def event(agent: Agent, body: Body) -> bytes:
    """Send a user event."""
    await commands.event(agent, body["Name"], body["Payload"], body["Coalesce"])
    return b""


async def force_leave(agent: Agent, body: Body) -> bytes:
    """Declare a member as left; as in Serf, an unknown member is not an error."""
    with suppress(NoSuchMember):
        await commands.force_leave(agent, body["Node"], body["Prune"])
    return b""


async def join(agent: Agent, body: Body) -> bytes:
    """Join; as in Serf, no addresses are not an error."""
    if not body["Existing"]:
        return pack({"Num": 0})
    return pack({"Num": await commands.join(agent, body["Existing"], body["Replay"])})


async def tags(agent: Agent, body: Body) -> bytes:
    """Change the agent's tags."""
    await commands.tags(agent, body["Tags"], body["DeleteTags"])
    return b""


async def stats(agent: Agent, body: Body) -> bytes:
    """Return the groups of `serf info`, all values as text."""
    del body
    groups = await commands.info(agent)
    return pack(
        {
            group: {name: fields.go_text(value) for name, value in sorted(entries.items())}
            for group, entries in sorted(groups.items())
        }
    )


async def get_coordinate(agent: Agent, body: Body) -> bytes:
    """Return a member's coordinate; zeros and no vector if it is unknown."""
    coordinate = agent.node.coordinate(body["Node"]) if body["Node"] else None
    return pack(_coordinate_body(coordinate))


def _coordinate_body(coordinate: Coordinate | None) -> Body:
    found = {
        "Adjustment": coordinate.adjustment if coordinate else 0.0,
        "Error": coordinate.error if coordinate else 0.0,
        "Height": coordinate.height if coordinate else 0.0,
        "Vec": list(coordinate.vec) if coordinate else None,
    }
    return {"Coord": found, "Ok": coordinate is not None}


def key_bytes(text: str) -> bytes:
    """Decode a key in base64; the members check its size.

    Raises:
        ControlError: it is not base64.
    """
    error = go_base64_error(text)
    if error is not None:
        raise checks.bad_request(error)
    return binascii.a2b_base64(text)


def _keys(action: KeyAction) -> Callable[[Agent, Body], Awaitable[bytes]]:
    async def run(agent: Agent, body: Body) -> bytes:
        key = None if action == "list" else key_bytes(body["Key"])
        result = commands.show_keys(await commands.keys(agent, action, key))
        return _key_body(action, result)

    return run


def _key_body(action: KeyAction, result: Mapping[str, Any]) -> bytes:
    return pack(
        {
            "Keys": dict(sorted(result["keys"].items())) if action == "list" else None,
            "Messages": dict(sorted(result["messages"].items())),
            "NumErr": result["errors"],
            "NumNodes": result["nodes"],
            "NumResp": result["responses"],
        }
    )


_KEY_ACTIONS: Mapping[str, KeyAction] = {
    "install-key": "install",
    "use-key": "use",
    "remove-key": "remove",
    "list-keys": "list",
}
_NO_RESPONSES = {"keys": {}, "messages": {}, "errors": 0, "nodes": 0, "responses": 0}

_FORBIDDEN_BODIES: Mapping[str, Body] = {
    "members": {"Members": []},
    "members-filtered": {"Members": []},
    "stats": {},
    "get-coordinate": _coordinate_body(None),
}

HANDLERS: Mapping[str, Callable[[Agent, Body], Awaitable[bytes]]] = {
    "event": event,
    "force-leave": force_leave,
    "join": join,
    "tags": tags,
    "stats": stats,
    "get-coordinate": get_coordinate,
    **{command: _keys(action) for command, action in _KEY_ACTIONS.items()},
}
"""Handlers that take a body and return the encoded body of the reply (empty: it has none)."""


_JSON_NAMES: Mapping[str, str] = {
    "members-filtered": "members",
    "stats": "info",
    "get-coordinate": "coordinate",
    **dict.fromkeys(_KEY_ACTIONS, "keys"),
}
"""Names of JSON commands that differ."""
_DECLARED: Mapping[str, commands.Command | commands.Stream] = {
    **commands.COMMANDS,
    **commands.STREAMS,
}
COMMANDS_OF: Mapping[str, commands.Command | commands.Stream] = {
    name: _DECLARED[_JSON_NAMES.get(name, name)]
    for name in (*BODIES, *BODILESS)
    if name not in commands.CONNECTION_PARAMS
}
"""The JSON command with the scope of each command; `handshake`, `auth` and `stop` need none."""

_PARAMETERS: Mapping[str, str] = {
    "Node": "name",
    "Existing": "addresses",
    "Tags": "set",
    "DeleteTags": "delete",
    "FilterNodes": "nodes",
    "FilterTags": "tags",
}
"""Fields of bodies whose parameter in JSON has another name than the field in lower case."""


def json_name(command: str) -> str:
    """Return the name of a command in JSON."""
    return _JSON_NAMES.get(command, command)


def json_values(command: str, body: Body) -> dict[str, Any]:
    """Return the fields of a body as parameters of the JSON command."""
    values = {_PARAMETERS.get(name, name.lower()): value for name, value in body.items()}
    return {**values, "action": _KEY_ACTIONS[command]} if command in _KEY_ACTIONS else values


def error_text(error: Exception | None, control_error: ControlError) -> str:
    """Return the text of an error that Serf's clients know."""
    match error:
        case JoinFailed(causes=causes):
            count = len(causes)
            lines = "".join(
                f"\t* {go_join_error(address, reason)}\n" for address, reason in causes
            )
            return f"{count} error{'s' if count > 1 else ''} occurred:\n{lines}\n"
        case AlreadyAnswered():
            return f"failed to respond to key query: {error}"  # Serf's words, for every query
        case NoSuchQuery():
            return "No pending queries matching ID"
        case InvalidFilter():
            return "Invalid event filter"
    return control_error.message


def body_beside_error(command: str, control_error: ControlError) -> bytes:
    """Return the body that follows the error of some commands.

    Go's client waits for the body of every reply that may have one, unless the key is missing.
    """
    if command == "join":
        return pack({"Num": 0})
    if control_error.code == "forbidden" and command in _FORBIDDEN_BODIES:
        return pack(_FORBIDDEN_BODIES[command])
    action = _KEY_ACTIONS.get(command)
    if action is None:
        return b""
    return _key_body(
        action, control_error.details if "keys" in control_error.details else _NO_RESPONSES
    )


def event_record(event: Event) -> Body:
    """Convert an event to Serf's fields."""
    if isinstance(event, MemberEvent):
        return {"Event": event.kind, "Members": list(map(member_fields, event.members))}
    if isinstance(event, UserEventReceived):
        return {
            "Coalesce": event.coalesce,
            "Event": event.kind,
            "LTime": event.ltime,
            "Name": event.name,
            "Payload": event.payload or None,
        }
    return {
        "Event": event.kind,
        "ID": event.id,
        "LTime": event.ltime,
        "Name": event.name,
        "Payload": event.payload or None,
    }


def query_record(item: QueryResult) -> Body:
    """Convert a record of a query to Serf's fields."""
    match item:
        case QueryAck(source=source):
            return {"From": source, "Payload": None, "Type": "ack"}
        case QueryAnswer(source=source, payload=payload):
            return {"From": source, "Payload": payload or None, "Type": "response"}
        case QueryDone():
            return {"From": "", "Payload": None, "Type": "done"}
