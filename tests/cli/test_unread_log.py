"""An agent whose log no process reads: it acknowledges pings and serves clients."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from tests.interop.agents import ROOT, TRIOSERF, net, read_to
from trioserf.agent.stream_writer import MAX_WAITING
from trioserf.wire import swim_codec
from trioserf.wire.packet import PacketCodec
from trioserf.wire.swim_messages import Ack, Ping

assert sys.platform != "win32"

pytestmark = pytest.mark.interop
HOST = f"{net(3)}.1"
NAME = "x" * 64
EVENTS = 3 * MAX_WAITING // 120
"""Each writes a line of more than 120 bytes, "Received event", which is not limited."""


@contextmanager
def started(stdout: int, stderr: int) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        [*TRIOSERF, "agent", f"--bind={HOST}:7946", f"--rpc-addr={HOST}:7373", "--node=n"],
        stdout=stdout, stderr=stderr, cwd=ROOT,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def send_events() -> None:
    """Send events, each of which is logged, until the log has no room; fail if the agent stops."""
    with socket.create_connection((HOST, 7373), 20) as control, control.makefile("rwb") as file:
        for _ in range(EVENTS):
            request = {"command": "event", "name": NAME}
            file.write(json.dumps(request).encode() + b"\n")
            file.flush()
            assert json.loads(file.readline())["ok"]


def ping() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(20)
        udp.connect((HOST, 7946))
        udp.send(swim_codec.encode(Ping(7, "n")))
        assert any(
            isinstance(one, Ack) for one in PacketCodec(keyring=None).decode(udp.recv(65_536))[0]
        )


def lost_lines(file: IO[bytes]) -> int:
    """Read the log up to the number of lost lines, and return it."""
    line = read_to(file, b"lines of the log were lost").splitlines()[-1]
    assert line.endswith(b" lines of the log were lost: standard error was not read in time")
    assert b"[WARN] agent: " in line
    return int(line.split()[4])


def test_agent_does_not_wait_for_the_reader_of_its_log() -> None:
    with started(subprocess.PIPE, subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        read_to(process.stdout, b"Log data will now stream")
        send_events()
        ping()
        assert lost_lines(process.stderr) > 0
        process.send_signal(signal.SIGINT)
        assert b"shutdown complete" in process.stderr.read()
        assert process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_agent_without_readers_ends(number: signal.Signals) -> None:
    reading, writing = os.pipe()
    with started(writing, writing) as process, os.fdopen(reading, "rb") as file:
        os.close(writing)
        read_to(file, b"Log data will now stream")
        send_events()
        process.send_signal(signal.SIGHUP)
        process.send_signal(number)
        assert process.wait(20) == (0 if number == signal.SIGINT else 1)


CRASH = """
import logging
from trioserf.cli.commands import agent_process
from trioserf.cli.main import main
async def crash(*_):
    for _ in range(5000):
        logging.getLogger("trioserf.agent").error("x" * 400)
    raise RuntimeError("a bug")
agent_process._start_join = crash
main()
"""


def crashing(stderr: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", CRASH, "agent", f"--bind={HOST}:0", f"--rpc-addr={HOST}:0"],
        stdout=subprocess.DEVNULL, stderr=stderr, cwd=ROOT,
    )  # fmt: skip


def test_traceback_of_a_crash_follows_the_log() -> None:
    with crashing(subprocess.PIPE) as process:
        _, text = process.communicate(timeout=60)
    lines = text.splitlines()
    first = next(n for n, line in enumerate(lines) if b"Traceback" in line)
    assert all(b"agent: " in line or b"serf: " in line for line in lines[:first])
    assert any(b"RuntimeError: a bug" in line for line in lines[first:])
    assert process.returncode == 1


def test_crash_without_a_reader_ends() -> None:
    reading, writing = os.pipe()
    with crashing(writing) as process:
        os.close(writing)
        assert process.wait(60) == 1
    os.close(reading)
