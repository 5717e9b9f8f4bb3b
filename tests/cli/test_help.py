"""Help texts, and errors of the command line."""

import json
import re

import pytest

from tests.cli.helpers import CLOSED, NAMES, command, help_text, run_command
from tests.interop.agents import ROOT
from trioserf.agent.config import AgentConfig
from trioserf.cli.agent_options import OPTIONS, apply_settings, flags, overrides_from
from trioserf.cli.go_flags import Flag
from trioserf.settings import settings_of


@pytest.mark.parametrize("name", NAMES)
def test_help_names_every_option_and_two_examples(name: str) -> None:
    text = help_text(name)
    assert text.startswith(f"Usage: trioserf {name} [options]")
    for option, flag in command(name).flags.items():
        assert re.search(rf" {'--' if flag.extension else '-'}{option}\b", text)
    assert max(map(len, text.splitlines())) <= 80
    assert (
        text.partition("Examples:")[2].count(f"\n    trioserf {name} ")
        + (text.endswith(f"trioserf {name}\n"))
        + text.count(f"\n    trioserf {name}\n")
        == 2
    )


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_names_a_page_that_exists(name: str) -> None:
    page, _, section = help_text(name).rpartition("More: ")[2].partition(", § ")
    content = (ROOT / page).read_text("utf-8")
    assert not section or re.search(rf"^#+ {re.escape(section)}$", content, re.MULTILINE)


def test_help_lists_the_commands_in_groups() -> None:
    text = help_text()
    assert all(re.search(rf"^  {name} ", text, re.MULTILINE) for name in NAMES)
    assert re.findall(r"^(\w.*):$", text, re.MULTILINE) == [
        *("Options", "Agent", "Cluster", "Events and queries", "Encryption keys", "Inspecting")
    ]


def test_help_of_agent_groups_its_options() -> None:
    assert re.findall(r"^(\w.*):$", help_text("agent"), re.MULTILINE) == [
        *("Membership", "Addresses", "Joining", "Encryption", "Handlers", "Control", "Files"),
        "Logs and metrics",
    ]


@pytest.mark.parametrize("line", ["-h", "-help", "--help"])
def test_help_option_prints_to_stdout_and_exits_with_0(line: str) -> None:
    printed = run_command([line])
    assert (printed.code, printed.out, printed.err) == (0, help_text() + "\n", "")


@pytest.mark.parametrize("line", ["members -h", "-h members", "members x --help -nosuch"])
def test_help_option_is_found_anywhere(line: str) -> None:
    printed = run_command(line.split())
    assert printed.code == 0
    assert printed.out == help_text("members") + "\n"


@pytest.mark.parametrize(
    ("line", "like"), [("help", "--help"), ("help members", "members --help")]
)
def test_help_is_also_a_command(line: str, like: str) -> None:
    assert run_command(line.split()) == run_command(like.split())


def test_most_similar_command_is_suggested() -> None:
    printed = run_command(["membrs"])
    assert printed.code == 127
    assert printed.err.startswith("no such command: membrs (did you mean members?)\n")


def test_most_similar_option_is_suggested() -> None:
    printed = run_command(["members", "-detail"])
    assert printed.code == 1
    assert printed.err == "flag provided but not defined: -detail (did you mean -detailed?)\n"
    assert printed.out.startswith("Usage: trioserf members")


def test_unknown_words_of_keys_are_named() -> None:
    printed = run_command(["keys", "rotat"])
    assert (printed.code, printed.err) == (1, "unknown words: rotat\n")
    assert printed.out.startswith("Usage: trioserf keys")
    printed = run_command(["keys", "rotate", "--fromat=json", "-rpc-addr=x"])
    assert "not defined: -fromat (did you mean -format?)" in printed.err


@pytest.mark.parametrize(
    "line",
    [
        "members -nosuch -format=json",
        "event -format json",
        "keys --format json",
        "rtt -format json",
    ],
)
def test_usage_errors_are_in_json_if_asked_for(line: str) -> None:
    printed = run_command(line.split(), SERF_RPC_ADDR=CLOSED)
    assert printed.code == 1
    assert set(json.loads(printed.out)["error"]) - {"hint"} == {"code", "message"}


def test_errors_of_every_command_are_in_json_if_asked_for() -> None:
    for line in ("members", "event x", "join x", "leave", "query x", "monitor", "tags -set a=b"):
        name, *words = line.split()
        printed = run_command([name, "-format=json", *words], SERF_RPC_ADDR=CLOSED)
        assert printed.code == 1
        assert json.loads(printed.out)["error"]["code"] == "unreachable"


def test_keygen_makes_keys_of_32_bytes() -> None:
    one, other = run_command(["keygen"]).out, run_command(["keygen", "-format=json"]).out
    assert len(one) == 45
    assert len(json.loads(other)["key"]) == 44
    assert one.strip() != json.loads(other)["key"]


def test_every_agent_option_sets_a_key_of_the_configuration() -> None:
    keys = settings_of(AgentConfig).keys()
    options = [option for group in OPTIONS.values() for option in group]
    assert {option.key.partition(".")[0] for option in options if option.key} <= keys
    assert {option.parameter for option in options if not option.key} == {
        *("role", "config_file", "set")
    }


def test_agent_parses_its_options_as_typer_declares_them() -> None:
    def comparable(flag: Flag) -> tuple[object, ...]:
        return (*flag._replace(hint=str), flag.hint("1d"))

    own, declared = flags(), command("agent").flags
    assert list(own) == list(declared)
    for name, flag in own.items():
        assert comparable(flag) == comparable(declared[name])


def test_empty_and_zero_options_set_no_key_except_explicit_choices() -> None:
    values = {
        option.parameter: option.kind.default for group in OPTIONS.values() for option in group
    }
    assert overrides_from(values) == ({}, [])
    values |= {"retry_max": 0, "rejoin": False, "verify_incoming": False, "node": ""}
    assert overrides_from(values) == ({"verify_incoming": False}, [])
    values |= {"mdns_iface": "lo", "tag": ["a=b"], "disable_compression": True}
    overrides, errors = overrides_from(values | {"retry_interval": "x", "broadcast_timeout": "y"})
    assert overrides == {
        "verify_incoming": False,
        "mdns": {"interface": "lo"},
        "tags": {"a": "b"},
        "enable_compression": False,
    }
    assert sorted(errors) == [
        ("broadcast_timeout", 'Error: time: invalid duration "y"'),
        ("retry_interval", 'Error: time: invalid duration "x"'),
    ]


def test_settings_are_json_or_text_and_may_be_nested() -> None:
    overrides: dict[str, object] = {"mdns": {"interface": "lo"}}
    apply_settings(overrides, ["mdns.disable_ipv4=true", "profile=wan", "handler_limit=3"])
    assert overrides == {
        "mdns": {"interface": "lo", "disable_ipv4": True},
        "profile": "wan",
        "handler_limit": 3,
    }
    for setting, text in (
        ("x", "expected KEY=VALUE"),
        ("=x", "expected KEY=VALUE"),
        ("mdns.=x", "expected KEY=VALUE"),
        ("profile.x=1", "profile has no keys"),
    ):
        [(_, error)] = apply_settings(overrides, [setting])
        assert text in error
    [(_, error)] = apply_settings(overrides, ["profile.x=secret"])
    assert "secret" not in error
