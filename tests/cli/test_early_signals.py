"""Signals during the start of an agent, from its first moment on."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.agents import ROOT, TRIOSERF, net, read_to, until

assert sys.platform != "win32"

pytestmark = pytest.mark.interop
HOST = f"{net(5)}.1"
SILENT = f"{net(5)}.2"
RUNNING = b"Log data will now stream"
END = {signal.SIGTERM: 1, signal.SIGINT: 0}
"""Exit codes of the documented signals."""


@contextmanager
def starting(*options: str) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        [*TRIOSERF, "agent", f"--bind={HOST}:0", f"--rpc-addr={HOST}:0", "--node=n", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def silent_seed() -> Iterator[socket.socket]:
    with socket.create_server((SILENT, 0)) as seed:
        seed.settimeout(30)
        yield seed


def masks(process: "subprocess.Popen[bytes]", *names: str) -> int:
    """Return the union of signal masks of a process, such as SigBlk and SigCgt."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    mask = 0
    for name in names:
        mask |= int(found[name], 16)
    return mask


def bits(numbers: Sequence[int]) -> int:
    return sum(1 << (number - 1) for number in numbers)


def wait_for_program(process: "subprocess.Popen[bytes]", *names: str) -> None:
    """Wait until the program handles or blocks SIGHUP and SIGUSR1, long before it has started."""
    expected = bits([signal.SIGHUP, signal.SIGUSR1])
    until(lambda: masks(process, *names) & expected == expected, 30)


@pytest.mark.parametrize("names", [("SigBlk", "SigCgt"), ("SigCgt",)])
def test_early_hangup_and_user_signal_are_handled_after_the_start(names: tuple[str, ...]) -> None:
    with starting() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        wait_for_program(process, *names)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGUSR1)
        banner = read_to(process.stdout, RUNNING)
        assert b"Caught signal" not in banner
        read_to(process.stdout, b"Reloading configuration")
        # The metrics of the last minute are none yet.
        read_to(process.stderr, b"Configuration reloaded")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 1


@pytest.mark.parametrize("number", END)
def test_early_end_has_the_exit_status_of_serf(number: signal.Signals) -> None:
    with starting() as process:
        wait_for_program(process, "SigBlk", "SigCgt")
        process.send_signal(number)
        assert process.wait(20) == -number
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize("number", END)
def test_signal_ends_a_join_that_waits(number: signal.Signals) -> None:
    with (
        silent_seed() as seed,
        starting(
            f"--join={SILENT}:{seed.getsockname()[1]}", "--profile=wan", "--retry-interval=1s"
        ) as process,
    ):
        assert process.stdout is not None
        read_to(process.stdout, b"Joining cluster")
        connection, _ = seed.accept()
        with connection:
            process.send_signal(number)
            # The join waits 30 s for the seed: with less, it was still waiting.
            assert process.wait(20) == END[number]
            output = process.stdout.read()
        assert process.stderr is not None
        log = process.stderr.read()
    assert b"Caught signal" in output
    assert b"Join completed" not in output
    assert b"joining: [" in log
    assert b"failed to join" not in output


@pytest.mark.parametrize(
    ("number", "setting", "code"),
    [
        (signal.SIGTERM, "leave_on_terminate=true", 0),
        (signal.SIGINT, "skip_leave_on_interrupt=true", 1),
    ],
)
def test_settings_of_the_end_apply_to_a_join_that_waits(
    number: signal.Signals, setting: str, code: int
) -> None:
    with (
        silent_seed() as seed,
        starting(f"--join={SILENT}:{seed.getsockname()[1]}", f"--set={setting}") as process,
    ):
        assert process.stdout is not None
        read_to(process.stdout, b"Joining cluster")
        connection, _ = seed.accept()
        with connection:
            process.send_signal(number)
            assert process.wait(20) == code


def test_hangup_during_a_join_waits_for_its_end() -> None:
    with (
        silent_seed() as seed,
        starting(f"--join={SILENT}:{seed.getsockname()[1]}", "--profile=wan") as process,
    ):
        assert process.stdout is not None
        read_to(process.stdout, b"Joining cluster")
        connection, _ = seed.accept()
        with connection:
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGUSR1)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
            assert b"Reloading" not in process.stdout.read()


def test_other_commands_end_by_a_hangup() -> None:
    with (
        silent_seed() as seed,
        subprocess.Popen(
            [*TRIOSERF, "members", f"--rpc-addr={SILENT}:{seed.getsockname()[1]}"],
            stdout=subprocess.PIPE, cwd=ROOT,
        ) as process,
    ):  # fmt: skip
        connection, _ = seed.accept()
        with connection:
            process.send_signal(signal.SIGHUP)
            assert process.wait(20) == -signal.SIGHUP
