"""Scripts in real shells: environment, input, output, exit."""

import os
import pwd
import re
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trioserf.address import Address
from trioserf.agent import script_runner
from trioserf.agent.handlers import Handler
from trioserf.agent.script_runner import (
    OUTPUT_KEPT,
    Result,
    ShellRunner,
    environment,
    standard_input,
)
from trioserf.errors import ConfigError
from trioserf.serf.events import MemberEvent, QueryReceived, UserEventReceived
from trioserf.serf.member import Member
from trioserf.wire.serf_messages import Status

assert sys.platform == "linux"

ENV = {"PATH": os.environ["PATH"]}


def test_member_lines_are_escaped() -> None:
    member = Member("a", Address("10.0.0.1", 7946), {"role": "w", "t": "x\ty\n"}, Status.ALIVE)
    assert standard_input(MemberEvent("member-join", (member, member))) == (
        b"a\t10.0.0.1\tw\trole=w,t=x\\ty\\n\n" * 2
    )


@pytest.mark.parametrize(("payload", "expected"), [(b"", b""), (b"v1", b"v1\n"), (b"v\n", b"v\n")])
def test_payload_input_ends_with_newline(payload: bytes, expected: bytes) -> None:
    assert standard_input(UserEventReceived(3, "deploy", payload, False)) == expected


def test_environment_describes_event() -> None:
    query = QueryReceived(1, 7, 9, "load", b"", "b", 5.0)
    env = environment(query, "me", {"role": "web", "dc-1.x": "ü"}, {"HOME": "/"})
    assert env == {
        "HOME": "/", "SERF_EVENT": "query", "SERF_SELF_NAME": "me", "SERF_SELF_ROLE": "web",
        "SERF_TAG_ROLE": "web", "SERF_TAG_DC_1_X": "ü", "SERF_QUERY_NAME": "load",
        "SERF_QUERY_LTIME": "7",
    }  # fmt: skip


async def test_stdout_and_stderr_are_kept() -> None:
    result = await ShellRunner()("cat; echo err >&2; exit 3", ENV, b"in\n")
    assert (result.status, result.output, result.failure) == (3, b"in\nerr\n", "exit status 3")


async def test_end_of_long_output_is_kept() -> None:
    result = await ShellRunner()("head -c 20000 /dev/zero; printf end", ENV, b"")
    assert len(result.output) == OUTPUT_KEPT
    assert result.output.endswith(b"end")
    assert result.lost == 20_003 - OUTPUT_KEPT


async def test_script_without_a_thread_is_tried_again(
    no_threads: None, autojump_clock: MockClock
) -> None:
    began = trio.current_time()
    result = await ShellRunner()("exec true", ENV, b"")
    assert (result.status, result.failure) == (None, "no thread can be started")
    assert trio.current_time() - began == 3.5


async def test_unread_input_is_not_a_failure() -> None:
    result = await ShellRunner()("exec true", ENV, b"x" * 1_000_000)
    assert result.status == 0


async def test_text_reaches_script_as_utf8() -> None:
    env = ENV | {"NAME": "中\udcff"}
    result = await ShellRunner()('printf "ü:%s" "$NAME"', env, b"")
    assert result.output == "ü:中".encode() + b"\xff"


@pytest.mark.parametrize(
    ("script", "value", "failure"),
    [
        ("echo run", "a\0b", "exec: environment variable contains NUL"),
        ("echo run", "x" * 1_000_000, "event and tags are too long"),
        ("echo \0", "", "embedded null byte"),
    ],
)
async def test_script_that_cannot_be_started_is_failure(
    script: str, value: str, failure: str
) -> None:
    result = await ShellRunner()(script, ENV | {"SERF_USER_EVENT": value}, b"")
    assert result == Result(None, failure=failure)


@contextmanager
def limit_of_agent(kind: int) -> Iterator[None]:
    """Lower a limit of this process to 1 while the block runs, as a user that it applies to."""
    soft, hard = resource.getrlimit(kind)
    is_root, other = os.geteuid() == 0, pwd.getpwnam("daemon").pw_uid
    if is_root:
        os.setresuid(other, other, 0)
    resource.setrlimit(kind, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))
        if is_root:
            os.setresuid(0, 0, 0)


@pytest.mark.parametrize("has_idle_thread", [False, True])
@pytest.mark.parametrize("kind", [resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC])
async def test_script_beyond_limit_of_agent_is_failure(
    kind: int, has_idle_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script_runner, "_START_DELAYS", (0.0,))
    blocked = threading.Event()

    async def block_thread() -> None:
        await trio.to_thread.run_sync(lambda: blocked.wait(60))

    async with trio.open_nursery() as nursery:
        for _ in range(0 if has_idle_thread else threading.active_count()):
            nursery.start_soon(block_thread)
        await wait_all_tasks_blocked()
        try:
            if has_idle_thread:
                await ShellRunner()("echo run", ENV, b"")
            with limit_of_agent(kind):
                result = await ShellRunner()("echo run", ENV, b"")
        finally:
            blocked.set()
    reasons = ["Too many open files"]
    if kind == resource.RLIMIT_NPROC:
        reasons = ["no thread can be started", "Resource temporarily unavailable"]
    assert result.status is None
    assert result.failure in reasons
    assert (await ShellRunner()("echo run", ENV, b"")).output == b"run\n"


@pytest.mark.parametrize(
    ("script", "output"),
    [
        ("(sleep 0.1; echo late) & echo hi", b"hi\nlate\n"),
        ("sleep 2 >/dev/null 2>&1 & echo hi", b"hi\n"),
    ],
)
async def test_processes_that_release_output_after_script_are_not_ended(
    script: str, output: bytes
) -> None:
    result = await ShellRunner()(script, ENV, b"")
    assert (result.output, result.left, result.failure) == (output, "", "")


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait only shortly for processes that hold output, and after SIGTERM."""
    monkeypatch.setattr(script_runner, "_DRAIN", 0.1)
    monkeypatch.setattr(script_runner, "GRACE", 0.1)


@pytest.mark.parametrize(
    ("script", "left"),
    [
        ("sleep 300 & echo hi", "they were ended"),
        ("trap '' TERM; sleep 300 & echo hi", "they were ended"),
        (
            "trap 'exit 0' HUP; setsid sh -c \"echo hi; kill -HUP $$; exec sleep 4\" & wait",
            "they run on in another session or as another user, and cannot write any more",
        ),
    ],
)
async def test_processes_that_hold_output_are_ended_after_script(
    script: str, left: str, short_waits: None
) -> None:
    with trio.fail_after(20):
        result = await ShellRunner()(script, ENV, b"")
    assert (result.output, result.left, result.failure) == (b"hi\n", left, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it still runs
async def test_script_that_cannot_be_ended_does_not_delay_agent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, short_waits: None
) -> None:
    fifo, other = tmp_path / "pid", pwd.getpwnam("daemon").pw_uid
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    script = f"echo $$ >{fifo}; exec sleep 300"
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ShellRunner(), script, ENV, b"")
            with trio.fail_after(20):
                await trio.lowlevel.wait_readable(reading)
            pid = int(os.read(reading, 100))
            os.setresuid(other, other, 0)
            nursery.cancel_scope.cancel()
    finally:
        os.setresuid(0, 0, 0)
        os.close(reading)
    os.kill(pid, signal.SIGKILL)
    assert f"Process {pid} of a script cannot be ended, and runs on" in caplog.messages


async def test_cancellation_ends_all_processes_of_script(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    script = f"exec 3>{fifo}; echo up >&3; (sleep 3600) & sleep 3600"
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ShellRunner(), script, ENV, b"")
            with trio.fail_after(20):
                await trio.lowlevel.wait_readable(reading)
            nursery.cancel_scope.cancel()
        os.set_blocking(reading, True)
        # Reading ends only when no process holds the pipe any more.
        assert await trio.to_thread.run_sync(os.read, reading, 100) == b"up\n"
        with trio.fail_after(20):
            assert await trio.to_thread.run_sync(os.read, reading, 100) == b""
    finally:
        os.close(reading)


def test_handler_is_split_at_first_equals_sign() -> None:
    handler = Handler.parse("user:deploy,query=X=1 ./run.sh")
    assert handler.script == "X=1 ./run.sh"
    assert [str(chosen) for chosen in handler.filters] == ["user:deploy", "query"]
    assert [str(chosen) for chosen in Handler.parse("./run.sh").filters] == ["*"]


@pytest.mark.parametrize("text", ["foo=./run.sh", "user=", "X=1 ./run.sh", "user=a\0b", "\ud800"])
def test_handler_that_is_not_valid_is_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^Invalid event script: {re.escape(repr(text))}: "):
        Handler.parse(text)
