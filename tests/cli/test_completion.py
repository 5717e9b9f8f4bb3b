"""Completion, through the environment variables that shells set."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.cli.helpers import CLOSED
from tests.interop.agents import ROOT, TRIOSERF, agent, net, until

pytestmark = pytest.mark.interop
HERE = f"{net(7)}.81"
UNSAFE_TAGS = ["-tag=z$(touch x)=1", "-tag=z;x=1", "-tag=z\x1b[2J=1", "-tag=-z=1"]
"""Tags whose keys a shell or a terminal would interpret: they are not completed."""


def complete(*words: str, current: int | None = None, **env: str) -> list[str]:
    """Return the completions for bash of the last word, or of word `current`."""
    place = len(words) if current is None else current
    done = subprocess.run(
        [*TRIOSERF],
        env={
            **os.environ,
            "_TRIOSERF_COMPLETE": "complete_bash",
            "COMP_WORDS": "\n".join(("trioserf", *words)),
            "COMP_CWORD": str(place),
            "SERF_RPC_ADDR": CLOSED,
            **env,
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=ROOT,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("mem",), ["members"]),
        (("ke",), ["keygen", "keys"]),
        (("query", "--fi"), ["--first"]),
        (("members", "-de"), ["-detailed"]),
        (("members", "--de"), ["--detailed"]),
        (("members", "-detailed", "-format", ""), ["text", "json"]),
        (("members", "--format", "j"), ["json"]),
        (("members", "-format", "=", "j"), ["json"]),
        (("members", "--format", "="), ["text", "json"]),
        (("members", "-rpc-addr", "=", "127.17.0.250", ":", "7373", "-status", "le"),
         ["leaving", "left"]),
        (("agent", "-profile", ""), ["lan", "wan", "local"]),
        (("agent", "--log-level", "w"), ["warn"]),
        (("agent", "-event-handler", "member-l"), ["member-leave="]),
        (("agent", "-iface", "l"), ["lo"]),
        (("monitor", "-log-level", "d"), ["debug"]),
        (("keys", ""), ["rotate"]),
        (("keys", "-rpc-auth", "x", "ro"), ["rotate"]),
        (("stream", "--type", "us"), ["user"]),
        (("stream", "quer"), ["query"]),
        (("nosuch", "-f"), []),
    ],
)  # fmt: skip
def test_bash_completes_commands_options_and_fixed_values(
    words: tuple[str, ...], offered: list[str]
) -> None:
    assert complete(*words) == offered


@pytest.mark.parametrize(("shell", "offered"), [("zsh", '"local"'), ("fish", "local")])
def test_other_shells_complete_values(shell: str, offered: str) -> None:
    env = {
        "_TRIOSERF_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "trioserf agent -profile lo",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run(
        [*TRIOSERF],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert offered in done.stdout
    assert done.stderr == ""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with agent(HERE, "complete-me", "-tag=zone=a", *UNSAFE_TAGS, program=TRIOSERF) as rpc:
        until(
            lambda: (
                subprocess.run(
                    [*TRIOSERF, "members", f"-rpc-addr={rpc}"], capture_output=True, check=False
                ).returncode
                == 0
            )
        )
        yield rpc


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("force-leave", "com"), ["complete-me"]),
        (("rtt", ""), ["complete-me"]),
        (("rtt", "x", "c"), ["complete-me"]),
        (("query", "-node", "c"), ["complete-me"]),
        (("query", "--node", "=", "c"), ["complete-me"]),
        (("members", "-name", ""), ["complete-me"]),
        (("members", "-name", "x"), []),
        (("members", "-tag", "z"), ["zone="]),
        (("tags", "-delete", ""), ["zone"]),
    ],
)
def test_names_come_from_the_agent(
    address: str, words: tuple[str, ...], offered: list[str]
) -> None:
    assert complete(*words, SERF_RPC_ADDR=address) == offered


def test_names_are_those_of_the_agent_in_the_command_line(address: str) -> None:
    host, _, port = address.partition(":")
    line = ("rtt", "-rpc-addr", "=", host, ":", port, "")
    assert complete(*line) == ["complete-me"]


def test_nothing_is_completed_without_an_agent() -> None:
    assert complete("rtt", "") == []


def test_silent_agent_delays_completion_by_the_time_limit_only() -> None:
    listen = "import socket, sys, time; s = socket.create_server((sys.argv[1], 7373));"
    listen += "print(flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", listen, f"{net(7)}.82"], stdout=subprocess.PIPE
    ) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            start = time.monotonic()
            assert complete("rtt", "", SERF_RPC_ADDR=f"{net(7)}.82:7373") == []
            assert time.monotonic() - start < 10
        finally:
            server.kill()


def test_completion_script_is_shown() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m trioserf --show-completion; true"],
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=ROOT,
    )
    assert "_TRIOSERF_COMPLETE=complete_bash" in done.stdout
