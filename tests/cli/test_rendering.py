"""What commands print, from what an agent told them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.running import Page
from trioserf.cli.asking import Answers
from trioserf.cli.calling import refused, tags_of
from trioserf.cli.columns import columns
from trioserf.cli.key_steps import failures_text, keys_text
from trioserf.cli.looking import info_text, judge
from trioserf.cli.members import members_record, members_text
from trioserf.cli.output import Failure, check_format, failing
from trioserf.control.client.records import KeyReport, MemberInfo, QueryAck, QueryAnswer, QueryDone
from trioserf.control.errors import ControlError

WEB = MemberInfo("web", "10.0.0.1", 7946, {"role": "web", "dc": "é"}, "alive", 2, 5, 5)
DB = MemberInfo("db-long", "fe80::1", 7947, {}, "failed", 2, 5, 4)


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert columns([("a", "é", "x"), ("bbb", "cc", "yy")]) == "a    é   x\nbbb  cc  yy"


def test_an_empty_last_cell_leaves_its_gap_except_at_the_very_end() -> None:
    assert columns([("a", "b", ""), ("c", "d", "")]) == "a  b  \nc  d"


def test_no_rows_are_no_text() -> None:
    assert columns([]) == ""


def test_members_are_lined_up() -> None:
    assert members_text([WEB, DB]).splitlines() == [
        "web      10.0.0.1:7946   alive   dc=é,role=web",
        "db-long  [fe80::1]:7947  failed",
    ]


def test_details_come_behind_the_tags() -> None:
    first, second = members_text([DB, WEB], detailed=True).splitlines()
    tail = "  Protocol Version: {}  Available Protocol Range: [2, 5]"
    assert first == "db-long  [fe80::1]:7947  failed               " + tail.format(4)
    assert second == "web      10.0.0.1:7946   alive   dc=é,role=web" + tail.format(5)


def test_no_members_are_null_in_json() -> None:
    assert members_record([]) == {"members": None}


def test_members_in_json_keep_serf_s_order_of_keys() -> None:
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


def test_answers_lose_one_newline_and_keep_their_bytes() -> None:
    page = Page()
    answers = Answers(page.out, acks_wanted=True)
    for record in (QueryAck("a"), QueryAnswer("a", b"x\n\n"), QueryAnswer("b", b"\xff")):
        answers.take(record)
    answers.take(QueryDone(1, 2))
    answers.finish()
    assert page.text.splitlines() == [
        "Ack from 'a'",
        "Response from 'a': x",
        "",
        "Response from 'b': \udcff",
        "Total Acks: 1",
        "Total Responses: 2",
    ]


def test_answers_in_json_come_at_the_end() -> None:
    page = Page(json=True)
    answers = Answers(page.out, acks_wanted=True)
    for record in (QueryAck("b"), QueryAck("a"), QueryAnswer("b", b"<\xff\n")):
        answers.take(record)
    assert page.text == ""
    answers.finish()
    assert json.loads(page.text) == {"Acks": ["b", "a"], "Responses": {"b": "<�\n"}}
    assert "\\u003c\\ufffd" in page.text


def test_nobody_s_answers_in_json() -> None:
    assert Answers(Page().out, acks_wanted=False).record() == {"Acks": None, "Responses": {}}


def test_all_live_members_were_reached() -> None:
    verdict = judge(["a", "b"], ["b", "a"])
    assert verdict.ok
    assert verdict.lines == ["Successfully contacted all live nodes"]


def test_silent_members_are_named() -> None:
    verdict = judge(["a", "b", "c"], ["b"])
    assert not verdict.ok
    assert verdict.missing == ["a", "c"]
    assert verdict.lines[:3] == [
        "Received less acks than live nodes! Missing acks from:",
        "\ta",
        "\tc",
    ]


def test_answers_of_the_dead_are_named() -> None:
    verdict = judge(["a"], ["a", "z"])
    assert not verdict.ok
    assert verdict.lines[:2] == [
        "Received more acks than live nodes! Acks from non-live nodes:",
        "\tz",
    ]


def test_names_that_answer_twice_are_told() -> None:
    verdict = judge(["a", "b"], ["a", "a"])
    assert not verdict.ok
    assert verdict.lines[0] == "Duplicate response from 'a'"


@given(st.sets(st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_a_good_verdict_needs_as_many_answers_as_members(live: set[str], acks: list[str]) -> None:
    verdict = judge(live, acks)
    assert verdict.ok == (len(acks) == len(live) and len(set(acks)) == len(acks))


def test_keys_show_their_holders() -> None:
    report = KeyReport({}, {"abc=": 2, "d=": 10}, {}, 10, 10, 0)
    assert keys_text(report) == "abc=  [2/10]\nd=    [10/10]"
    assert failures_text({}) == ""


def test_tags_are_pairs() -> None:
    assert tags_of(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    for wrong in ("", "x", "=x"):
        with pytest.raises(Failure, match="Error: Invalid tag"):
            tags_of([wrong])


def test_a_refused_connection_is_told_as_go_tells_it() -> None:
    lead = "Error connecting to Serf agent: "
    for address, told in (
        ("h:1", "dial tcp h:1: connect: connection refused"),
        ("unix:/x", "dial unix /x: connect: connection refused"),
    ):
        error = ControlError("unreachable", f"no agent at {address}: connection refused")
        assert refused(address, error).text == lead + told
    wrong = ControlError("auth_failed", "Invalid authentication token")
    assert refused("h:1", wrong).text == lead + "Invalid authentication token"


def test_failures_carry_code_and_details() -> None:
    with pytest.raises(Failure) as caught, failing("Error leaving"):
        raise ControlError("leaving", "not now", {"since": 3})
    assert caught.value.text == "Error leaving: not now"
    assert caught.value.record == {
        "error": {"code": "leaving", "message": "Error leaving: not now", "since": 3}
    }


def test_formats_are_text_and_json() -> None:
    assert check_format("json", "{}") is True
    assert check_format("text", "{}") is False
    with pytest.raises(Failure, match=r"^Invalid format: xml$"):
        check_format("xml", "Invalid format: {}")
