"""The blocking clients, each with a fake agent and, over Serf's RPC, with a real one."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import pytest
import trio

from tests.control.helpers import KEY, FakeAgent, needs_serf, recorded_agent, serf_agent
from trioserf.control.client import rpc_session
from trioserf.control.client.connect import AgentSession, connect_any
from trioserf.control.client.json_session import JsonSession
from trioserf.control.client.records import (
    LogEntry,
    MemberEventRecord,
    QueryEventRecord,
    UserEventRecord,
)
from trioserf.control.client.rpc_session import RpcSession
from trioserf.control.errors import ControlError
from trioserf.control.server.admission import Limits
from trioserf.control.server.listener import open_control
from trioserf.results import QueryAck, QueryAnswer, QueryDone
from trioserf.serf import events

T = TypeVar("T")
Kind = Literal["json", "msgpack"]
TIMEOUT = 60.0
NET = f"127.25.{os.getpid() % 250}"
"""The addresses of real agents, which no other test run uses."""

both_protocols = pytest.mark.parametrize("kind", ["json", "msgpack"])


def connect(kind: Kind, address: str, auth: str | None = None) -> AgentSession:
    make = JsonSession if kind == "json" else RpcSession
    return make.connect(address, auth, timeout=5)


async def run_with_agent(
    agent: FakeAgent, kind: Kind, use: Callable[[AgentSession], T], auth: str = ""
) -> T:
    """Use a session in another thread while the agent is served here."""

    def work(address: str) -> T:
        with connect(kind, address, auth or None) as session:
            return use(session)

    async with open_control(agent, ["127.0.0.1:0"], auth=auth) as server:
        with trio.fail_after(20):
            return await trio.to_thread.run_sync(partial(work, server.addresses[0]))


@both_protocols
async def test_members_are_typed_and_filtered(kind: Kind) -> None:
    def use(session: AgentSession) -> None:
        assert session.protocol == kind
        a, b = sorted(session.members(name="vec.*"))
        assert (a.name, a.addr, a.port, a.status) == ("vec-a", "127.0.0.21", 7946, "alive")
        assert a.tags == {"role": "web", "dc": "east"}
        assert (a.protocol_min, a.protocol_max, a.protocol_version) == (2, 5, 5)
        assert session.members(tags={"role": "web"}, status="alive") == [a]
        assert sorted(session.members()) == [a, b]

    await run_with_agent(recorded_agent(), kind, use)


@both_protocols
async def test_events_and_joins_return_results_or_errors(kind: Kind) -> None:
    def use(session: AgentSession) -> None:
        assert session.event("deploy", b"\xff", coalesce=True) in (1, None)
        with pytest.raises(ControlError, match="512") as caught:
            session.event("big", b"x" * 600)
        assert caught.value.code == "too_large"
        with pytest.raises(ControlError) as caught:
            session.respond(99, b"x")
        assert caught.value.code == "no_such_query"
        with pytest.raises(ControlError) as caught:
            session.join(["x:1", "y:2"])
        assert caught.value.code == "join_failed"
        why = "connection refused"
        assert caught.value.causes == (("x:1", why), ("y:2", why))
        assert session.join(["127.0.0.22", "z"]) == 1

    await run_with_agent(recorded_agent(), kind, use)


@pytest.mark.parametrize(
    "text",
    [
        "Failed to join 10.0.0.9: dial tcp 10.0.0.9:7946: connect: connection refused",
        "failed to join 10.0.0.9:7946: dial tcp 10.0.0.9:7946: connect: connection refused",
    ],
)
def test_causes_of_a_failed_join_are_found_in_old_and_new_texts(text: str) -> None:
    error = rpc_session._error_of(f"1 error occurred:\n\t* {text}\n\n", {"Num": 0})
    ((address, reason),) = error.causes
    assert address.removesuffix(":7946") == "10.0.0.9"
    assert reason == "connection refused"


@both_protocols
async def test_query_yields_records_and_may_be_closed_early(kind: Kind) -> None:
    def use(session: AgentSession) -> None:
        records = list(session.query("load", b"?", timeout=1))
        assert records[:-1] == [
            QueryAck("vec-a"),
            QueryAnswer("vec-a", b"0.42\n"),
            QueryAck("vec-b"),
        ]
        done = records[-1]
        assert isinstance(done, QueryDone)
        assert (done.acks, done.responses) == (2, 1)
        assert done.expected in (2, None)
        for record in session.query("load", timeout=1):
            assert record == QueryAck("vec-a")
            break
        assert session.event("x") in (1, 2, 3, None)
        assert isinstance(list(session.query("load", ack=False, first=1))[-1], QueryDone)

    await run_with_agent(recorded_agent(), kind, use)


@both_protocols
async def test_stream_records_arrive_beside_requests(kind: Kind) -> None:
    agent = recorded_agent()

    def use(session: AgentSession) -> None:
        records = session.stream_records(["user", "member-join"])
        for number in range(5):
            session.event("deploy", b"v%d" % number)
        trio.from_thread.run_sync(
            agent.node.publish, events.MemberEvent("member-join", agent.node.members())
        )
        seen = [next(records) for _ in range(6)]
        assert [record.get("payload") for record in seen[:5]] == ["v0", "v1", "v2", "v3", "v4"]
        assert seen[0]["ltime"] == 1
        assert seen[0]["coalesce"] is False
        assert seen[5]["event"] == "member-join"
        assert {member["name"] for member in seen[5]["members"]} == {"vec-a", "vec-b"}
        records.close()
        assert session.members()

    await run_with_agent(agent, kind, use)


@both_protocols
async def test_stream_yields_typed_events(kind: Kind) -> None:
    agent = recorded_agent()

    def use(session: AgentSession) -> None:
        stream = session.stream("user", "member-failed", "query", answers=False)
        session.event("deploy", b"\xff", coalesce=True)
        user = next(stream)
        assert isinstance(user, UserEventRecord)
        assert (user.kind, user.ltime, user.name) == ("user", 1, "deploy")
        assert (user.payload, user.coalesce) == (b"\xff", True)
        failed = events.MemberEvent("member-failed", agent.node.members()[:1])
        trio.from_thread.run_sync(agent.node.publish, failed)
        member = next(stream)
        assert isinstance(member, MemberEventRecord)
        assert (member.kind, member.members) == ("member-failed", (session.members("vec-a")[0],))
        agent.node.responses = {}
        list(session.query("load", b"?", timeout=0.1))
        query = next(stream)
        assert isinstance(query, QueryEventRecord)
        assert (query.kind, query.name, query.payload) == ("query", "load", b"?")
        # Serf's RPC reports neither.
        assert bool(query.source) == bool(query.deadline) == (kind == "json")

    await run_with_agent(agent, kind, use)


@both_protocols
async def test_monitor_yields_log_entries(kind: Kind) -> None:
    agent = recorded_agent()
    agent.logs.write("WARN", "serf", "first: words")

    def use(session: AgentSession) -> None:
        lines = session.monitor("info")
        line = next(lines)
        assert isinstance(line, LogEntry)
        assert (line.level, line.source, line.message) == ("WARN", "serf", "first: words")
        assert line.text.endswith(" [WARN] serf: first: words")
        trio.from_thread.run_sync(agent.logs.write, "ERR", "agent", "late")
        late = next(lines)
        assert isinstance(late, LogEntry)
        assert late.message == "late"

    await run_with_agent(agent, kind, use)


@both_protocols
async def test_other_commands_return_typed_results(kind: Kind) -> None:
    agent = recorded_agent()

    def use(session: AgentSession) -> None:
        assert session.tags({"a": "b"}, ["dc"]) in ({"role": "web", "a": "b"}, None)
        assert session.info()["tags"] == {"role": "web", "a": "b"}
        assert session.info()["agent"]["name"] == "vec-a"
        assert session.coordinate("vec-b") == session.coordinate()
        assert 0 < session.rtt("vec-b") < 1e-3
        with pytest.raises(ControlError) as caught:
            session.coordinate("no-such-node")
        assert caught.value.code == "no_such_member"
        with pytest.raises(ControlError, match="2/2 nodes") as caught:
            session.keys("list")
        assert caught.value.code == "key_failed"
        assert set(caught.value.details["messages"]) == {"vec-a", "vec-b"}
        agent.node.installed_keys = [KEY]
        assert session.keys("list").keys == {KEY: 2}
        session.force_leave("vec-b")
        assert session.members(status="left")
        session.leave()

    await run_with_agent(agent, kind, use)
    assert agent.shutdown.is_set()


@both_protocols
async def test_wrong_or_missing_rpc_auth_is_an_error(kind: Kind) -> None:
    limits = Limits(wrong_key=0.01)
    await run_with_agent(recorded_agent(), kind, lambda session: session.members(), auth="sesame")
    for wrong, code in (("simsalabim", "auth_failed"), (None, "auth_required")):

        def use(address: str, wrong: str | None = wrong) -> None:
            with connect(kind, address, wrong) as session:
                session.members()

        async with open_control(
            recorded_agent(), ["127.0.0.1:0"], auth="sesame", limits=limits
        ) as server:
            with pytest.raises(ControlError) as caught:
                await trio.to_thread.run_sync(use, server.addresses[0])
            assert caught.value.code == code


async def test_connect_any_uses_json_with_trioserf(tmp_path: Path) -> None:
    def use(address: str) -> str:
        with connect_any(address) as session:
            return session.protocol

    path = f"unix:{tmp_path}/control"
    async with open_control(recorded_agent(), ["127.0.0.1:0", path]) as server:
        for address in server.addresses:
            assert await trio.to_thread.run_sync(use, address) == "json"


def test_missing_agent_is_unreachable(tmp_path: Path) -> None:
    for address in ("127.15.255.1:9", f"unix:{tmp_path}/none", "127.0.0.1:x"):
        with pytest.raises(ControlError) as caught:
            connect_any(address)
        assert caught.value.code == "unreachable"
        assert address.removeprefix("unix:") in str(caught.value)


@contextmanager
def serve_once_each(*replies: bytes) -> Iterator[str]:
    """Run a server that sends each connection one of these replies and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)

        def serve() -> None:
            for reply in replies:
                connection, _ = listener.accept()
                connection.settimeout(TIMEOUT)
                with connection:
                    connection.recv(1000)
                    connection.sendall(reply)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1000):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_server_of_another_protocol_is_an_error() -> None:
    page = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with serve_once_each(page, page) as address, pytest.raises(ControlError) as caught:
        connect_any(address)
    assert caught.value.code == "protocol"


def test_silent_agent_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ControlError) as caught:
            JsonSession.connect(address, timeout=0.05)
        assert caught.value.code == "timeout"


def test_blocking_client_imports_no_heavy_module() -> None:
    code = (
        "import sys; import trioserf.control.client.json_session, trioserf.control.client.connect;"
        "print([m for m in ('trio','attrs','attr','cattrs','cryptography','msgpack','asyncio',"
        "'re2','ssl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"


class TestRealAgent:
    pytestmark = needs_serf

    def test_every_command_works_with_serf(self, tmp_path: Path) -> None:
        handler = "-event-handler=query:load=echo 0.42"
        with (
            serf_agent(f"{NET}.1", "a", tmp_path, handler, "-tag=role=web") as address,
            serf_agent(f"{NET}.2", "b", tmp_path),
            connect_any(address) as session,
            connect_any(address) as watcher,
            connect_any(address) as listener,
        ):
            assert session.protocol == "msgpack"
            events = watcher.stream_records(["member-join", "user"])
            log = listener.monitor("debug")
            line = next(log)
            assert isinstance(line, LogEntry)
            assert line.source == "agent"
            assert session.join([f"{NET}.2"]) == 1
            joined: set[str] = set()
            while "b" not in joined:
                joined |= {member["name"] for member in next(events)["members"]}
            (a,) = session.members(tags={"role": "web"})
            assert (a.name, a.addr, a.protocol_version) == ("a", f"{NET}.1", 5)
            session.event("deploy", b"v1")
            assert next(events)["payload"] == "v1"
            records = list(session.query("load", timeout=1.5))
            assert QueryAnswer("a", b"0.42\n") in records
            assert {QueryAck("a"), QueryAck("b")} <= set(records)
            assert records[-1] == QueryDone(2, 1)
            done = list(session.query("load", first=1))[-1]
            assert isinstance(done, QueryDone)
            assert done.responses == 1
            session.tags({"x": "y"}, ["role"])
            assert session.info()["tags"] == {"x": "y"}
            assert session.rtt("b") > 0
            with pytest.raises(ControlError) as caught:
                session.keys("list")
            assert caught.value.code == "key_failed"
            assert set(caught.value.details["messages"]) == {"a", "b"}
            with pytest.raises(ControlError) as caught:
                session.join([f"{NET}.9"])
            assert caught.value.causes[0][0] == f"{NET}.9"
            with pytest.raises(ControlError) as caught:
                session.event("big", b"x" * 1000)
            assert caught.value.code == "too_large"
            with pytest.raises(ControlError) as caught:
                watcher.members(name="([")
            assert caught.value.code == "disconnected"
            session.leave()

    def test_rpc_auth_is_required_by_serf(self, tmp_path: Path) -> None:
        config = tmp_path / "auth.json"
        config.write_text('{"rpc_auth": "sesame"}')
        with serf_agent(f"{NET}.3", "c", tmp_path, f"-config-file={config}") as address:
            with connect_any(address, "sesame") as session:
                assert [member.name for member in session.members()] == ["c"]
            with pytest.raises(ControlError) as caught:
                connect_any(address, "simsalabim")
            assert caught.value.code == "auth_failed"
            with connect_any(address) as session, pytest.raises(ControlError) as caught:
                session.members()
            assert caught.value.code == "auth_required"
