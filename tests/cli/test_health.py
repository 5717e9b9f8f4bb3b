"""`health`: exit codes and outputs, of real agents of both programs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cli.helpers import CLOSED, run_command
from tests.interop.agents import ROOT, TRIOSERF, agent, net, read_to, until
from trioserf.cli.commands.health import UNKNOWN

assert sys.platform != "win32"

HOST = net(6)


def ask(*words: str, addr: str) -> tuple[int, Any]:
    printed = run_command(["health", "--format=json", *words], SERF_RPC_ADDR=addr)
    return printed.code, json.loads(printed.out)


@contextmanager
def running(number: int, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run an agent with local timings until the block ends."""
    host = f"{HOST}.{number}"
    words = ("agent", f"-bind={host}:7946", f"-rpc-addr={host}:7373", f"-node=h{number}")
    with subprocess.Popen(
        [*TRIOSERF, *words, "-profile=local", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    ) as process:
        try:
            assert process.stdout is not None
            read_to(process.stdout, b"Log data will now stream")
            yield process
        finally:
            process.kill()


@pytest.mark.interop
def test_agent_whose_only_neighbour_crashes_is_degraded() -> None:
    addr = f"{HOST}.1:7373"
    with running(1), running(2, f"-join={HOST}.1") as other:
        until(lambda: ask(addr=addr)[1]["members"]["alive"] == 2)
        code, found = ask(addr=addr)
        assert (code, found["healthy"], found["reasons"]) == (0, True, [])
        assert (found["phase"], found["joined"], found["score"]) == ("alive", True, 0)
        assert found["members"] == {"alive": 2, "suspect": 0, "dead": 0, "left": 0}
        assert {"inbox", "membership", "intent", "event", "query"} <= set(found["queues"])
        printed = run_command(["health"], SERF_RPC_ADDR=addr)
        assert printed.code == 0
        assert printed.out.startswith("healthy\nphase: alive\njoined: yes\nhealth score: 0\n")
        other.kill()
        until(lambda: ask(addr=addr)[0] == 1, 60)
        printed = run_command(["health"], SERF_RPC_ADDR=addr)
        assert printed.out.startswith("degraded\n  no other member is alive; 1 failed\n")


@pytest.mark.interop
def test_agent_that_still_joins_is_degraded() -> None:
    with running(3, f"-retry-join={HOST}.9:1", "-retry-interval=1h"):
        code, found = ask(addr=f"{HOST}.3:7373")
        assert (code, found["joined"]) == (1, False)
        assert found["reasons"] == [
            "none of the addresses in start_join and retry_join was joined yet"
        ]


@pytest.mark.interop
def test_agent_that_does_not_answer_is_unknown() -> None:
    addr = f"{HOST}.4:7373"
    with running(4) as stopped:
        os.kill(stopped.pid, signal.SIGSTOP)
        code, found = ask("--timeout=200ms", addr=addr)
        assert (code, found["error"]["code"]) == (UNKNOWN, "timeout")
        os.kill(stopped.pid, signal.SIGCONT)


@pytest.mark.interop
def test_agent_that_refuses_the_key_is_unknown() -> None:
    with running(5, "--rpc-auth=s3cret"):
        addr = f"{HOST}.5:7373"
        assert ask(addr=addr)[0] == UNKNOWN
        assert ask("-rpc-auth=s3cret", addr=addr)[0] == 0


@pytest.mark.serf
@pytest.mark.interop
def test_agent_of_serf_is_judged_by_its_statistics() -> None:
    with agent(f"{HOST}.6", "go-h") as addr:
        until(lambda: ask(addr=addr)[0] == 0)
        code, found = ask(addr=addr)
        assert (code, found["joined"], found["score"]) == (0, None, 0)
        assert found["members"] == {"alive": 1, "dead": 0, "left": 0}


def test_missing_agent_is_unknown() -> None:
    code, found = ask(addr=CLOSED)
    assert (code, found["error"]["code"]) == (UNKNOWN, "unreachable")


def test_time_limit_must_be_above_zero() -> None:
    assert ask("--timeout=0s", addr=CLOSED)[0] == 1
