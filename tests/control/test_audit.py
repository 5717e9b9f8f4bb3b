"""The audit log: a line for each change and each refusal, and a disk that is slow or full."""

import json
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.control.helpers import (
    EPOCH,
    KEY,
    FixedAccess,
    JsonClient,
    RpcClient,
    ServerUnderTest,
    recorded_agent,
    serving,
    wall,
    write_tokens,
)
from trioserf.control.server import audit
from trioserf.control.server.access import AccessControl
from trioserf.control.server.admission import Limits
from trioserf.control.server.audit import AuditLog, append, describe, open_audit
from trioserf.control.server.commands import COMMANDS, STREAMS
from trioserf.control.server.peers import PeerRules
from trioserf.counters import Counters
from trioserf.errors import ConfigError
from trioserf.operating_system.sockets import Peer, PeerSocket

assert sys.platform != "win32"

SECRET = "payload-s3cret"


class Disk:
    """A file whose writes can fail or hang.

    Attributes:
        data: what was written.
        room: bytes that it still takes.
        hangs: whether a write never ends.
    """

    def __init__(self) -> None:
        self.data = b""
        self.room = 10**9
        self.hangs = False
        self.writes = 0

    async def write(self, data: bytes) -> tuple[bytes, OSError | None]:
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        self.writes += 1
        taken = data[: self.room]
        self.data += taken
        self.room -= len(taken)
        rest = data[len(taken) :]
        return rest, OSError(28, "No space left on device") if rest else None

    @property
    def lines(self) -> list[dict[str, Any]]:
        assert self.data.endswith(b"\n") or not self.data
        return [json.loads(line) for line in self.data.splitlines()]


@asynccontextmanager
async def audited(disk: Disk, counters: Counters | None = None) -> AsyncIterator[AuditLog]:
    async with open_audit("audit.log", wall=wall, counters=counters, write=disk.write) as log:
        assert log is not None
        yield log


def record(log: AuditLog, number: int) -> None:
    log.record("token:ci", "127.0.0.1:9", "event", {"name": str(number)}, "ok")


def numbers(disk: Disk) -> list[int]:
    return [int(line["name"]) for line in disk.lines]


# --- lines ---


async def test_line_has_time_client_command_and_outcome(autojump_clock: object) -> None:
    disk = Disk()
    async with audited(disk) as log:
        log.record("token:ci", "127.0.0.1:9", "event", {"name": "\udcff\n"}, "too_large")
    assert disk.lines == [
        {
            "time": EPOCH.strftime("%Y-%m-%dT%H:%M:%S.123Z"),
            "who": "token:ci",
            "from": "127.0.0.1:9",
            "command": "event",
            "name": "\udcff\n",
            "outcome": "too_large",
        }
    ]


def test_parameters_are_described_by_names_and_sizes() -> None:
    values = {
        "name": "x" * 1000,
        "payload": SECRET.encode(),
        "key": KEY.encode(),
        "set": {"role": SECRET},
        "tags": {"zone": SECRET},
        "addresses": [str(number) for number in range(100)],
        "by": object(),
    }
    found = describe(values)
    assert found["payload_bytes"] == len(SECRET)
    assert (found["set"], found["tags"]) == (["role"], ["zone"])
    assert len(found["name"]) == 257
    assert found["addresses"][-2:] == ["63", "… 36 more"]
    assert found.keys() == {"name", "payload_bytes", "set", "tags", "addresses"}
    assert SECRET not in str(found)


def test_every_parameter_of_a_change_is_shown_or_left_out_on_purpose() -> None:
    changing = [command for command in COMMANDS.values() if command.scope != "read"]
    names = {name for command in changing for name in command.params.names}
    names |= {*STREAMS["query"].params.names}
    left_out = {"key", "payload_base64", "timeout", "ack", "relay_factor", "first"}
    assert names - audit._SHOWN.keys() == left_out


# --- the queue and the disk ---


async def test_full_disk_loses_and_tears_no_line(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trioserf")
    disk = Disk()
    disk.room = 150
    async with audited(disk) as log:
        for number in range(5):
            record(log, number)
        await trio.sleep(10)
        assert len(disk.data) == 150
        for number in range(5, 10):
            record(log, number)
        disk.room = 10**9
        await trio.sleep(2)
        assert numbers(disk) == list(range(10))
    messages = [message for message in caplog.messages if "audit_log" in message]
    assert messages == [
        "audit_log audit.log: cannot be written: No space left on device; lines wait",
        "audit_log audit.log: is written again",
    ]


async def test_lines_over_the_limit_are_counted_and_logged(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    disk, counters = Disk(), Counters()
    async with audited(disk, counters) as log:
        for number in range(audit.MAX_LINES + 30):
            record(log, number)
        assert counters.counter("trioserf.dropped.audit").total == 30
        await trio.sleep(1)
        record(log, 7)
    lines = disk.lines
    assert len(lines) == audit.MAX_LINES + 2
    lost, last = lines[-2:]
    assert (lost["command"], lost["outcome"], lost["count"]) == ("audit", "dropped", 30)
    assert last["name"] == "7"
    assert sum("further ones are lost" in message for message in caplog.messages) == 1


async def test_last_lines_are_written_at_the_end(autojump_clock: object) -> None:
    disk = Disk()
    async with audited(disk) as log:
        record(log, 1)
        log.refuse("127.0.0.1", "auth", "auth_failed")
    assert [line["command"] for line in disk.lines] == ["event", "auth"]


@pytest.mark.parametrize("hangs", [True, False])
async def test_disk_that_hangs_or_is_full_does_not_stop_the_end(
    hangs: bool, autojump_clock: object
) -> None:
    disk = Disk()
    began = trio.current_time()
    async with audited(disk) as log:
        disk.hangs, disk.room = hangs, 0
        record(log, 1)
    assert trio.current_time() - began <= audit.FLUSH_TIMEOUT


async def test_cancelled_agent_still_writes_the_last_lines(autojump_clock: object) -> None:
    disk = Disk()
    with trio.CancelScope() as scope:
        async with audited(disk) as log:
            record(log, 1)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert numbers(disk) == [1]


# --- refusals ---


async def test_equal_refusals_of_a_source_are_one_line_a_second(autojump_clock: object) -> None:
    disk = Disk()
    async with audited(disk) as log:
        for _ in range(3):
            for _ in range(50):
                log.refuse("10.0.0.1", "auth", "auth_failed")
            log.refuse("10.0.0.2", "auth", "auth_failed")
            await trio.sleep(0.3)
        await trio.sleep(1)
        log.refuse("10.0.0.1", "auth", "auth_failed")
        await trio.sleep(2)
        found = [(line["from"], line["outcome"], line["count"]) for line in disk.lines]
    assert found == [
        ("10.0.0.1", "auth_failed", 150),
        ("10.0.0.2", "auth_failed", 3),
        ("10.0.0.1", "auth_failed", 1),
    ]


async def test_sources_of_refusals_are_bounded(autojump_clock: object) -> None:
    disk = Disk()
    async with audited(disk) as log:
        for number in range(audit.MAX_SOURCES + 40):
            log.refuse(str(number), "auth", "auth_failed")
    assert len(disk.lines) == audit.MAX_SOURCES + 1
    assert (disk.lines[-1]["from"], disk.lines[-1]["count"]) == ("others", 40)


# --- clients ---


@asynccontextmanager
async def serving_audited(
    disk: Disk, access: AccessControl | None = None
) -> AsyncIterator[ServerUnderTest]:
    async with (
        audited(disk) as log,
        serving(
            limits=Limits(wrong_key=0.01), agent=recorded_agent(), access=access, audit=log
        ) as served,
    ):
        yield served


def without_time(disk: Disk) -> list[dict[str, Any]]:
    lines = disk.lines
    for line in lines:
        del line["time"]
        if "who" in line:
            assert (line.pop("who"), line.pop("from")) == ("fixed", "")
    return lines


async def test_json_changes_are_written_with_their_outcome(autojump_clock: object) -> None:
    disk = Disk()
    scopes = "read", "event", "query", "respond", "tags", "members", "keys"
    async with serving_audited(disk, FixedAccess(*scopes)) as served:
        client = served.connect()

        async def ask(**request: Any) -> None:
            await client.ask(**request)

        for reading in ("members", "info", "handshake", "coordinate"):
            await ask(command=reading)
        await ask(command="event", name="deploy", payload=SECRET)
        await ask(command="event", name="deploy", payload="x" * 600)
        await ask(command="event", payload="no name")
        await ask(command="tags", set={"role": SECRET}, delete=["dc"])
        await ask(command="join", addresses=["127.0.0.22", "[::1]:1"], replay=True)
        await ask(command="join", addresses=["127.0.0.99"])
        await ask(command="force-leave", name="vec-b", prune=True)
        await ask(command="force-leave", name="vec-b")
        await ask(command="keys", action="install", key=KEY)
        await ask(command="respond", id=99, payload=SECRET)
        await client.send({"command": "query", "seq": "q", "name": "load", "payload": SECRET,
                           "tags": {"role": SECRET}, "nodes": ["vec-a"]})  # fmt: skip
        while (await client.receive()).get("type") != "done":
            pass
        await ask(command="query", name="_serf_x")
        await ask(command="leave")
    event = {"command": "event", "name": "deploy", "coalesce": False}
    join = {"command": "join", "addresses": ["127.0.0.22", "[::1]:1"], "replay": True}
    forced = {"command": "force-leave", "name": "vec-b"}
    assert without_time(disk) == [
        {**event, "payload_bytes": len(SECRET), "outcome": "ok"},
        {**event, "payload_bytes": 600, "outcome": "too_large"},
        {"command": "tags", "set": ["role"], "delete": ["dc"], "outcome": "ok"},
        {**join, "outcome": "ok"},
        {**join, "addresses": ["127.0.0.99"], "replay": False, "outcome": "join_failed"},
        {**forced, "prune": True, "outcome": "ok"},
        {**forced, "prune": False, "outcome": "no_such_member"},
        {"command": "keys", "action": "install", "outcome": "key_failed"},
        {"command": "respond", "id": 99, "payload_bytes": len(SECRET), "outcome": "no_such_query"},
        {"command": "query", "name": "load", "payload_bytes": len(SECRET), "tags": ["role"],
         "nodes": ["vec-a"], "outcome": "ok"},
        {"command": "query", "name": "_serf_x", "payload_bytes": 0, "tags": [], "nodes": [],
         "outcome": "bad_request"},
        {"command": "leave", "outcome": "ok"},
    ]  # fmt: skip
    for secret in (SECRET, KEY):
        assert secret.encode() not in disk.data


async def test_rpc_changes_are_written_as_those_of_json(autojump_clock: object) -> None:
    disk = Disk()
    scopes = "read", "event", "query", "respond", "tags", "members", "keys"
    async with serving_audited(disk, FixedAccess(*scopes)) as served:
        client = await served.rpc()
        await client.ask("members")
        await client.receive()
        await client.ask("event", body={"Name": "deploy", "Payload": SECRET.encode()})
        await client.ask("tags", body={"Tags": {"role": SECRET}, "DeleteTags": ["dc"]})
        await client.ask("join", body={"Existing": ["127.0.0.99"]})
        await client.receive()
        await client.ask("force-leave", body={"Node": "vec-b"})
        for command in ("install-key", "list-keys"):
            await client.ask(command, body={"Key": KEY} if command == "install-key" else None)
            await client.receive()
        await client.ask("query", 9, {"Name": "load", "FilterTags": {"role": SECRET}})
        while (await client.receive()).get("Type") != "done":
            pass
        await client.ask("respond", body={"ID": 99, "Payload": SECRET.encode()})
        await client.ask("leave")
    event = {"name": "deploy", "payload_bytes": len(SECRET), "coalesce": False}
    query = {"name": "load", "payload_bytes": 0, "tags": ["role"], "nodes": []}
    assert without_time(disk) == [
        {"command": "event", **event, "outcome": "ok"},
        {"command": "tags", "set": ["role"], "delete": ["dc"], "outcome": "ok"},
        {"command": "join", "addresses": ["127.0.0.99"], "replay": False,
         "outcome": "join_failed"},
        {"command": "force-leave", "name": "vec-b", "prune": False, "outcome": "ok"},
        {"command": "keys", "action": "install", "outcome": "key_failed"},
        {"command": "keys", "action": "list", "outcome": "key_failed"},
        {"command": "query", **query, "outcome": "ok"},
        {"command": "respond", "id": 99, "payload_bytes": len(SECRET), "outcome": "no_such_query"},
        {"command": "leave", "outcome": "ok"},
    ]  # fmt: skip
    for secret in (SECRET, KEY):
        assert secret.encode() not in disk.data


async def test_response_is_written_with_the_name_of_its_query(autojump_clock: object) -> None:
    disk = Disk()
    async with serving_audited(disk, FixedAccess("read", "query", "respond")) as served:
        client = served.connect()
        await client.ask(command="stream", seq="s", types=["query"])
        for command in ("respond", "decline"):
            await client.send({"command": "query", "name": "load", "seq": command})
            found: dict[str, Any] = {}
            while found.get("event") != "query":
                found = await client.receive()
            await client.send({"command": command, "seq": "r", "id": found["id"]})
            while found.get("seq") != "r":
                found = await client.receive()
            assert found["ok"]
    names = [(line["command"], line.get("query")) for line in disk.lines]
    assert names == [("query", None), ("respond", "load"), ("query", None), ("decline", "load")]


async def test_refused_scopes_are_written_for_both_framings(autojump_clock: object) -> None:
    disk = Disk()
    async with serving_audited(disk, FixedAccess("tags")) as served:
        client = served.connect()
        await client.ask(command="members")
        await client.ask(command="event", name="deploy", payload=SECRET)
        await client.ask(command="stream", answers=True)
        rpc = await served.rpc()
        await rpc.ask("use-key", body={"Key": KEY})
    assert without_time(disk) == [
        {"command": "members", "name": "", "tags": [], "outcome": "forbidden"},
        {"command": "event", "name": "deploy", "payload_bytes": len(SECRET), "coalesce": False,
         "outcome": "forbidden"},
        {"command": "stream", "coalesce": False, "outcome": "forbidden"},
        {"command": "keys", "action": "use", "outcome": "forbidden"},
    ]  # fmt: skip
    assert SECRET.encode() not in disk.data


async def test_clients_are_known_by_token_key_or_address(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    sent = write_tokens(path, ci="event", ops="tags")
    control = AccessControl("sesame", path)
    await control.reload()
    disk = Disk()
    async with serving_audited(disk, control) as served:
        client = served.connect()
        for key in (sent["ci"], "sesame", sent["ops"]):
            assert (await client.ask(command="auth", key=key))["ok"]
            await client.ask(command="event", name="deploy")
    who = [(line["who"], line["outcome"]) for line in disk.lines]
    assert who == [("token:ci", "ok"), ("rpc_auth", "ok"), ("token:ops", "forbidden")]
    for secret in (*sent.values(), "sesame"):
        assert secret.encode() not in disk.data


async def test_wrong_keys_are_counted_for_both_framings(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    write_tokens(path, ci="event")
    control = AccessControl("sesame", path)
    await control.reload()
    disk = Disk()
    async with serving_audited(disk, control) as served:
        client, rpc = served.connect(), RpcClient(served.pipe())
        await rpc.handshake()
        for key in ("", "ci.wrong", "x"):
            await client.ask(command="auth", key=key)
            await rpc.ask("auth", body={"AuthKey": key})
        await client.ask(command="members")
    lines = without_time(disk)  # several, because the replies are delayed
    assert sum(line.pop("count") for line in lines) == 6
    for line in lines:
        assert line == {"from": "", "command": "auth", "outcome": "auth_failed"}


async def test_users_that_are_not_allowed_are_counted() -> None:
    def fake_peer(sock: PeerSocket) -> Peer:
        return Peer(9, frozenset())

    control = AccessControl(rules=PeerRules.parse(["uid:5"]), peer_of=fake_peer)
    disk = Disk()
    async with serving_audited(disk, control) as served:
        ours, theirs = map(trio.SocketStream, trio.socket.socketpair(socket.AF_UNIX))
        async with ours:
            served.nursery.start_soon(served.server.handle, theirs)
            client = JsonClient(trio.StapledStream(ours, ours))
            for command in ("members", "x" * 10_000, "auth"):
                await client.ask(command=command, key="x")
    (line,) = without_time(disk)
    assert line == {"from": "uid:9", "command": "connect", "outcome": "forbidden", "count": 3}


async def test_command_of_a_client_that_disconnects_is_written(autojump_clock: object) -> None:
    disk = Disk()
    async with serving_audited(disk, FixedAccess("members")) as served:
        served.agent.node.delay = 1e6
        client = served.connect()
        await client.send({"command": "join", "addresses": ["127.0.0.22"]})
        await trio.testing.wait_all_tasks_blocked()
    assert disk.lines[0]["outcome"] == "cancelled"


async def test_client_without_key_is_known_by_its_address() -> None:
    disk = Disk()
    async with serving_audited(disk) as served, trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, served.server.handle, 0)
        stream = await trio.testing.open_stream_to_socket_listener(listeners[0])
        async with stream:
            client = JsonClient(trio.StapledStream(stream, stream))
            await client.ask(command="event", name="deploy")
            host, port = stream.socket.getsockname()[:2]
        nursery.cancel_scope.cancel()
    (line,) = disk.lines
    assert line["who"] == line["from"]
    assert line["from"].endswith(f":{port}")
    assert host in line["from"]


# --- the file ---


def test_file_is_made_private_and_again_after_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    assert append(str(path), b"one\n") == (b"", None)
    assert append(str(path), b"two\n") == (b"", None)
    path.rename(tmp_path / "audit.log.1")
    assert append(str(path), b"three\n") == (b"", None)
    assert (tmp_path / "audit.log.1").read_bytes() == b"one\ntwo\n"
    assert path.read_bytes() == b"three\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_error_returns_the_data_that_was_not_written(tmp_path: Path) -> None:
    for path in ("/dev/full", str(tmp_path / "missing" / "audit.log")):
        rest, error = append(path, b"line\n")
        assert rest == b"line\n"
        assert isinstance(error, OSError)


def test_stderr_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    assert append("-", b"line\n") == (b"", None)
    assert capfd.readouterr().err == "line\n"


async def test_file_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"audit_log .*/missing/x: cannot be written: No such"):
        async with open_audit(f"{tmp_path}/missing/x"):
            pass


async def test_lines_reach_the_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    async with open_audit(str(path)) as log:
        assert log is not None
        record(log, 1)
    assert json.loads(read(path))["name"] == "1"
    async with open_audit("") as none:
        assert none is None


def read(path: Path) -> bytes:
    return path.read_bytes()
