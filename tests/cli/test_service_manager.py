"""A real agent under a service manager, which this test plays: datagrams and passed sockets."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.interop.agents import ROOT, STARTED_WITHIN, TRIOSERF, net

assert sys.platform != "win32"

pytestmark = pytest.mark.interop
HOST = net(5)
AS_LISTENER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes another program, to which a descriptor is passed as descriptor 3."""


class Manager:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0"))
        self.messages: list[dict[str, str]] = []

    def wait_for(self, *lines: str, seconds: float = STARTED_WITHIN) -> dict[str, str]:
        """Return the next message with these lines."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            assert left > 0, f"expected {lines}, got {self.messages}"
            self._socket.settimeout(left)
            try:
                text = self._socket.recv(4096).decode()
            except TimeoutError:
                continue
            pairs = (line.partition("=") for line in text.split("\n"))
            message = {name: value for name, _, value in pairs}
            self.messages.append(message)
            if set(lines) <= set(text.split("\n")):
                return message

    def count_until_silence(self, seconds: float) -> int:
        """Read messages until none arrives for some time; return their number, 10 at most."""
        self._socket.settimeout(seconds)
        for count in range(10):
            try:
                self._socket.recv(4096)
            except TimeoutError:
                return count
        return 10

    def names(self) -> list[str]:
        """Return the names in all messages, in order."""
        return [name for message in self.messages for name in message]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with closing(Manager(str(tmp_path / "notify"))) as opened:
        yield opened


@contextmanager
def running(
    number: int,
    *options: str,
    env: Mapping[str, str],
    before: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    rpc: str = "",
) -> Iterator["subprocess.Popen[bytes]"]:
    host = f"{HOST}.{number}"
    words = ["agent", f"-bind={host}:7946", f"-node=s{number}", "-profile=local"]
    words.append(f"-rpc-addr={rpc or f'{host}:7373'}")
    with subprocess.Popen(
        [*before, *TRIOSERF, *words, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **env},
        pass_fds=pass_fds,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def end(process: "subprocess.Popen[bytes]", number: signal.Signals = signal.SIGINT) -> str:
    """End an agent; return its log."""
    assert process.stderr is not None
    process.send_signal(number)
    log = process.stderr.read().decode()
    assert process.wait(20) == 0
    assert "Traceback" not in log
    return log


def test_agent_reports_start_reload_and_end(manager: Manager) -> None:
    with running(1, env={"NOTIFY_SOCKET": manager.address}) as process:
        ready = manager.wait_for("READY=1")
        assert ready["STATUS"] == "1 members alive, 0 failed, 0 left"
        before = time.monotonic_ns() // 1000
        process.send_signal(signal.SIGHUP)
        reloading = manager.wait_for("RELOADING=1")
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        manager.wait_for("READY=1")
        end(process)
        manager.wait_for("STOPPING=1")
    assert "WATCHDOG" not in manager.names()
    assert manager.names().count("STOPPING") == 1


def test_agent_that_is_ready_after_its_first_join_waits_for_it() -> None:
    with closing(Manager(f"@trioserf-test-{os.getpid()}")) as manager:
        env = {"NOTIFY_SOCKET": manager.address}
        with running(2, "--ready-when-joined", env=env) as process:
            manager.wait_for("STATUS=Waiting for the first join")
            process.send_signal(signal.SIGHUP)  # is not ready afterwards either
            with running(3, f"-join={HOST}.2", env={"NOTIFY_SOCKET": ""}):
                manager.wait_for("READY=1")
                assert manager.names() == ["STATUS", "READY", "STATUS"]
                assert manager.messages[-1]["STATUS"] == "2 members alive, 0 failed, 0 left"
            manager.wait_for("STATUS=1 members alive, 1 failed, 0 left")
            end(process)


def test_signs_of_life_end_while_the_agent_is_stopped(manager: Manager) -> None:
    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
    with running(4, env=env) as process:
        manager.wait_for("READY=1")
        began = time.monotonic()
        for _ in range(5):
            manager.wait_for("WATCHDOG=1")
        assert time.monotonic() - began >= 0.8  # the first one is sent at once
        process.send_signal(signal.SIGSTOP)
        assert manager.count_until_silence(1.0) <= 3  # sent before the stop
        process.send_signal(signal.SIGCONT)
        manager.wait_for("WATCHDOG=1")
        end(process)


def test_watchdog_of_another_process_gets_nothing(manager: Manager) -> None:
    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    with running(5, env=env) as process:
        manager.wait_for("READY=1")
        end(process)
        manager.wait_for("STOPPING=1")
    assert "WATCHDOG" not in manager.names()


def test_unusable_notify_socket_is_logged_once(tmp_path: Path) -> None:
    env = {"NOTIFY_SOCKET": str(tmp_path / "nosuch"), "WATCHDOG_USEC": "50000"}
    with running(6, env=env) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        while b"NOTIFY_SOCKET" not in line:
            line = process.stderr.readline()
        assert b"[WARN] agent: NOTIFY_SOCKET: cannot be written: No such file" in line
        assert "NOTIFY_SOCKET" not in end(process)


def test_scripts_do_not_get_the_variables(manager: Manager, tmp_path: Path) -> None:
    path = tmp_path / "environment"
    handler = f"-event-handler=member-join=env >{path}.tmp && mv {path}.tmp {path}"
    with running(7, handler, env={"NOTIFY_SOCKET": manager.address}) as process:
        manager.wait_for("READY=1")
        deadline = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "SERF_EVENT=member-join" in path.read_text()
        assert "NOTIFY_SOCKET" not in path.read_text()
        end(process)


def test_control_port_uses_a_passed_socket(manager: Manager, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        descriptor = listener.fileno()
        env = {"NOTIFY_SOCKET": manager.address, "LISTEN_FDS": "1"}
        before = (sys.executable, "-c", AS_LISTENER, str(descriptor))
        with running(
            8, env=env, before=before, pass_fds=(descriptor,), rpc=f"unix:{path}"
        ) as process:
            manager.wait_for("READY=1")
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(str(path))
                client.sendall(b'{"command": "handshake"}\n')
                assert b'"node":"s8"' in client.recv(4096)
            end(process)
        assert path.is_socket()  # it belongs to the service manager
