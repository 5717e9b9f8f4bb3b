"""Standard streams that are full, closed or without a reader: the agent continues."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.interop.agents import ROOT, TRIOSERF, net

FULL = Path("/dev/full")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full"),
]
LOST = b"trioserf: cannot write: No space left on device\n"
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
UNBUFFERED = {**BUFFERED, "PYTHONUNBUFFERED": "1"}
both_ways = pytest.mark.parametrize("env", [BUFFERED, UNBUFFERED], ids=["buffered", "unbuffered"])


@both_ways
@pytest.mark.parametrize(
    "line", ["version", "keygen --format=json", "--help", "members --help", "members -name=y"]
)
def test_output_that_cannot_be_written_is_an_error(line: str, env: Mapping[str, str]) -> None:
    with FULL.open("wb") as full:
        done = subprocess.run(
            [*TRIOSERF, *line.split()], stdout=full, stderr=subprocess.PIPE, timeout=30,
            check=False, env={**env, "SERF_RPC_ADDR": "127.17.0.250:7373"}, cwd=ROOT,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, LOST)


@both_ways
def test_error_that_cannot_be_written_leaves_the_exit_code(env: Mapping[str, str]) -> None:
    with FULL.open("wb") as full:
        done = subprocess.run(
            [*TRIOSERF, "version"],
            stdout=full,
            stderr=full,
            timeout=30,
            check=False,
            env=env,
            cwd=ROOT,
        )
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("version >&-", 0),
        ("version <&- >&-", 0),
        ("nosuch 2>&-", 127),
        ("nosuch <&- >&- 2>&-", 127),
    ],
)
def test_closed_streams_are_opened_to_dev_null(line: str, code: int) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m trioserf {line}', sys.executable],
        capture_output=True, timeout=30, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


@both_ways
@pytest.mark.parametrize(
    "streams", [">/dev/full 2>/dev/full", "<&- >&- 2>&-", "2>&-", ">/dev/full 2>/dev/null"]
)
def test_agent_continues_without_standard_streams(streams: str, env: Mapping[str, str]) -> None:
    host = f"{net(7)}.71"
    rpc = f"-rpc-addr={host}:7373"
    # Warnings at the start must not end the agent.
    words = f"agent -bind={host}:0 {rpc} -node=mute -role=x -rejoin"
    agent = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$0" -m trioserf {words} {streams}', sys.executable],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd=ROOT,
    )  # fmt: skip
    with agent:
        try:
            deadline = time.monotonic() + 30
            while subprocess.run(
                [*TRIOSERF, "members", rpc], capture_output=True, check=False
            ).returncode:
                assert agent.poll() is None, agent.communicate()
                assert time.monotonic() < deadline
            agent.send_signal(signal.SIGINT)
            agent.communicate(timeout=30)
        finally:
            agent.kill()
    assert agent.returncode == 0


@pytest.mark.parametrize(
    "module", ["trioserf.cli.go_flags", "trioserf.cli.app", "trioserf.cli.commands.version"]
)
def test_interruption_during_imports_ends_by_the_signal(module: str) -> None:
    code = (
        f"MODULE = {module!r}"
        + """
import sys

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from trioserf.cli.main import main
main()
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "version"],
        capture_output=True,
        timeout=30,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")
