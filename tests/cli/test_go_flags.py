"""Command lines in the grammar of Go's flag package."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserf.cli.go_flags import Flag, FlagError, Invocation, Parsed, parse, split
from trioserf.cli.go_format import parse_int

FLAGS = {
    "rpc-addr": Flag("addr", default="here", env="ADDR"),
    "tag": Flag("tag", default=[], repeatable=True),
    "detailed": Flag("detailed", default=False, boolean=True),
    "coalesce": Flag("coalesce", default=True, boolean=True),
    "relay": Flag("relay", default=0, parse=parse_int),
    "first": Flag("first", default=None, extension=True, parse=parse_int),
}


def parse_changes(*words: str, **env: str) -> tuple[dict[str, Any], list[str]]:
    """Return the values that differ from the defaults, and the words."""
    defaults = parse(FLAGS, [])
    parsed = parse(FLAGS, words, env)
    changed = {k: v for k, v in parsed.values.items() if v != defaults.values[k]}
    return changed, parsed.words


@pytest.mark.parametrize(
    ("line", "changed", "rest"),
    [
        ("-rpc-addr=x", {"addr": "x"}, []),
        ("-rpc-addr x", {"addr": "x"}, []),
        ("--rpc-addr=x", {"addr": "x"}, []),
        ("--rpc-addr x", {"addr": "x"}, []),
        ("-rpc-addr -detailed", {"addr": "-detailed"}, []),
        ("-rpc-addr -- a", {"addr": "--"}, ["a"]),
        ("-rpc-addr= a", {"addr": ""}, ["a"]),
        ("-rpc-addr=a=b", {"addr": "a=b"}, []),
        ("-rpc-addr=x -rpc-addr=y", {"addr": "y"}, []),
        ("-tag a=b -tag=c=d --tag e", {"tag": ["a=b", "c=d", "e"]}, []),
        ("-detailed", {"detailed": True}, []),
        ("-detailed=true", {"detailed": True}, []),
        ("-detailed=1 x", {"detailed": True}, ["x"]),
        ("-detailed false", {"detailed": True}, ["false"]),
        ("-coalesce=false a b", {"coalesce": False}, ["a", "b"]),
        ("-coalesce=F -coalesce", {}, []),
        ("a -detailed", {}, ["a", "-detailed"]),
        ("a -- -detailed", {}, ["a", "--", "-detailed"]),
        ("-- -detailed", {}, ["-detailed"]),
        ("-detailed -- -- b", {"detailed": True}, ["--", "b"]),
        ("- -detailed", {}, ["-", "-detailed"]),
        ("-relay -3", {"relay": -3}, []),
        ("-relay 0x10 a", {"relay": 16}, ["a"]),
        ("a -5", {}, ["a", "-5"]),
        ("--first 2 a", {"first": 2}, ["a"]),
        ("-first=2 a", {"first": 2}, ["a"]),
        ("a --first 2", {"first": 2}, ["a"]),
        ("a --first=2 b", {"first": 2}, ["a", "b"]),
        ("a -first 2", {}, ["a", "-first", "2"]),
        ("a -- --first 2", {}, ["a", "--", "--first", "2"]),
        ("-- a --first 2", {}, ["a", "--first", "2"]),
        ("a --rpc-addr x", {}, ["a", "--rpc-addr", "x"]),
    ],
)
def test_options_are_parsed_as_in_go(line: str, changed: dict[str, Any], rest: list[str]) -> None:
    assert parse_changes(*line.split()) == (changed, rest)


@pytest.mark.parametrize(
    ("line", "late"),
    [
        ("a --rpc-addr=x", ["--rpc-addr=x"]),
        ("a b -detailed --tag", ["-detailed", "--tag"]),
        ("-detailed a -first 2", ["-first"]),
        ("a --first 2 -detailed", ["-detailed"]),
        ("a --nosuch -5 - x=y", []),
        ("-- a --rpc-addr=x", []),
        ("a -- --rpc-addr=x", []),
        ("a --first 2", []),
    ],
)
def test_options_after_the_first_word_are_reported(line: str, late: list[str]) -> None:
    assert parse(FLAGS, line.split()).late == late


@pytest.mark.parametrize(
    ("extension_word", "line", "rest"),
    [
        ("*", "a -rpc-addr x b", ["a", "b"]),
        ("*", "a b --rpc-addr=x", ["a", "b"]),
        ("*", "a -- --rpc-addr=x", ["a", "--rpc-addr=x"]),
        ("a", "a -rpc-addr x b", ["a", "b"]),
        ("a", "b -rpc-addr x a", ["b", "-rpc-addr", "x", "a"]),
    ],
)
def test_options_of_extension_commands_are_parsed_anywhere(
    extension_word: str, line: str, rest: list[str]
) -> None:
    parsed = parse(FLAGS, line.split(), extension_word=extension_word)
    assert parsed.words == rest
    assert (parsed.values["addr"] == "x") == (not {"-rpc-addr", "--rpc-addr=x"} & set(rest))


def test_unknown_option_among_words_of_extension_command_is_an_error() -> None:
    with pytest.raises(FlagError, match="not defined: -nosuch"):
        parse(FLAGS, ["a", "--nosuch"], extension_word="a")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-nosuch", "flag provided but not defined: -nosuch"),
        ("--nosuch=3", "flag provided but not defined: -nosuch"),
        ("-rpc-addr", "flag needs an argument: -rpc-addr"),
        ("---x", "bad flag syntax: ---x"),
        ("-=x", "bad flag syntax: -=x"),
        ("--=x", "bad flag syntax: --=x"),
        ("-detailed=maybe", 'invalid boolean value "maybe" for -detailed: parse error'),
        ("-relay=x", 'invalid value "x" for flag -relay: parse error'),
        ("a --first", "flag needs an argument: -first"),
    ],
)
def test_errors_have_the_text_of_go(line: str, message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(FLAGS, line.split())
    assert str(caught.value) == message


def test_error_names_the_unknown_option() -> None:
    with pytest.raises(FlagError) as caught:
        parse(FLAGS, ["-tags", "x"])
    assert caught.value.unknown == "tags"


def test_empty_word_ends_the_options() -> None:
    assert parse_changes("", "-detailed") == ({}, ["", "-detailed"])


def test_environment_sets_options_missing_on_the_command_line() -> None:
    assert parse_changes(ADDR="there") == ({"addr": "there"}, [])
    assert parse_changes("-rpc-addr=x", ADDR="there") == ({"addr": "x"}, [])
    assert parse_changes(ADDR="") == ({}, [])


def test_lists_are_not_shared_between_calls() -> None:
    parse(FLAGS, ["-tag=a"])
    assert parse(FLAGS, []).values["tag"] == []


@given(st.lists(st.text()))
def test_any_words_are_parsed_or_an_error(words: list[str]) -> None:
    try:
        parsed = parse(FLAGS, words)
    except FlagError:
        return
    assert isinstance(parsed, Parsed)
    assert len(parsed.words) <= len(words)


@given(st.lists(st.text()))
def test_everything_after_two_dashes_is_a_word(words: list[str]) -> None:
    assert parse(FLAGS, ["--", *words]).words == words


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("", Invocation()),
        ("members -format json", Invocation("members", ("-format", "json"))),
        ("members -h", Invocation("members", ("-h",), help=True)),
        ("-h members", Invocation("members", (), help=True)),
        ("event x --help", Invocation("event", ("x", "--help"), help=True)),
        ("event -- -h", Invocation("event", ("--", "-h"))),
        ("-x members -y", Invocation("members", ("-y",), ("-x",))),
        ("- members", Invocation("members", (), ("-",))),
        ("-- members", Invocation()),
        ("members -v", Invocation("members", ("-v",), version=True)),
        ("--version", Invocation(version=True)),
        ("-version", Invocation("", (), ("-version",))),
    ],
)
def test_command_is_found_as_in_serf(line: str, asked: Invocation) -> None:
    assert split(line.split()) == asked
