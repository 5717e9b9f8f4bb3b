"""Command lines as Go's flag package reads them."""

from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserf.cli.argv import FlagError, Invocation, Parsed, parse, split
from trioserf.cli.flags import Option, flags_of
from trioserf.cli.golang import parse_int
from trioserf.cli.output import Out


def command(
    out: Out,
    words: list[str],
    *,
    addr: Annotated[str, Option("rpc-addr", "", env="ADDR")] = "here",
    tag: Annotated[list[str], Option("tag", "")] = [],  # noqa: B006
    detailed: Annotated[bool, Option("detailed", "")] = False,
    coalesce: Annotated[bool, Option("coalesce", "")] = True,
    relay: Annotated[int, Option("relay", "", read=parse_int)] = 0,
    first: Annotated[int | None, Option("first", "", ours=True, read=parse_int)] = None,
) -> int:
    return 0


FLAGS = flags_of(command)


def read(*words: str, **env: str) -> tuple[dict[str, Any], list[str]]:
    """Give what differs from the defaults, and the words."""
    usual = parse(FLAGS, [])
    found = parse(FLAGS, words, env)
    changed = {k: v for k, v in found.values.items() if v != usual.values[k]}
    return changed, found.words


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
def test_options_are_read_as_go_reads_them(
    line: str, changed: dict[str, Any], rest: list[str]
) -> None:
    assert read(*line.split()) == (changed, rest)


@pytest.mark.parametrize(
    ("ours", "line", "rest"),
    [
        ("*", "a -rpc-addr x b", ["a", "b"]),
        ("*", "a b --rpc-addr=x", ["a", "b"]),
        ("*", "a -- --rpc-addr=x", ["a", "--rpc-addr=x"]),
        ("a", "a -rpc-addr x b", ["a", "b"]),
        ("a", "b -rpc-addr x a", ["b", "-rpc-addr", "x", "a"]),
    ],
)
def test_options_of_our_own_commands_stand_anywhere(ours: str, line: str, rest: list[str]) -> None:
    parsed = parse(FLAGS, line.split(), ours=ours)
    assert parsed.words == rest
    assert (parsed.values["addr"] == "x") == (not {"-rpc-addr", "--rpc-addr=x"} & set(rest))


def test_what_stands_among_our_own_words_must_be_known() -> None:
    with pytest.raises(FlagError, match="not defined: -nosuch"):
        parse(FLAGS, ["a", "--nosuch"], ours="a")


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
def test_what_cannot_be_read_is_told_as_go_tells_it(line: str, message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(FLAGS, line.split())
    assert str(caught.value) == message


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(FlagError) as caught:
        parse(FLAGS, ["-tags", "x"])
    assert caught.value.unknown == "tags"


def test_an_empty_word_ends_the_options() -> None:
    assert read("", "-detailed") == ({}, ["", "-detailed"])


def test_the_environment_sets_what_the_command_line_does_not() -> None:
    assert read(ADDR="there") == ({"addr": "there"}, [])
    assert read("-rpc-addr=x", ADDR="there") == ({"addr": "x"}, [])
    assert read(ADDR="") == ({}, [])


def test_lists_are_not_shared_between_calls() -> None:
    parse(FLAGS, ["-tag=a"])
    assert parse(FLAGS, []).values["tag"] == []


@given(st.lists(st.text()))
def test_any_words_are_options_or_words_or_an_error(words: list[str]) -> None:
    try:
        found = parse(FLAGS, words)
    except FlagError:
        return
    assert isinstance(found, Parsed)
    assert len(found.words) <= len(words)


@given(st.lists(st.text()))
def test_after_two_dashes_everything_is_a_word(words: list[str]) -> None:
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
def test_the_command_is_found_as_serf_finds_it(line: str, asked: Invocation) -> None:
    assert split(line.split()) == asked
