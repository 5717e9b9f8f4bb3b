"""What errors of the command line say about their remedy."""

import json
import sys
import time
from collections.abc import Generator, Iterator

import pytest

from tests.cli.helpers import CLOSED, OutputBuffer, run_command
from trioserf.cli.commands.monitor import log_record, utc_text
from trioserf.cli.hints import expression_errors, status_error, value_hint
from trioserf.cli.key_operations import run_key_operation
from trioserf.cli.output import CommandError
from trioserf.control.client.records import KeyReport, LogEntry, MemberInfo
from trioserf.control.client.requests import Action
from trioserf.control.errors import ControlError
from trioserf.results import Dropped, QueryResult

assert sys.platform != "win32"


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("query -timeout=5 x", "(did you mean 5s?)"),
        ("query -timeout=.5 x", "(did you mean .5s?)"),
        ("query -timeout=2d x", "(did you mean 48h?)"),
        ("query -timeout=soon x", "(expected a duration such as 300ms, 15s or 1h30m"),
        ("query -relay-factor=x x", "(expected a whole number)"),
        ("query --first=x x", "(expected a whole number)"),
        ("event -coalesce=no x", "(expected true or false)"),
        ("members -detailed=no", "(expected true or false)"),
    ],
)
def test_rejected_value_names_an_accepted_one(line: str, hint: str) -> None:
    printed = run_command(line.split())
    assert printed.code == 1
    assert hint in printed.err
    assert (
        json.loads(run_command([*line.split(), "--format=json"]).out)["error"]["code"] == "usage"
    )


def test_value_out_of_range_is_not_called_another_type() -> None:
    assert run_command(["query", "-relay-factor=99999999999999999999", "x"]).err == (
        'invalid value "99999999999999999999" for flag -relay-factor: value out of range\n'
    )


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("members", "is an agent running there? -rpc-addr or SERF_RPC_ADDR names another address"),
        ("members -rpc-addr=http://x:1", "an address is host:port, tls://host:port or unix:PATH"),
        ("members -tag x", "a tag is KEY=VALUE"),
        ("token list --file=x --format=xml", "the formats are text and json"),
        ("stream --format=text", "stream writes JSON only"),
    ],
)
def test_error_has_a_hint_on_standard_error_or_in_json(line: str, hint: str) -> None:
    printed = run_command(line.split(), SERF_RPC_ADDR=CLOSED)
    assert printed.code == 1
    assert printed.err.splitlines()[-1].startswith(f"trioserf: {hint}")
    if "format" not in line:
        printed = run_command([*line.split(), "--format=json"], SERF_RPC_ADDR=CLOSED)
        assert json.loads(printed.out)["error"]["hint"].startswith(hint)
        assert printed.err == ""


def test_duration_of_the_agent_without_unit_names_an_accepted_one() -> None:
    printed = run_command(["agent", "-retry-interval=5"])
    assert printed.code == 1
    assert printed.err == "trioserf: did you mean 5s?\n"


def test_errors_of_stream_are_json_on_standard_error_if_asked_for() -> None:
    printed = run_command(["stream", "--format=json"], SERF_RPC_ADDR=CLOSED)
    assert (printed.code, printed.out) == (1, "")
    assert json.loads(printed.err)["error"]["code"] == "unreachable"
    assert run_command(["stream"], SERF_RPC_ADDR=CLOSED).err.startswith("Error connecting")


def test_malformed_address_has_no_other_hint() -> None:
    printed = run_command(["members", "-rpc-addr=x:99999"])
    assert printed.code == 1
    assert "expected a port from 0 to 65535" in printed.out
    assert printed.err == ""


def test_valid_expressions_have_no_error() -> None:
    pairs = [
        ("-name", one) for one in ("", "web-1", "w.*", "a.+?", "(a|b)", "[ab]{2}", "é", "^x$")
    ]
    assert expression_errors(pairs) == ""


@pytest.mark.parametrize("expression", ["(", "[", "*a", "a**", "(?=x)", r"\1", "a\udcff("])
def test_invalid_expression_is_explained(expression: str) -> None:
    text = expression_errors([("-name", "fine"), ("-tag role", expression)])
    assert text.startswith(f"-tag role={expression} is not a valid regular expression: ")
    assert not text.endswith(": ")


def test_status_that_no_member_can_have_is_explained() -> None:
    for fine in ("alive", "a.*", "(left|failed)", "alive|left"):
        assert status_error(fine) == ""
    assert status_error("alve").endswith("failed (did you mean alive?)")
    assert status_error("ALIVE").startswith("-status=ALIVE matches no status")


def test_other_options_have_no_hint() -> None:
    assert value_hint("NAME", "x") == ""


def test_lines_of_the_log_have_the_shape_of_the_control_socket() -> None:
    line = LogEntry("2026-11-23T20:00:00.123Z", "INFO", "serf", "x")
    plain = {"time": line.time, "level": "INFO", "source": "serf", "message": "x"}
    assert log_record(line) == {"log": plain}
    named = line._replace(fields={"member": "a"})
    assert log_record(named) == {"log": {**plain, "member": "a"}}
    assert log_record(Dropped(17)) == {"event": "dropped", "count": 17}


@pytest.fixture
def timezone_of_nepal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "NPT-5:45")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("timezone_of_nepal")
def test_local_time_of_serf_becomes_utc() -> None:
    assert utc_text("2026/11/23 20:00:00") == "2026-11-23T14:15:00.000Z"
    assert utc_text("2026/11/23 20:00:00.5") == "2026-11-23T14:15:00.500Z"
    for other in ("", "2026-11-23T20:00:00.123Z", "now"):
        assert utc_text(other) == other


class FailingKeys:
    """A session whose key operations fail with one message of a member."""

    def __init__(self, message: str) -> None:
        self._message = message

    def keys(self, action: Action, key: str | None = None) -> KeyReport:
        raise ControlError("key_failed", "1/1 nodes failed", {"messages": {"a": self._message}})

    def members(self) -> list[MemberInfo]:
        raise NotImplementedError

    def query(self, name: str) -> Generator[QueryResult, None, None]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("No keyring to modify (encryption not enabled)", "start the agents with -encrypt=KEY"),
        ("key size must be 16, 24 or 32 bytes", "a key is 16, 24 or 32 bytes in base64"),
        ("Requested key is not in the keyring", "install the key first: keys -install=KEY"),
        ("requested key is not in the keyring", "install the key first: keys -install=KEY"),
        ("Removing the primary key is not allowed", "use another key first: keys -use=KEY"),
        ("a disk is full", ""),
    ],
)
def test_failed_key_operation_names_the_option_that_mends_it(message: str, hint: str) -> None:
    with pytest.raises(CommandError) as caught:
        run_key_operation(OutputBuffer().out, FailingKeys(message), "use", "key")
    assert caught.value.hint.startswith(hint)
    assert bool(caught.value.hint) == bool(hint)
