"""Output of commands, from the records of an agent."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.helpers import OutputBuffer
from trioserf.cli.commands.info import info_text
from trioserf.cli.commands.members import members_record, members_text
from trioserf.cli.commands.monitor import show
from trioserf.cli.commands.query import Responses
from trioserf.cli.commands.reachability import compare_acks
from trioserf.cli.connect import connection_error, parse_tags
from trioserf.cli.go_format import columns
from trioserf.cli.key_operations import failures_text, keys_text
from trioserf.cli.output import CommandError, check_format, reporting_errors
from trioserf.control.client.records import KeyReport, MemberInfo
from trioserf.control.errors import ControlError
from trioserf.results import QueryAck, QueryAnswer, QueryDone

WEB = MemberInfo("web", "10.0.0.1", 7946, {"role": "web", "dc": "é"}, "alive", 2, 5, 5)
DB = MemberInfo("db-long", "fe80::1", 7947, {}, "failed", 2, 5, 4)


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert columns([("a", "é", "x"), ("bbb", "cc", "yy")]) == "a    é   x\nbbb  cc  yy"


def test_empty_last_cell_keeps_its_gap_except_at_the_end() -> None:
    assert columns([("a", "b", ""), ("c", "d", "")]) == "a  b  \nc  d"


def test_no_rows_are_empty_text() -> None:
    assert columns([]) == ""


def test_members_are_aligned() -> None:
    assert members_text([WEB, DB]).splitlines() == [
        "web      10.0.0.1:7946   alive   dc=é,role=web",
        "db-long  [fe80::1]:7947  failed",
    ]


def test_details_follow_the_tags() -> None:
    first, second = members_text([DB, WEB], detailed=True).splitlines()
    tail = "  Protocol Version: {}  Available Protocol Range: [2, 5]"
    assert first == "db-long  [fe80::1]:7947  failed               " + tail.format(4)
    assert second == "web      10.0.0.1:7946   alive   dc=é,role=web" + tail.format(5)


def test_no_members_are_null_in_json() -> None:
    assert members_record([]) == {"members": None}


def test_members_in_json_have_the_key_order_of_serf() -> None:
    [shown] = members_record([WEB])["members"]
    assert list(shown) == ["name", "addr", "port", "tags", "status", "protocol"]
    assert list(shown["tags"]) == ["dc", "role"]
    assert shown["addr"] == "10.0.0.1:7946"
    assert shown["protocol"] == {"max": 5, "min": 2, "version": 5}


def test_info_is_grouped_and_sorted() -> None:
    groups: dict[str, dict[str, object]] = {
        "tags": {},
        "agent": {"name": "a"},
        "serf": {"members": 2, "failed": 0},
    }
    assert info_text(groups) == "agent:\n\tname = a\nserf:\n\tfailed = 0\n\tmembers = 2\ntags:"


def test_responses_lose_one_newline_and_keep_their_bytes() -> None:
    buffer = OutputBuffer()
    responses = Responses(buffer.out, acks_requested=True)
    for record in (QueryAck("a"), QueryAnswer("a", b"x\n\n"), QueryAnswer("b", b"\xff")):
        responses.handle(record)
    responses.handle(QueryDone(1, 2))
    responses.finish()
    assert buffer.text.splitlines() == [
        "Ack from 'a'",
        "Response from 'a': x",
        "",
        "Response from 'b': \udcff",
        "Total Acks: 1",
        "Total Responses: 2",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_controls_in_responses_are_escaped_on_terminals_only(terminal: bool) -> None:
    buffer = OutputBuffer(terminal=terminal)
    responses = Responses(buffer.out, acks_requested=False)
    responses.handle(QueryAnswer("a\nAck from 'b'", b"\x1b[1mx\n\ty\xc2\x9b\n"))
    payload = "\\x1b[1mx\n\ty\\x9b\n" if terminal else "\x1b[1mx\n\ty\x9b\n"
    assert buffer.text == "Response from 'a\\nAck from 'b'': " + payload


def test_responses_in_json_are_written_at_the_end() -> None:
    buffer = OutputBuffer(json=True)
    responses = Responses(buffer.out, acks_requested=True)
    for record in (QueryAck("b"), QueryAck("a"), QueryAnswer("b", b"<\xff\n")):
        responses.handle(record)
    assert buffer.text == ""
    responses.finish()
    assert json.loads(buffer.text) == {"Acks": ["b", "a"], "Responses": {"b": "<�\n"}}
    assert "\\u003c\\ufffd" in buffer.text


def test_missing_acks_are_null_in_json() -> None:
    assert Responses(OutputBuffer().out, acks_requested=False).record() == {
        "Acks": None,
        "Responses": {},
    }


def test_acks_of_all_live_members_are_success() -> None:
    report = compare_acks(["a", "b"], ["b", "a"])
    assert report.ok
    assert report.lines == ["Successfully contacted all live nodes"]


def test_silent_members_are_named() -> None:
    report = compare_acks(["a", "b", "c"], ["b"])
    assert not report.ok
    assert report.missing == ["a", "c"]
    assert report.lines[:3] == [
        "Received less acks than live nodes! Missing acks from:",
        "\ta",
        "\tc",
    ]


def test_members_that_ack_but_are_not_alive_are_named() -> None:
    report = compare_acks(["a"], ["a", "z"])
    assert not report.ok
    assert report.lines[:2] == [
        "Received more acks than live nodes! Acks from non-live nodes:",
        "\tz",
    ]


def test_names_with_two_acks_are_reported() -> None:
    report = compare_acks(["a", "b"], ["a", "a"])
    assert not report.ok
    assert report.lines[0] == "Duplicate response from 'a'"


@given(st.sets(st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_success_needs_one_ack_of_each_live_member(live: set[str], acks: list[str]) -> None:
    report = compare_acks(live, acks)
    assert report.ok == (len(acks) == len(live) and len(set(acks)) == len(acks))


def test_controls_in_text_of_members_are_escaped() -> None:
    member = MemberInfo("a\n\x1b", "10.0.0.1", 7946, {"k\t": "\u202e"}, "alive", 2, 5, 5)
    assert members_text([member]) == r"a\n\x1b  10.0.0.1:7946  alive  k\t=\u202e"
    assert info_text({"tags": {"k\n": "\x9b"}}) == "tags:\n\tk\\n = \\x9b"
    assert failures_text({"a\n": "no\x7f"}) == r"failed:  a\n  no\x7f"
    assert compare_acks(["a\x1b"], []).lines[1] == "\ta\\x1b"
    assert compare_acks([], ["a\x1b"]).lines[1] == "\ta\\x1b"
    assert compare_acks(["a"], ["a\n", "a\n"]).lines[0] == r"Duplicate response from 'a\n'"


def test_controls_in_errors_are_escaped() -> None:
    buffer = OutputBuffer()
    buffer.out.error(CommandError("1 error:\n\t* \x1b[2J\x9b"))
    assert buffer.text == "1 error:\n\t* \\x1b[2J\\x9b\n"


def test_controls_in_json_are_escaped() -> None:
    buffer = OutputBuffer(json=True)
    value = {"a\x7f": "\x1b\x80\x9f\u2028\u202e\u2069\n"}
    buffer.out.record(value, indent=None)
    assert buffer.text == (r'{"a\u007f":"\u001b\u0080\u009f\u2028\u202e\u2069\n"}' + "\n")
    assert json.loads(buffer.text) == value


def test_lines_of_the_log_do_not_look_like_several() -> None:
    buffer = OutputBuffer()
    lead = "2026/11/29 08:00:00 [WARN] agent: "
    show(buffer.out, {"Log": lead + "\x1b1 error:\n\t* x\n\n, y\n" + lead})
    assert buffer.text == lead + "\\x1b1 error:\n\t* x\n\n\t, y\n\t" + lead + "\n"


def test_keys_have_the_number_of_members() -> None:
    report = KeyReport({}, {"abc=": 2, "d=": 10}, {}, 10, 10, 0)
    assert keys_text(report) == "abc=  [2/10]\nd=    [10/10]"
    assert failures_text({}) == ""


def test_tags_are_parsed_as_pairs() -> None:
    assert parse_tags(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    for wrong in ("", "x", "=x"):
        with pytest.raises(CommandError, match="Error: Invalid tag"):
            parse_tags([wrong])


def test_refused_connection_has_the_text_of_go() -> None:
    lead = "Error connecting to Serf agent: "
    for address, text in (
        ("h:1", "dial tcp h:1: connect: connection refused"),
        ("unix:/x", "dial unix /x: connect: connection refused"),
    ):
        error = ControlError("unreachable", f"no agent at {address}: connection refused")
        assert connection_error(address, error).text == lead + text
    wrong = ControlError("auth_failed", "Invalid authentication token")
    assert connection_error("h:1", wrong).text == lead + "Invalid authentication token"


def test_command_errors_have_code_and_details() -> None:
    with pytest.raises(CommandError) as caught, reporting_errors("Error leaving"):
        raise ControlError("leaving", "not now", {"since": 3})
    assert caught.value.text == "Error leaving: not now"
    assert caught.value.record == {
        "error": {"code": "leaving", "message": "Error leaving: not now", "since": 3}
    }


def test_format_is_text_or_json() -> None:
    assert check_format("json", "{}") is True
    assert check_format("text", "{}") is False
    with pytest.raises(CommandError, match=r"^Invalid format: xml$"):
        check_format("xml", "Invalid format: {}")
