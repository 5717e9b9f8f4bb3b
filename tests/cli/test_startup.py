"""Client commands start quickly: what they import is counted, not how long it takes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import CLOSED
from trioserf.cli.commands import COMMANDS

HEAVY = frozenset(
    (
        *("trio", "attr", "attrs", "cattrs", "cryptography", "re2", "asyncio"),
        *("typer", "click", "rich", "pydantic", "argparse"),
        *("inspect", "dataclasses", "difflib", "subprocess"),
    )
)
ROOT = Path(__file__).parent.parent.parent
REPORT = """
import os, sys
from trioserf.cli.program import run
with open(os.devnull, "wb") as null:
    run(sys.argv[1:], null, null)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
LINES = [
    "version",
    "keygen",
    "members -format=json",
    "event deploy",
    "query load",
    "join x",
    "leave",
    "force-leave x",
    "tags -set a=b",
    "keys -list",
    "info",
    "monitor",
    "rtt a",
    "reachability",
    "stream",
]


@pytest.mark.parametrize("line", LINES)
def test_a_client_command_imports_nothing_heavy(line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *line.split()],
        env={"SERF_RPC_ADDR": CLOSED},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert HEAVY.isdisjoint(done.stdout.split())


def test_every_client_command_is_counted() -> None:
    assert {line.split()[0] for line in LINES} == set(COMMANDS) - {"agent"}


@pytest.mark.parametrize(("words", "code"), [(["version"], 0), (["members"], 1), ([], 127)])
def test_the_module_runs_as_a_program(words: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trioserf", *words],
        env={"SERF_RPC_ADDR": CLOSED},
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
