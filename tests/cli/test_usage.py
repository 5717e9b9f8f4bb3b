"""Usage texts, complaints, and the typer application."""

import json

import pytest
from typer.testing import CliRunner

from tests.cli.running import CLOSED, ran
from trioserf.cli.app import app
from trioserf.cli.commands import COMMANDS, flags
from trioserf.cli.usage import command_usage, program_usage


@pytest.mark.parametrize("name", COMMANDS)
def test_the_usage_names_every_option(name: str) -> None:
    command = COMMANDS[name]
    text = command_usage(command)
    assert text.startswith(f"Usage: trioserf {name} ")
    for flag in flags(command).values():
        assert f"  {'--' if flag.option.ours else '-'}{flag.option.flag}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_program_lists_its_commands() -> None:
    text = program_usage()
    assert all(f"    {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("line", ["-h", "-help", "--help"])
def test_help_is_no_error(line: str) -> None:
    printed = ran([line])
    assert (printed.code, printed.out, printed.err) == (0, program_usage() + "\n", "")


@pytest.mark.parametrize("line", ["members -h", "-h members", "members x --help -nosuch"])
def test_a_command_explains_itself(line: str) -> None:
    printed = ran(line.split())
    assert printed.code == 0
    assert printed.out == command_usage(COMMANDS["members"]) + "\n"


def test_a_mistyped_command_is_guessed() -> None:
    printed = ran(["membrs"])
    assert printed.code == 127
    assert printed.err.startswith("no such command: membrs (did you mean members?)\n")


def test_a_mistyped_option_is_guessed() -> None:
    printed = ran(["members", "-detail"])
    assert printed.code == 1
    assert printed.err == "flag provided but not defined: -detail (did you mean -detailed?)\n"
    assert printed.out.startswith("Usage: trioserf members")


@pytest.mark.parametrize(
    "line",
    [
        "members -nosuch -format=json",
        "event -format json",
        "keys --format json",
        "rtt -format json",
    ],
)
def test_misuse_is_told_in_json_too(line: str) -> None:
    printed = ran(line.split(), SERF_RPC_ADDR=CLOSED)
    assert printed.code == 1
    assert set(json.loads(printed.out)["error"]) == {"code", "message"}


def test_every_error_comes_in_json() -> None:
    for line in ("members", "event x", "join x", "leave", "query x", "monitor", "tags -set a=b"):
        printed = ran([*line.split()[:1], "-format=json", *line.split()[1:]], SERF_RPC_ADDR=CLOSED)
        assert printed.code == 1
        assert json.loads(printed.out)["error"]["code"] == "unreachable"


def test_keys_are_made_of_32_bytes() -> None:
    one, other = ran(["keygen"]).out, ran(["keygen", "-format=json"]).out
    assert len(one) == 45
    assert len(json.loads(other)["key"]) == 44
    assert one.strip() != json.loads(other)["key"]


def test_the_typer_application_runs_the_same_commands() -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["members", "-rpc-addr", CLOSED, "-tag", "a=b"])
    assert done.exit_code == 1
    assert done.output.startswith("Error connecting to Serf agent: dial tcp")
    assert runner.invoke(app, ["version"]).exit_code == 0
    assert runner.invoke(app, ["tags", "-h"]).output.startswith("Usage: trioserf tags")
    assert "reachability" in runner.invoke(app, ["--help"]).output


@pytest.mark.parametrize(
    ("typed", "place", "offered"),
    [("trioserf mem", 1, "members"), ("trioserf query --fi", 2, "--first")],
)
def test_shells_complete_commands_and_options(typed: str, place: int, offered: str) -> None:
    env = {
        "_TRIOSERF_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(place),
    }
    done = CliRunner().invoke(app, [], env=env, prog_name="trioserf")
    assert done.output.split() == [offered]


@pytest.mark.parametrize(
    ("line", "like"),
    [("help", "--help"), ("help members", "members --help")],
)
def test_help_may_be_asked_for_in_a_word(line: str, like: str) -> None:
    assert ran(line.split()) == ran(like.split())


def test_what_keys_do_not_know_is_named() -> None:
    printed = ran(["keys", "rotat"])
    assert printed.code == 1
    assert printed.out.startswith("Unknown words: rotat\n\nUsage: trioserf keys")
    printed = ran(["keys", "rotate", "--fromat=json", "-rpc-addr=x"])
    assert "not defined: -fromat (did you mean -format?)" in printed.err
