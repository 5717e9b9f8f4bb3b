"""An agent that cannot start threads: it logs each failure, goes on and tries again."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.agents import ROOT, TRIOSERF, net, until

assert sys.platform != "win32"

pytestmark = pytest.mark.interop
HOST = f"{net(6)}.1"
RPC = f"{HOST}:7373"
PROGRAM = """
import os, sys
from trio._core._thread_cache import ThreadCache
flag, start = sys.argv.pop(1), ThreadCache.start_thread_soon
def start_or_fail(*args):
    if os.path.exists(flag):
        raise RuntimeError("can't start new thread")
    start(*args)
ThreadCache.start_thread_soon = start_or_fail
from trioserf.cli.main import main
main()
"""
"""An agent whose threads fail while a file exists: root has no limit of processes."""


def test_command_line_is_parsed_without_a_second_process() -> None:
    code = """
import os
def fork():
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = fork
from trioserf.cli.main import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "agent", "--bind=127.0.0.1:x"],
        capture_output=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"expected a port" in done.stdout


def test_agent_without_threads_goes_on(tmp_path: Path) -> None:
    flag, ran, snapshot = tmp_path / "flag", tmp_path / "ran", tmp_path / "snapshot"
    log = tmp_path / "log"

    def is_logged(*texts: str) -> bool:
        return all(text in log.read_text() for text in texts)

    def send(name: str) -> None:
        command = [*TRIOSERF, "event", f"--rpc-addr={RPC}", "-coalesce=false", name]
        subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=ROOT)

    with (
        log.open("wb") as file,
        subprocess.Popen(
            [
                sys.executable, "-c", PROGRAM, str(flag), "agent", f"--bind={HOST}:0",
                f"--rpc-addr={RPC}", f"--snapshot={snapshot}", "--retry-join=localhost:1",
                "--retry-interval=1s", f"--event-handler=user=echo $SERF_USER_EVENT >>{ran}",
            ],
            stdout=subprocess.DEVNULL, stderr=file, cwd=ROOT,
        ) as agent,
    ):  # fmt: skip
        try:
            until(lambda: is_logged("Join failed: "), 60, log.read_text)
            flag.touch()
            send("first")
            agent.send_signal(signal.SIGHUP)
            expected = (
                "Error invoking script",
                f"snapshot {snapshot}: cannot be written: no thread can be started",
                "'localhost': no thread can be started, retrying in 1s",
                "the configuration stays as it was: no thread can be started",
            )
            until(lambda: is_logged(*expected), 60, log.read_text)
            flag.unlink()
            send("second")
            until(ran.exists, 60, log.read_text)
            agent.send_signal(signal.SIGINT)
            assert agent.wait(20) == 0, log.read_text()
        finally:
            agent.kill()
    assert "Traceback" not in log.read_text()
    assert "event-clock: 2" in snapshot.read_text()
