"""Real scripts at the end of their agent, however it ends: no process of theirs is left.

A script and its processes hold the writing end of a pipe. Reading from the pipe ends when the last
of them has ended.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.interop.agents import ROOT, TRIOSERF
from trioserf.agent import script_runner
from trioserf.agent.agent import open_agent
from trioserf.agent.config import AgentConfig, HandlerOptions
from trioserf.agent.config_converter import Addresses
from trioserf.agent.logs import open_logs
from trioserf.agent.script_runner import ShellRunner
from trioserf.node import NodeConfig
from trioserf.results import QueryAnswer

HOST = f"127.24.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
"""An address that no other test run uses."""
TIME_LIMIT = 30.0
STUBBORN = "trap '' TERM; exec 3>{}; (trap '' TERM; sleep 300) & echo up >&3; sleep 300"
"""A script that ignores SIGTERM, like its background process.

It sleeps for longer than any test waits, but not for hours if a test fails.
"""


class Pipe:
    """Shows whether a script, or a process that it started, still runs."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.script = STUBBORN.format(path)
        self._reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self, seconds: float = TIME_LIMIT) -> bytes:
        """Wait for written data, or for the end."""
        ready, _, _ = select.select([self._reading], [], [], seconds)
        assert ready, "nothing was written, nothing has ended"
        return os.read(self._reading, 100)

    async def wait_for_start(self) -> None:
        with trio.fail_after(TIME_LIMIT):
            await trio.lowlevel.wait_readable(self._reading)
        assert self.read() == b"up\n"

    def close(self) -> None:
        os.close(self._reading)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    with contextlib.closing(Pipe(tmp_path / "pipe")) as pipe:
        yield pipe


@pytest.fixture
def grace(monkeypatch: pytest.MonkeyPatch) -> float:
    """Shorten the time between SIGTERM and SIGKILL; return it in seconds."""
    monkeypatch.setattr(script_runner, "GRACE", 0.2)
    return script_runner.GRACE


async def test_script_that_ignores_sigterm_is_killed(pipe: Pipe, grace: float) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ShellRunner(), pipe.script, dict(os.environ), b"")
        await pipe.wait_for_start()
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert grace <= trio.current_time() - began < grace + 5
    assert pipe.read() == b""


async def test_script_gets_time_to_handle_sigterm(tmp_path: Path) -> None:
    output = tmp_path / "word"
    with contextlib.closing(Pipe(tmp_path / "pipe")) as pipe:
        script = f"trap 'echo bye >{output}; exit' TERM; exec 3>{tmp_path / 'pipe'};"
        script += " echo up >&3; while :; do sleep 0.05; done"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ShellRunner(), script, dict(os.environ), b"")
            await pipe.wait_for_start()
            nursery.cancel_scope.cancel()
        assert pipe.read() == b""
    assert await trio.Path(output).read_text() == "bye\n"


def config(handler: str) -> AgentConfig:
    return AgentConfig(
        node=NodeConfig(name="a"),
        bind=f"{HOST}:0",
        rpc_addr=Addresses((f"{HOST}:0",)),
        event_handlers=[handler],
    )


async def test_timeout_ends_all_processes_of_script(
    pipe: Pipe, grace: float, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 1.0  # real time, except for one jump
    # A handler's runs are in order: it answers the query after the first run.
    handler = f"user,query=[ $SERF_EVENT = query ] && exec echo next; {pipe.script}"
    with open_logs("ERR") as logs:
        async with open_agent(config(handler), logs) as agent:
            await agent.node.user_event("go")
            await pipe.wait_for_start()
            mock_clock.jump(HandlerOptions().timeout)
            assert await trio.to_thread.run_sync(pipe.read) == b""
            async with agent.node.query("state", timeout=TIME_LIMIT) as results:
                assert QueryAnswer("a", b"next\n") in [one async for one in results]
            [stats] = agent._handlers.stats().values()
            assert (stats["runs"], stats["failures"]) == (2, 1)


async def test_crash_of_agent_ends_its_scripts(pipe: Pipe, grace: float) -> None:
    class BugError(Exception):
        pass

    async def crash() -> None:
        with open_logs("ERR") as logs:
            handler = f"user={pipe.script}"
            async with open_agent(config(handler), logs) as agent, trio.open_nursery():
                await agent.node.user_event("go")
                await pipe.wait_for_start()
                raise BugError

    with pytest.raises(BaseExceptionGroup) as caught:
        await crash()
    assert caught.group_contains(BugError)
    assert pipe.read() == b""


@pytest.mark.interop
@pytest.mark.parametrize("end", ["leave", "SIGINT", "SIGTERM", "graceful SIGTERM", "SIGINT twice"])
def test_scripts_end_with_agent_and_do_not_delay_it(pipe: Pipe, end: str) -> None:
    graceful = "true" if end == "graceful SIGTERM" else "false"
    command = [*TRIOSERF, "agent", f"--bind={HOST}:0", f"--rpc-addr={HOST}:7373"]
    command += [f"--event-handler=user={pipe.script}", "--event-handler=query:load=echo 0.42"]
    command += ["--node=a", f"--set=leave_on_terminate={graceful}"]
    with started(command) as agent:
        await_text(agent, b"Log data")
        for _ in range(2):  # one runs, one waits
            assert ask("event", "-coalesce=false", "go") == "Event 'go' dispatched!"
        assert pipe.read() == b"up\n"
        with started([*TRIOSERF, "stream", f"--rpc-addr={HOST}:7373", "--type=user"]) as stream:
            began = time.monotonic()
            assert "Response from 'a': 0.42" in ask("query", "--timeout=20s", "load")
            assert time.monotonic() - began < 10  # long before the query's deadline
            assert stream.stdout is not None
            received = b""
            while b"heard" not in received:  # though a handler still sleeps
                assert time.monotonic() - began < TIME_LIMIT
                ask("event", "-coalesce=false", "heard")
                if select.select([stream.stdout], [], [], 0.2)[0]:
                    received += os.read(stream.stdout.fileno(), 65536)
            stop(agent, end)
            code = agent.wait(TIME_LIMIT)
            assert pipe.read(1) == b""
            # A second signal may arrive after the agent has ended.
            expected = {"SIGTERM": {1}, "SIGINT twice": {0, 1, -signal.SIGINT}}
            assert code in expected.get(end, {0})
            records, _ = stream.communicate(timeout=TIME_LIMIT)
            assert (
                records.splitlines(keepends=True)[-1]
                == b"The stream ended: the agent has exited, or crashed\n"
            )
            assert stream.returncode == 1


@contextlib.contextmanager
def started(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program until the block ends at the latest; its output can be read."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def await_text(process: "subprocess.Popen[bytes]", text: bytes) -> None:
    """Read the output of a program until a text appears."""
    assert process.stdout is not None
    output, deadline = b"", time.monotonic() + TIME_LIMIT
    while text not in output:
        left = max(0.0, deadline - time.monotonic())
        assert select.select([process.stdout], [], [], left)[0], f"no {text!r} in {output!r}"
        data = os.read(process.stdout.fileno(), 65_536)
        assert data, f"the program ended without {text!r}: {output!r}"
        output += data


def stop(agent: "subprocess.Popen[bytes]", end: str) -> None:
    if end == "leave":
        assert ask("leave") == "Graceful leave complete"
        return
    agent.send_signal(signal.SIGTERM if "SIGTERM" in end else signal.SIGINT)
    if end == "SIGINT twice":
        await_text(agent, b"Gracefully")
        agent.send_signal(signal.SIGINT)


def ask(*words: str) -> str:
    done = subprocess.run(
        [*TRIOSERF, words[0], f"--rpc-addr={HOST}:7373", *words[1:]],
        capture_output=True, timeout=TIME_LIMIT, check=True, cwd=ROOT,
    )  # fmt: skip
    return done.stdout.decode().split(" Coalescing")[0].rstrip("\n")
