"""Filters of events and of members; the tables were checked against Serf."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserf.errors import InvalidFilter
from trioserf.event_filter import (
    MEMBER_EVENT_KINDS,
    SUSPICION_EVENT_KINDS,
    EventFilter,
    MemberEventKind,
)
from trioserf.serf.events import Event, MemberEvent, QueryReceived, UserEventReceived
from trioserf.serf.filters import _library, anchored, compiled, matches, tag_matches
from trioserf.wire.serf_messages import TagFilter


def test_library_that_cannot_be_loaded_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.cache_clear()
    _library.cache_clear()
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "re2", None)
        with pytest.raises(InvalidFilter, match=r"'web' cannot be compiled: .*re2"):
            compiled("web")
    assert matches(compiled("web"), "cobweb")


def user(name: str) -> UserEventReceived:
    return UserEventReceived(1, name, b"", coalesce=False)


def query(name: str) -> QueryReceived:
    return QueryReceived(1, 1, 1, name, b"", "requester", 1.0)


def member(kind: MemberEventKind) -> MemberEvent:
    return MemberEvent(kind, ())


# --- events ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [EventFilter()]),
        ("*", [EventFilter("*")]),
        ("member-join", [EventFilter("member-join")]),
        ("user", [EventFilter("user")]),
        ("user:", [EventFilter("user")]),
        ("user:deploy", [EventFilter("user", "deploy")]),
        ("user:a:b", [EventFilter("user", "a:b")]),
        ("user: deploy ", [EventFilter("user", " deploy ")]),
        ("query:*", [EventFilter("query", "*")]),
        (
            "member-join,user:deploy,query:load,*",
            [
                EventFilter("member-join"),
                EventFilter("user", "deploy"),
                EventFilter("query", "load"),
                EventFilter(),
            ],
        ),
        ("member-suspect", [EventFilter("member-suspect")]),
        ("member-recovered", [EventFilter("member-recovered")]),
    ],
)
def test_event_filters_are_parsed(text: str, expected: list[EventFilter]) -> None:
    assert EventFilter.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("foo", "'foo'"),
        ("User", "'User'"),
        ("member-join, user", "' user'"),
        ("member-join,,user", "''"),
        (",", "''"),
        ("*,foo", "'foo'"),
        ("user:a,b", "'b'"),
        ("member-join:x", "'member-join:x'"),
        ("*:x", "'\\*:x'"),
        ("dropped", "'dropped'"),
    ],
)
def test_invalid_event_filter_is_rejected(text: str, culprit: str) -> None:
    with pytest.raises(
        InvalidFilter, match=f"^{culprit} is not a valid event filter; expected .*user:NAME"
    ):
        EventFilter.parse(text)


@pytest.mark.parametrize(
    ("text", "event", "matches"),
    [
        *[("", member(kind), True) for kind in MEMBER_EVENT_KINDS],
        *[("*", member(kind), True) for kind in MEMBER_EVENT_KINDS],
        *[("*", member(kind), False) for kind in SUSPICION_EVENT_KINDS],
        *[("", member(kind), False) for kind in SUSPICION_EVENT_KINDS],
        *[(kind, member(kind), True) for kind in SUSPICION_EVENT_KINDS],
        ("*", user("deploy"), True),
        ("*", query("load"), True),
        ("member-join", member("member-join"), True),
        ("member-join", member("member-leave"), False),
        ("member-join", user("member-join"), False),
        ("user", user("deploy"), True),
        ("user", query("deploy"), False),
        ("user:deploy", user("deploy"), True),
        ("user:deploy", user("deploy2"), False),
        ("user:deploy", user(""), False),
        ("user:deploy", query("deploy"), False),
        ("query", query("load"), True),
        ("query:load", query("load"), True),
        ("query:load", query("Load"), False),
        ("query:*", query("load"), False),
        ("query:*", query("*"), True),
        ("query:load", user("load"), False),
    ],
)
def test_event_filter_matches_kind_and_name(text: str, event: Event, matches: bool) -> None:
    assert any(f.matches(event) for f in EventFilter.parse(text)) is matches


@pytest.mark.parametrize("text", ["*", "user", "user:a:b", "query:x", "member-suspect"])
def test_text_of_event_filter_is_its_source(text: str) -> None:
    assert ",".join(map(str, EventFilter.parse(text))) == text


@given(st.text())
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    try:
        filters = EventFilter.parse(text)
    except InvalidFilter:
        return
    assert EventFilter.parse(",".join(map(str, filters))) == filters


# --- tags of queries ---


@pytest.mark.parametrize(
    ("tag", "expr", "matches"),
    [
        ("role", "b", True),  # anywhere
        ("role", "^b", False),
        ("role", "^xby$", True),
        ("role", "", True),
        ("role", "X", False),
        ("role", "(?i)X", True),
        ("role", r"\bxby\b", True),
        ("role", "(?P<letter>[a-c])", True),
        ("role", "a|y", True),
        ("missing", "", True),
        ("missing", "^$", True),
        ("missing", ".", False),
        ("lines", "^b", False),  # without (?m), ^ and $ are the ends of the text
        ("lines", "a$", False),
        ("lines", "(?m)^b", True),
        ("lines", "a.b", False),
        ("lines", "(?s)a.b", True),
        ("town", "^Z.rich$", True),  # a dot is a character, not a byte
        ("town", r"^\w+$", False),  # and \w is ASCII
        ("town", r"^\pL+$", True),
        ("town", "(?i)ZÜ", True),
        ("town", "ü", True),
    ],
)
def test_tag_filter_searches_like_go(tag: str, expr: str, matches: bool) -> None:
    tags = {"role": "xby", "lines": "a\nb", "town": "Zürich"}
    assert tag_matches(TagFilter(tag, expr), tags) is matches


def test_invalid_utf8_bytes_match_as_replacement_characters() -> None:
    tags = {"t": b"a\xe2\x82z".decode("utf-8", "surrogateescape")}
    assert tag_matches(TagFilter("t", "^a..z$"), tags)
    assert tag_matches(TagFilter("t", "^a\ufffd{2}z$"), tags)
    assert not tag_matches(TagFilter("t", "^a.z$"), tags)


@pytest.mark.parametrize(
    ("expr", "reason"),
    [
        ("(", "missing"),
        ("a)", "unexpected"),
        ("a**", "bad repetition operator"),
        ("a{1001}", "invalid repetition size"),
        ("[b-a]", "invalid character class range"),
        ("(?=a)", "invalid perl operator"),
        ("(?<!a)b", "invalid"),
        (r"(a)\1", "invalid escape sequence"),
        (r"\8", "invalid escape sequence"),
        (r"\C", "invalid escape sequence"),
        ("\\", "trailing"),
        ("a\udcff", "invalid UTF-8"),
        ("((a{100}){100}){100}", "invalid repetition size"),
    ],
)
def test_expression_rejected_by_go_is_rejected(
    expr: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidFilter, match=f"is not a valid regular expression: .*{reason}"):
        tag_matches(TagFilter("role", expr), {})
    assert capfd.readouterr() == ("", "")  # RE2 logs to stderr by default


def test_escaped_backslash_before_c_is_accepted() -> None:
    assert matches(compiled(r"\\C"), r"a\C")


def test_cache_of_compiled_expressions_is_bounded() -> None:
    assert compiled("once") is compiled("once")
    first = compiled("first")
    for i in range(300):
        compiled(f"number {i}")
    assert compiled("first") is not first


# --- anchors ---


@pytest.mark.parametrize(
    ("expr", "names"),
    [
        ("a|b", {"a", "ab", "b"}),  # ^a or b$
        ("(a|b)", {"a", "b"}),
        ("a", {"a"}),
        ("", set[str]()),
        (".*", {"a", "ab", "b", "ba"}),
        ("(?i)AB", {"ab"}),
        ("al|failed", set[str]()),
        ("x|b", {"ab", "b"}),
    ],
)
def test_anchors_surround_expression_without_group(expr: str, names: set[str]) -> None:
    assert {name for name in ("a", "ab", "b", "ba") if matches(anchored(expr), name)} == names


@pytest.mark.parametrize("expr", ["(", ")a("])
def test_anchored_invalid_expression_is_rejected(expr: str) -> None:
    with pytest.raises(InvalidFilter):
        anchored(expr)


@given(st.text(), st.text())
def test_any_expression_matches_or_is_rejected(expr: str, text: str) -> None:
    try:
        pattern = compiled(expr)
    except InvalidFilter:
        return
    matches(pattern, text)
