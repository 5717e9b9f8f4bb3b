"""Values in Go's text formats."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserf.agent.durations import parse_duration
from trioserf.cli.go_format import (
    go_json,
    go_syntax,
    parse_bool,
    parse_int,
    quote,
    sorted_keys,
    to_bytes,
    to_text,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("+0", 0.0),
        ("300ms", 0.3),
        ("1.5h", 5400.0),
        ("1h1m1.5s1ms1us1ns", 3661.501001001),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("1µs", 1e-6),
        ("1μs", 1e-6),
        ("-2s", -2.0),
        ("+1s", 1.0),
    ],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, abs=1e-12)


@pytest.mark.parametrize(
    "text", ["", "5", "1d", "1 s", "s", ".s", "1s ", "--1s", "1e3s", "9999999h", "1s2", "٣s"]
)
def test_invalid_durations_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="parse error"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("10", 10), ("-1", -1), ("+1", 1), ("0x10", 16), ("020", 16), ("0o20", 16),
     ("0b11", 3), ("1_0", 10), (str(2**63 - 1), 2**63 - 1), (str(-(2**63)), -(2**63))],
)  # fmt: skip
def test_integers_are_parsed_in_every_notation_of_go(text: str, value: int) -> None:
    assert parse_int(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "parse error"), ("x", "parse error"), ("1.0", "parse error"), ("--1", "parse error"),
     (" 1", "parse error"), ("09", "parse error"), ("٣", "parse error"),
     (str(2**63), "value out of range")],
)  # fmt: skip
def test_invalid_integers_are_rejected(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_int(text)


def test_booleans_have_six_names_each() -> None:
    assert all(map(parse_bool, ("1", "t", "T", "true", "True", "TRUE")))
    assert not any(map(parse_bool, ("0", "f", "F", "false", "False", "FALSE")))
    with pytest.raises(ValueError, match="parse error"):
        parse_bool("yes")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [("nope", '"nope"'), ('no"p', '"no\\"p"'), ("a\tb\n", '"a\\tb\\n"'), ("é", '"é"'),
     ("\x01", '"\\x01"'), ("\x7f", '"\\x7f"'), ("\udcff", '"\\xff"'), ("\u200b", '"\\u200b"'),
     ("\U000e0001", '"\\U000e0001"')],
)  # fmt: skip
def test_text_is_quoted_as_in_go(text: str, quoted: str) -> None:
    assert quote(text) == quoted


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [], "b": {}, "c": None}, '{\n  "a": [],\n  "b": {},\n  "c": null\n}'),
        ("<b>&", '"\\u003cb\\u003e\\u0026"'),
        ("\udcff\x01\b\f", '"\\ufffd\\u0001\\u0008\\u000c"'),
        ("\\b\\f", '"\\\\b\\\\f"'),
        ("\u2028é", '"\\u2028é"'),
    ],
)
def test_json_is_encoded_as_in_go(value: Any, text: str) -> None:
    assert go_json(value) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.sampled_from([None, 2]))
def test_any_value_survives_json(value: Any, indent: int | None) -> None:
    text = go_json(value, indent=indent)
    assert json.loads(text) == value
    assert indent or "\n" not in text


def test_keys_are_sorted_in_nested_objects() -> None:
    assert list(sorted_keys({"b": 1, "a": [{"d": 1, "c": 2}]})) == ["a", "b"]
    assert list(sorted_keys({"b": 1, "a": [{"d": 1, "c": 2}]})["a"][0]) == ["c", "d"]


@given(st.binary())
def test_bytes_survive_text(data: bytes) -> None:
    assert to_bytes(to_text(data)) == data


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "<nil>"),
        (True, "true"),
        (127, "127"),
        (7946, "0x1f0a"),
        ('y"<ü>\n', '"y\\"<ü>\\n"'),
        (b"\x09x", "[]byte{0x9, 0x78}"),
        ([], "[]interface {}{}"),
        (
            [{"Port": 7946, "Addr": b"\x7f", "Tags": {}, "Payload": None}],
            '[]interface {}{map[interface {}]interface {}{"Addr":[]uint8{0x7f}, '
            '"Payload":interface {}(nil), "Port":0x1f0a, "Tags":map[interface {}]interface {}{}}}',
        ),
    ],
)
def test_values_have_the_syntax_of_go(value: Any, text: str) -> None:
    assert go_syntax(value) == text
