"""Real scripts when their agent goes, however it goes: nothing of them is left running.

A script holds the writing end of a pipe, and so does everything that it has started; the pipe's
end is seen when the last of them is gone.
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

from tests.interop.go_agents import OURS, ROOT
from trioserf.agent.agent import open_agent
from trioserf.agent.config import AgentConfig
from trioserf.agent.config_converter import Addresses
from trioserf.agent.logs import open_logs
from trioserf.agent.script_runner import GRACE, ShellRunner
from trioserf.node import NodeConfig

HOST = f"127.24.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
"""An address that no other test run uses."""
PATIENCE = 30.0
STUBBORN = "trap '' TERM; exec 3>{}; (trap '' TERM; sleep 300) & echo up >&3; sleep 300"
"""Ignores what asks it to end, as does what it has put into the background.

It sleeps for longer than anything is waited for, and not for hours should a test fail.
"""
TIMEOUT = 2.0
"""Seconds in which a shell has set its trap and said so, however busy the machine is."""


class Pipe:
    """Tells whether a script runs, and whether anything that it started still does."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.script = STUBBORN.format(path)
        self._reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self, patience: float = PATIENCE) -> bytes:
        """Wait for what is written, or the end."""
        ready, _, _ = select.select([self._reading], [], [], patience)
        assert ready, "nothing was written, nothing has ended"
        return os.read(self._reading, 100)

    async def wait_for_start(self) -> None:
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.wait_readable(self._reading)
        assert self.read() == b"up\n"

    def close(self) -> None:
        os.close(self._reading)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    with contextlib.closing(Pipe(tmp_path / "pipe")) as pipe:
        yield pipe


async def test_who_ignores_the_request_to_end_is_killed(pipe: Pipe) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ShellRunner(), pipe.script, dict(os.environ), b"")
        await pipe.wait_for_start()
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert GRACE <= trio.current_time() - began < GRACE + 5
    assert pipe.read() == b""


async def test_who_can_end_is_given_the_time(tmp_path: Path) -> None:
    last_word = tmp_path / "word"
    with contextlib.closing(Pipe(tmp_path / "pipe")) as pipe:
        script = f"trap 'echo bye >{last_word}; exit' TERM; exec 3>{tmp_path / 'pipe'};"
        script += " echo up >&3; while :; do sleep 0.05; done"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ShellRunner(), script, dict(os.environ), b"")
            await pipe.wait_for_start()
            nursery.cancel_scope.cancel()
        assert pipe.read() == b""
    assert await trio.Path(last_word).read_text() == "bye\n"


def config(pipe: Pipe, **keys: object) -> AgentConfig:
    return AgentConfig(
        node=NodeConfig(name="a"),
        bind=f"{HOST}:0",
        rpc_addr=Addresses((f"{HOST}:0",)),
        event_handlers=[f"user={pipe.script}"],
        **keys,  # type: ignore[arg-type]
    )


async def test_a_timeout_ends_all_that_a_script_started(pipe: Pipe) -> None:
    with open_logs("ERR") as logs:
        async with open_agent(config(pipe, handler_timeout=TIMEOUT), logs) as agent:
            await agent.node.user_event("go")
            await pipe.wait_for_start()
            assert await trio.to_thread.run_sync(pipe.read) == b""
            with trio.fail_after(PATIENCE):
                while True:
                    [stats] = agent._handlers.stats().values()
                    if not stats["running"]:
                        break
                    await trio.sleep(0.01)
            assert (stats["runs"], stats["failures"]) == (1, 1)
            assert float(str(stats["last_duration"])) >= TIMEOUT


async def test_a_crash_of_the_agent_ends_its_scripts(pipe: Pipe) -> None:
    class BugError(Exception):
        pass

    async def crash() -> None:
        with open_logs("ERR") as logs:
            async with open_agent(config(pipe), logs) as agent, trio.open_nursery():
                await agent.node.user_event("go")
                await pipe.wait_for_start()
                raise BugError

    with pytest.raises(BaseExceptionGroup) as caught:
        await crash()
    assert caught.group_contains(BugError)
    assert pipe.read() == b""


@pytest.mark.parametrize("end", ["leave", "SIGINT", "SIGTERM", "polite SIGTERM", "SIGINT twice"])
def test_scripts_end_with_the_agent_and_delay_nobody_before(pipe: Pipe, end: str) -> None:
    polite = "true" if end == "polite SIGTERM" else "false"
    command = [*OURS, "agent", f"--bind={HOST}:0", f"--rpc-addr={HOST}:7373"]
    command += [f"--event-handler=user={pipe.script}", "--event-handler=query:load=echo 0.42"]
    command += ["--node=a", f"--set=leave_on_terminate={polite}"]
    with started(command) as agent:
        await_text(agent, b"Log data")
        for _ in range(2):  # one runs, one waits
            assert ask("event", "-coalesce=false", "go") == "Event 'go' dispatched!"
        assert pipe.read() == b"up\n"
        with started([*OURS, "stream", f"--rpc-addr={HOST}:7373", "--type=user"]) as following:
            began = time.monotonic()
            assert "Response from 'a': 0.42" in ask("query", "--timeout=20s", "load")
            assert time.monotonic() - began < 10  # long before the query's deadline
            assert following.stdout is not None
            heard = b""
            while b"heard" not in heard:  # though a handler still sleeps
                assert time.monotonic() - began < PATIENCE
                ask("event", "-coalesce=false", "heard")
                if select.select([following.stdout], [], [], 0.2)[0]:
                    heard += os.read(following.stdout.fileno(), 65536)
            stop(agent, end)
            code = agent.wait(PATIENCE)
            assert pipe.read(1) == b""
            # A second signal may come when all is over and nobody hears it any more.
            wanted = {"SIGTERM": {1}, "SIGINT twice": {0, 1, -signal.SIGINT}}
            assert code in wanted.get(end, {0})
            told, _ = following.communicate(timeout=PATIENCE)
            assert (
                told.splitlines(keepends=True)[-1]
                == b"The stream ended: the agent has exited, or crashed\n"
            )
            assert following.returncode == 1


@contextlib.contextmanager
def started(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program for as long as the block lasts at the most; what it says can be read."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def await_text(process: "subprocess.Popen[bytes]", text: bytes) -> None:
    """Read what a program says until a text has come."""
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + PATIENCE
    while text not in said:
        left = max(0.0, deadline - time.monotonic())
        assert select.select([process.stdout], [], [], left)[0], f"no {text!r} in {said!r}"
        data = os.read(process.stdout.fileno(), 65_536)
        assert data, f"it has ended without {text!r}: {said!r}"
        said += data


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
        [*OURS, words[0], f"--rpc-addr={HOST}:7373", *words[1:]],
        capture_output=True, timeout=PATIENCE, check=True, cwd=ROOT,
    )  # fmt: skip
    return done.stdout.decode().split(" Coalescing")[0].rstrip("\n")
