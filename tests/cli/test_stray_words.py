"""Words that a command does not take, and options after the first word."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.cli.helpers import CLOSED, NAMES, run_command
from trioserf.cli.main import run

TAKE_WORDS = {"event", "query", "join", "force-leave", "rtt", "stream", "token", "keys", "service"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - TAKE_WORDS))
def test_stray_word_is_refused_before_anything_is_done(name: str) -> None:
    """A command that connects would report that there is no agent."""
    printed = run_command([name, "extra", "-nosuch"], SERF_RPC_ADDR=CLOSED)
    assert printed.code == 1
    assert printed.err.startswith("unexpected word: extra")
    assert printed.err.count("\n") == 1
    assert f"Usage: trioserf {name}" in printed.out


def test_stray_word_of_agent_starts_no_agent(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    def start(
        paths: Sequence[str], overrides: Mapping[str, Any], errors: Sequence[tuple[str, str]]
    ) -> int:
        raise AssertionError(f"started with {paths} {overrides} {errors}")

    import sys

    code = run(["agent", "joinme", "--node=foo"], sys.stdout.buffer, sys.stderr.buffer, start)
    assert code == 1
    assert b"to join: -join=joinme" in capfdbinary.readouterr().err


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("leave web-3", "for a failed member: force-leave web-3"),
        ("members web-3", "for one member: members -name=web-3"),
        ("members -detailed false", "a switch takes its value after =, such as -option=false"),
        ("keys rotate now", "unknown words: rotate now"),
        ("keys -list rotate now", "unknown words: rotate now"),
    ],
)
def test_refusal_names_what_was_meant(line: str, text: str) -> None:
    printed = run_command(line.split(), SERF_RPC_ADDR=CLOSED)
    assert printed.code == 1
    assert text in printed.err


def test_rotation_excludes_other_operations() -> None:
    printed = run_command(["keys", "-list", "rotate"], SERF_RPC_ADDR=CLOSED)
    assert printed.code == 1
    assert printed.out.startswith("keys rotate takes none of -install, -use, -remove, -list\n")


def test_refusal_is_in_json_if_asked_for() -> None:
    printed = run_command(["leave", "--format=json", "web-3"], SERF_RPC_ADDR=CLOSED)
    assert printed.code == 1
    assert json.loads(printed.out)["error"]["code"] == "usage"
    assert printed.err == ""


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("query load --format=json", "'--format=json' is taken as the payload"),
        ("event e2 --coalesce=false", "'--coalesce=false' is taken as the payload"),
        ("event e2 -format=json", "'-format=json' is taken as the payload"),
        ("query load -timeout 5s", "'-timeout' is taken as the payload"),
        ("join 10.0.0.1 -replay", "'-replay' is taken as an address"),
        ("force-leave web-3 -prune", "'-prune' is taken as a name"),
        ("rtt web-3 -rpc-addr=x", "'-rpc-addr=x' is taken as a name"),
    ],
)
def test_option_after_the_first_word_is_explained(line: str, taken: str) -> None:
    [first, *_] = run_command(line.split(), SERF_RPC_ADDR=CLOSED).err.splitlines()
    assert first.startswith(f"trioserf: {taken}; options go before ")


@pytest.mark.parametrize(
    "line",
    [
        "query -- load --format=json",
        "query load --nosuch",
        "event e2 --format=json",
        "event e2 -5",
        "query -format=json load",
    ],
)
def test_words_that_are_meant_are_not_explained(line: str) -> None:
    assert "taken as" not in run_command(line.split(), SERF_RPC_ADDR=CLOSED).err
