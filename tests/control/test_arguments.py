"""Wrong arguments of clients raise in the call that gets them, and the connection goes on."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Final

import pytest
import trio

from tests.arguments import WRONG, public_calls, wrong_calls
from tests.control.helpers import recorded_agent
from trioserf.control.client import asyncio_client, connect, trio_client
from trioserf.control.client.async_client import AsyncClient
from trioserf.control.client.json_session import JsonSession
from trioserf.control.client.rpc_session import RpcSession
from trioserf.control.client.session import AgentSession
from trioserf.control.errors import ControlError
from trioserf.control.server.listener import open_control
from trioserf.event_filter import EventFilter

KINDS: Final[dict[str, dict[str, str]]] = {
    "members": {"name": "text", "status": "text", "tags": "mapping or None"},
    "event": {"name": "text", "payload": "payload", "coalesce": "flag"},
    "query": {
        "name": "text", "payload": "payload", "nodes": "texts", "tags": "mapping or None",
        "timeout": "finite seconds or None", "ack": "flag", "relay_factor": "relay factor",
        "first": "count from 1 or None",
    },
    "stream": {"*types": "filter", "coalesce": "flag", "answers": "flag or None"},
    "monitor": {"level": "text"},
    "respond": {"id": "id", "payload": "payload"},
    "decline": {"id": "id"},
    "join": {"addresses": "texts", "replay": "flag"},
    "force_leave": {"name": "text", "prune": "flag"},
    "tags": {"set": "mapping or None", "delete": "texts"},
    "keys": {"action": "action", "key": "base64 key"},
    "coordinate": {"node": "text or None"},
    "rtt": {"node": "text", "other": "text or None"},
    "handshake": {"auth": "base64 key"},
}  # fmt: skip
"""The kind of each parameter (`WRONG`)."""
VALID: Final[dict[str, dict[str, object]]] = {
    "event": {"name": "x"},
    "query": {"name": "x"},
    "respond": {"id": 1},
    "decline": {"id": 1},
    "join": {"addresses": ["127.0.0.22"]},
    "force_leave": {"name": "x"},
    "keys": {"action": "install"},
    "rtt": {"node": "vec-a"},
}
CONNECTION: Final = {
    "address": "text", "auth": "base64 key", "timeout": "seconds above 0",
    "tls": "keyring or None",
}  # fmt: skip
NOT_LIBRARY: Final = {
    "handshake": {"auth"},  # `connect` calls it
    "stream_records": {"types", "coalesce", "answers"},  # as `stream`, for the command line
    "open_stream": {"command", "body"},  # Serf's RPC itself
    "records": {"*seqs", "timeout"},
    "connect": {"address", "auth", "timeout", "tls"},
}
REJECTED: Final = (TypeError, ControlError)
LOCAL: Final = {"bad_request", "invalid_filter"}


@pytest.mark.parametrize("client", [AsyncClient, AgentSession])
def test_table_has_every_parameter_of_every_method(client: type) -> None:
    calls = {
        name: parameters
        for name, parameters in public_calls(client).items()
        if parameters != NOT_LIBRARY.get(name)
    }
    table = {name: set(kinds) for name, kinds in KINDS.items() if name != "handshake"}
    assert calls == table
    assert {kind for kinds in KINDS.values() for kind in kinds.values()} <= set(WRONG)


def wrong(method: str) -> list[tuple[str, tuple[object, ...], dict[str, Any]]]:
    return list(wrong_calls(KINDS[method], VALID.get(method, {})))


class Checks:
    """Collects what each call with a wrong argument does."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.unclear: list[str] = []

    def record(self, call: str, error: Exception | None) -> None:
        if error is None:
            self.accepted.append(call)
        elif isinstance(error, ControlError) and error.code not in LOCAL:
            self.unclear.append(f"{call}: {error}")


def check_session(session: AgentSession) -> None:
    checks = Checks()
    for method in KINDS:
        if method == "handshake":
            continue
        for name, args, kwargs in wrong(method):
            try:
                getattr(session, method)(*args, **kwargs)
            except REJECTED as error:
                checks.record(f"{method}({name})", error)
            else:
                checks.record(f"{method}({name})", None)
    assert (checks.accepted, checks.unclear) == ([], [])
    events = session.stream("user:alive", EventFilter("query", "x"))
    session.event("alive")
    assert next(events).kind == "user"
    events.close()
    assert len(session.members()) == 2


async def check_client(client: AsyncClient) -> None:
    checks = Checks()
    for method in KINDS:
        if method == "handshake":
            continue
        for name, args, kwargs in wrong(method):
            try:
                result = getattr(client, method)(*args, **kwargs)
                if inspect.isawaitable(result):
                    await result
            except REJECTED as error:
                checks.record(f"{method}({name})", error)
            else:
                checks.record(f"{method}({name})", None)
    assert (checks.accepted, checks.unclear) == ([], [])
    async with client.stream("user:alive", EventFilter("query", "x")) as events:
        await client.event("alive")
        assert (await anext(events)).kind == "user"
    assert len(await client.members()) == 2


@pytest.mark.parametrize("kind", [JsonSession, RpcSession])
async def test_blocking_client_rejects_wrong_arguments(
    kind: type[JsonSession] | type[RpcSession],
) -> None:
    def use(address: str) -> None:
        with kind.connect(address, timeout=5) as session:
            check_session(session)

    async with open_control(recorded_agent(), ["127.0.0.1:0"]) as server:
        with trio.fail_after(30):
            await trio.to_thread.run_sync(use, server.addresses[0])


async def test_trio_client_rejects_wrong_arguments() -> None:
    async with (
        open_control(recorded_agent(), ["127.0.0.1:0"]) as server,
        trio_client.connect(server.addresses[0]) as client,
    ):
        with trio.fail_after(30):
            await check_client(client)


async def test_asyncio_client_rejects_wrong_arguments() -> None:
    async def main(address: str) -> None:
        async with asyncio_client.connect(address) as client:
            await check_client(client)

    async with open_control(recorded_agent(), ["127.0.0.1:0"]) as server:
        with trio.fail_after(30):
            await trio.to_thread.run_sync(lambda: asyncio.run(main(server.addresses[0])))


@pytest.mark.parametrize(
    "connect_call", [connect.connect_any, trio_client.connect, asyncio_client.connect]
)
async def test_connecting_rejects_wrong_arguments(connect_call: Callable[..., Any]) -> None:
    for name, args, kwargs in wrong_calls(CONNECTION, {}):
        with pytest.raises(REJECTED, match=name.partition("=")[0]) as caught:
            connect_call(*args, **kwargs)
        assert getattr(caught.value, "code", "bad_request") == "bad_request"


@pytest.mark.parametrize(("kind", "timeout"), [(JsonSession, 30.0), (RpcSession, 0.3)])
async def test_blocking_client_declines(
    kind: type[JsonSession] | type[RpcSession], timeout: float
) -> None:
    """Over JSON lines the query ends at once; Serf's RPC has no such message."""
    agent = recorded_agent()

    def use(address: str) -> list[str]:
        with kind.connect(address, timeout=5) as session:
            queries = session.stream("query:load", answers=True)
            results = session.query("load", timeout=timeout, nodes=["vec-b"], ack=False)
            query = next(queries)
            assert query.kind == "query"
            session.decline(query.id)
            return [result.kind for result in results]

    async with open_control(agent, ["127.0.0.1:0"]) as server:
        with trio.fail_after(10):
            assert await trio.to_thread.run_sync(use, server.addresses[0]) == ["done"]
