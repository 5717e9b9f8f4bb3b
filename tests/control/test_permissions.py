"""Scopes: every command requires one, and a client without it is refused, in both framings."""

from typing import Any

import pytest
import trio
import trio.testing

from tests.control.helpers import KEY, FixedAccess, recorded_agent, serving
from trioserf.control.server.commands import COMMANDS, CONNECTION_PARAMS, STREAMS
from trioserf.control.server.msgpack_handlers import BODIES, BODILESS, COMMANDS_OF
from trioserf.control.server.permissions import ALL, NONE, SCOPES, Permissions, Requirement

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "members": ("read", {}),
    "info": ("read", {}),
    "health": ("read", {}),
    "coordinate": ("read", {}),
    "rtt": ("read", {"node": "vec-b"}),
    "stream": ("read", {}),
    "monitor": ("read", {}),
    "event": ("event:deploy", {"name": "deploy"}),
    "query": ("query:load", {"name": "load"}),
    "respond": ("respond", {"id": 1}),
    "decline": ("respond", {"id": 1}),
    "tags": ("tags", {"set": {"a": "b"}}),
    "join": ("members", {"addresses": ["127.0.0.22"]}),
    "force-leave": ("members:vec-b", {"name": "vec-b"}),
    "leave": ("members", {}),
    "keys": ("keys", {"action": "list"}),
}
"""A request of each JSON command, and the scope that its refusal names."""
BODIES_OF_REQUESTS: dict[str, tuple[str, dict[str, Any] | None, bool]] = {
    "members": ("read", None, True),
    "members-filtered": ("read", {"Name": "x"}, True),
    "stats": ("read", None, True),
    "get-coordinate": ("read", {"Node": "vec-a"}, True),
    "stream": ("read", {"Type": "*"}, False),
    "monitor": ("read", {"LogLevel": "INFO"}, False),
    "event": ("event:deploy", {"Name": "deploy", "Payload": b""}, False),
    "query": ("query:load", {"Name": "load"}, False),
    "respond": ("respond", {"ID": 1, "Payload": b""}, False),
    "tags": ("tags", {"Tags": {"a": "b"}}, False),
    "join": ("members", {"Existing": ["127.0.0.22"]}, True),
    "force-leave": ("members:vec-b", {"Node": "vec-b"}, False),
    "leave": ("members", None, False),
    "install-key": ("keys", {"Key": KEY}, True),
    "use-key": ("keys", {"Key": KEY}, True),
    "remove-key": ("keys", {"Key": KEY}, True),
    "list-keys": ("keys", None, True),
}
"""The same of each RPC command, and whether a body follows the error."""


def others(scope: str) -> list[str]:
    return [one for one in SCOPES if one != scope.partition(":")[0]]


# --- declarations ---


def test_every_command_declares_one_known_scope() -> None:
    declared = [command.scope for command in COMMANDS.values()]
    declared += [stream.scope for stream in STREAMS.values()]
    assert set(declared) == set(SCOPES)
    assert set(COMMANDS_OF) | set(CONNECTION_PARAMS) == {*BODIES, *BODILESS}
    assert REQUESTS.keys() == COMMANDS.keys() | STREAMS.keys()
    assert BODIES_OF_REQUESTS.keys() == COMMANDS_OF.keys()


def test_rpc_commands_require_the_scope_of_their_json_command() -> None:
    scopes = {name: command.scope for name, command in COMMANDS_OF.items()}
    assert scopes == {
        name: scope.partition(":")[0] for name, (scope, _, _) in BODIES_OF_REQUESTS.items()
    }


# --- rules ---


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("reed", "unknown scope 'reed'; expected one of read, event,"),
        ("", "unknown scope ''"),
        ("read:x", "the scope read takes no pattern; expected read, not 'read:x'"),
        ("keys:*", "the scope keys takes no pattern"),
        ("tags:role", "the scope tags takes no pattern"),
        ("event:", "'event:' has no pattern; expected event, or event:PATTERN for a event"),
    ],
)
def test_invalid_scope_is_rejected_with_what_was_expected(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=r"scope|pattern") as caught:
        Permissions.parse([text])
    assert str(caught.value).startswith(error)


def test_empty_list_of_scopes_is_rejected() -> None:
    with pytest.raises(ValueError, match="no scope; expected some of read"):
        Permissions.parse([])


@pytest.mark.parametrize(
    ("scopes", "required", "allowed"),
    [
        ("event", "event deploy", True),
        ("event:deploy-*", "event deploy-web", True),
        ("event:deploy-*", "event Deploy-web", False),
        ("event:deploy-*", "event deploy", False),
        ("event:a event:b", "event b", True),
        ("event:[ab]?", "event a\n", True),
        ("event:deploy", "query deploy", False),
        ("members:web-*", "members web-1", True),
        ("members:web-*", "members db-1", False),
        ("members:*", "members", False),
        ("members", "members", True),
        ("read", "read", True),
        ("read", "keys", False),
    ],
)
def test_patterns_restrict_scopes_to_names(scopes: str, required: str, allowed: bool) -> None:
    scope, space, name = required.partition(" ")
    permissions = Permissions.parse(scopes.split())
    assert permissions.allow(Requirement(scope, name if space else None)) is allowed


def test_all_scopes_allow_everything_and_none_nothing() -> None:
    for scope in SCOPES:
        assert ALL.allow(Requirement(scope))
        assert not NONE.allow(Requirement(scope, "x"))
    assert str(NONE) == "none"
    assert str(Permissions.parse(["read", "query:*", "read"])) == "read, query:*"


# --- JSON lines ---


@pytest.mark.parametrize("command", REQUESTS)
async def test_json_command_without_its_scope_is_forbidden(command: str) -> None:
    scope, parameters = REQUESTS[command]
    agent = recorded_agent()
    async with serving(agent=agent, access=FixedAccess(*others(scope))) as served:
        client = served.connect()
        reply = await client.ask(command=command, **parameters)
        held = ", ".join(others(scope))
        assert reply["error"] == {
            "code": "forbidden",
            "message": f"this client lacks the scope {scope}; it has: {held}",
        }
        assert not agent.node.queries
        assert not agent.node.left
        for free in ({"command": "handshake"}, {"command": "stop", "stop": 1}):
            assert (await client.ask(**free))["ok"]


async def test_json_event_is_allowed_by_pattern_of_its_name() -> None:
    async with serving(access=FixedAccess("event:deploy-*", "query:*")) as served:
        client = served.connect()
        assert (await client.ask(command="event", name="deploy-web"))["ok"]
        refused = await client.ask(command="event", name="restart")
        assert refused["error"]["message"] == (
            "this client lacks the scope event:restart; it has: event:deploy-*, query:*"
        )
        assert (await client.ask(command="query", name="load"))["ok"]


async def test_force_leave_by_pattern_excludes_join_and_leave() -> None:
    async with serving(agent=recorded_agent(), access=FixedAccess("members:vec-*")) as served:
        client = served.connect()
        assert (await client.ask(command="force-leave", name="vec-b"))["ok"]
        for request in ({"command": "join", "addresses": ["x"]}, {"command": "leave"}):
            reply = await client.ask(**request)
            assert reply["error"]["message"].startswith("this client lacks the scope members;")


async def test_response_is_allowed_by_pattern_of_its_query() -> None:
    access = FixedAccess("read", "query", "respond:load")
    async with serving(access=access) as served:
        client = served.connect()
        await client.ask(command="stream", seq="s", types=["query"])
        for name, allowed in (("load", True), ("uptime", False)):
            await client.send({"command": "query", "seq": name, "name": name, "timeout": 9})
            found: dict[str, Any] = {}
            while found.get("event") != "query":
                found = await client.receive()
            await client.send({"command": "respond", "seq": "r", "id": found["id"]})
            while found.get("seq") != "r":
                found = await client.receive()
            assert found["ok"] is allowed
        assert found["error"]["message"].startswith("this client lacks the scope respond:uptime;")
        unknown = await client.ask(command="decline", seq="d", id=99)
        assert unknown["error"]["code"] == "no_such_query"


async def test_no_query_waits_for_client_that_may_not_respond(autojump_clock: object) -> None:
    async with serving(access=FixedAccess("read", "query")) as served:
        client = served.connect()
        declared = await client.ask(command="stream", answers=True, types=["query"])
        assert declared["error"]["message"].startswith("this client lacks the scope respond;")
        assert (await client.ask(command="stream", seq=1, types=["query"]))["ok"]
        rpc = await served.rpc()
        assert (await rpc.ask("stream", body={"Type": "query"}))["Error"] == ""
        began = trio.current_time()
        asking = served.connect()
        await asking.send({"command": "query", "name": "load", "timeout": 100})
        while (await asking.receive()).get("type") != "done":
            pass
        assert trio.current_time() - began < 1


async def test_long_name_is_cut_in_refusal() -> None:
    async with serving(access=FixedAccess("read")) as served:
        reply = await served.connect().ask(command="event", name="x" * 5000)
        assert len(reply["error"]["message"]) < 250


# --- RPC ---


@pytest.mark.parametrize("command", BODIES_OF_REQUESTS)
async def test_rpc_command_without_its_scope_is_forbidden(command: str) -> None:
    scope, body, has_body = BODIES_OF_REQUESTS[command]
    agent = recorded_agent()
    async with serving(agent=agent, access=FixedAccess(*others(scope))) as served:
        client = await served.rpc()
        reply = await client.ask(command, 7, body)
        held = ", ".join(others(scope))
        text = f"this client lacks the scope {scope}; it has: {held}"
        assert reply == {"Error": text, "Seq": 7}
        if has_body:
            assert "Error" not in await client.receive()
        assert await client.ask("stop", 8, {"Stop": 1}) == {"Error": "", "Seq": 8}
        assert not agent.node.queries
        assert not agent.node.left


async def test_rpc_event_is_allowed_by_pattern_of_its_name() -> None:
    async with serving(access=FixedAccess("event:deploy-*")) as served:
        client = await served.rpc()
        assert (await client.ask("event", body={"Name": "deploy-web"}))["Error"] == ""
        refused = (await client.ask("event", body={"Name": "restart"}))["Error"]
        assert refused == "this client lacks the scope event:restart; it has: event:deploy-*"
