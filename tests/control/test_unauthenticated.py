"""The control port of a real agent and unauthenticated clients, at log level trace."""

import json
import os
import random
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import msgpack
import pytest

from tests.interop.agents import ROOT, STARTED_WITHIN, TRIOSERF, until
from tests.interop.floods import memory
from trioserf.control.server import admission

pytestmark = pytest.mark.interop
AUTH = "open-sesame-0193"
KEY = "5K9OtfP7efFrNKe5WCQvXvnaXJ5cWP0SvXiwe0kkjM4="
HOST = f"127.25.{os.getpid() % 250}.12"
"""An address that no other test run uses."""


@attrs.frozen
class Agent:
    pid: int
    log: Path
    path: Path

    def dial(self) -> socket.socket:
        stream = socket.create_connection((HOST, 7373), 10)
        stream.settimeout(10)
        return stream

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder) / "control", Path(folder) / "log"
        config = Path(folder) / "agent.json"
        addresses = [f"{HOST}:7373", f"unix:{path}"]
        config.write_text(
            json.dumps({"rpc_auth": AUTH, "encrypt_key": KEY, "rpc_addr": addresses})
        )
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*TRIOSERF, "agent", f"--config-file={config}", f"--bind={HOST}:0", "--node=a",
                 "--log-level=trace"],
                stdout=out, stderr=subprocess.STDOUT, cwd=ROOT,
            )  # fmt: skip
            try:
                until(lambda: "agent running" in log.read_text(), STARTED_WITHIN, log.read_text)
                yield Agent(process.pid, log, path)
            finally:
                process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
                process.wait()


def exchange(stream: socket.socket, *requests: dict[str, object]) -> list[dict[str, object]]:
    """Send requests and return all replies until the agent closes."""
    stream.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
    stream.shutdown(socket.SHUT_WR)
    sent = b""
    while data := stream.recv(65_536):
        sent += data
    return [json.loads(line) for line in sent.splitlines()]


def is_working(agent: Agent) -> bool:
    with agent.dial() as stream:
        replies = exchange(stream, {"command": "auth", "key": AUTH}, {"command": "members"})
    return [reply["ok"] for reply in replies] == [True, True]


def test_random_input_is_rejected_without_memory_growth(agent: Agent) -> None:
    rng = random.Random(1)
    before = memory(agent.pid)
    for number in range(300):
        first = rng.choice((b"{", b"\x82", b"", b"[", b"\xff", b"\x82\xa7Command\xa4auth\xa3Seq"))
        with agent.dial() as stream, suppress(OSError):
            stream.sendall(first + rng.randbytes(rng.randrange(1, 30_000)))
            if number % 2:
                stream.shutdown(socket.SHUT_WR)
                while stream.recv(65_536):
                    pass
    assert is_working(agent)
    assert memory(agent.pid) < before + 20
    assert "Traceback" not in agent.log_text()


def test_unauthenticated_clients_neither_block_nor_delay_authenticated_ones(agent: Agent) -> None:
    authenticated = agent.dial()
    authenticated.sendall(json.dumps({"command": "auth", "key": AUTH}).encode() + b"\n")
    assert b"true" in authenticated.recv(1000)
    unauthenticated = [agent.dial() for _ in range(200)]
    closed = unauthenticated[: 200 - admission.Limits().unauthenticated]
    for stream in closed:
        with suppress(ConnectionResetError):
            assert not stream.recv(1)
    assert is_working(agent)
    authenticated.sendall(b'{"command":"members"}\n')
    assert b'"a"' in authenticated.recv(65_536)
    for stream in unauthenticated:
        stream.close()
    authenticated.close()
    refusals = agent.log_text().count("Disconnected an idle client at loopback for another one")
    assert 0 < refusals < 10


def test_long_unauthenticated_message_ends_the_connection(agent: Agent) -> None:
    for data in (
        b'{"command":"' + b"x" * 200_000,
        b"\x81\xa7Command\xdb\x00\x0f\x00\x00" + bytes(99_999),
    ):
        with agent.dial() as stream, suppress(OSError):
            stream.sendall(data)
            while stream.recv(65_536):
                pass
    assert is_working(agent)  # fmt: skip


def test_unix_socket_is_accessible_to_owner_only(agent: Agent) -> None:
    mode = agent.path.lstat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert agent.path.lstat().st_uid == os.getuid()


def test_secrets_appear_in_no_reply_and_no_log(agent: Agent) -> None:
    with agent.dial() as stream:
        replies = exchange(
            stream,
            {"command": "auth", "key": AUTH + "x"},
            {"command": "auth", "key": AUTH[:-1]},
            {"command": "info"},
            {"command": "auth", "key": AUTH},
            {"command": "info"},
            {"command": "keys", "action": "install", "key": KEY[:-2]},
            {"command": "monitor", "level": "TRACE"},
        )
    assert [reply["ok"] for reply in replies[:5]] == [False, False, False, True, True]
    output = json.dumps(replies) + agent.log_text()
    with agent.dial() as stream:
        unpacker = msgpack.Unpacker(raw=False)
        stream.sendall(
            b"".join(
                map(
                    msgpack.packb,
                    (
                        {"Command": "handshake", "Seq": 1}, {"Version": 1},
                        {"Command": "auth", "Seq": 2}, {"AuthKey": AUTH},
                        {"Command": "stats", "Seq": 3},
                    ),
                )
            )
        )  # fmt: skip
        received: list[object] = []
        while len(received) < 4:
            data = stream.recv(65_536)
            assert data, f"the agent closed the connection after {received}"
            unpacker.feed(data)
            received += list(unpacker)
    output += str(received)
    assert "encrypted" in output
    for secret in (AUTH, AUTH[:-1], KEY, KEY[:-2]):
        assert secret not in output
