"""Filters of received queries, and their budget of work."""

import pytest

from trioserf.address import Address
from trioserf.errors import InvalidFilter
from trioserf.serf import filters
from trioserf.serf.filters import MAX_EXPRESSION, compile_cost, compiled, matches, search_cost
from trioserf.serf.member import Member
from trioserf.serf.query_filters import MAX_FILTERS, QueryFilters
from trioserf.wire.errors import WireError
from trioserf.wire.serf_messages import NodeFilter, Status, TagFilter
from trioserf.wire.serf_payloads import encode_filter

LOCAL = Member("us", Address("10.0.0.1", 7946), {"role": "a" * 400}, Status.ALIVE)


def tag(expr: str, name: str = "role") -> bytes:
    return encode_filter(TagFilter(name, expr))


def match(
    subject: QueryFilters, *expressions: bytes, source: str = "s", now: float = 0.0
) -> bool | str:
    """Return the result, or the kind of the error."""
    try:
        return subject.match(expressions, LOCAL, source, now)
    except WireError as error:
        return error.kind


def test_all_filters_must_match() -> None:
    subject = QueryFilters()
    names = encode_filter(NodeFilter(("x", "us")))
    assert match(subject) is True
    assert match(subject, names, tag("^a+$"), tag("^$", "missing")) is True
    assert match(subject, names, tag("b")) is False
    assert match(subject, encode_filter(NodeFilter(("x",))), tag("(")) is False


def test_too_many_filters_are_over_budget() -> None:
    assert match(QueryFilters(), *[tag("")] * MAX_FILTERS) is True
    assert match(QueryFilters(), *[tag("")] * (MAX_FILTERS + 1)) == "budget"


def test_malformed_filter_is_an_error() -> None:
    assert match(QueryFilters(), b"\x07") == "unknown-type"
    with pytest.raises(InvalidFilter):
        match(QueryFilters(), tag("("))


@pytest.mark.parametrize(
    "expr",
    [r"\PL" * 300, "((a?){30}){30}" * 5, "(a?){999}" * 3, "x{0,1000}" * 80],
)
def test_expensive_expression_is_over_budget(expr: str) -> None:
    assert match(QueryFilters(), tag(expr)) == "budget"


def test_source_over_budget_waits_while_others_match() -> None:
    subject = QueryFilters()
    results = [match(subject, tag(f"a{{{number}}}")) for number in range(1, 200)]
    assert results[0] is True
    assert results[-1] == "budget"
    assert match(subject, tag("a{200}"), source="other") is True
    assert match(subject, tag("a{200}x"), now=1.0) is False


def test_known_expression_costs_little() -> None:
    subject = QueryFilters()
    assert match(subject, tag(r"^\pL+$")) is True
    assert all(match(subject, tag(r"^\pL+$")) is True for _ in range(255))


def test_many_sources_together_are_limited() -> None:
    subject = QueryFilters()
    results = [
        match(subject, tag(f"a{{{number}}}"), source=str(number)) for number in range(1, 300)
    ]
    assert results.count("budget") > 100


def test_remembered_results_are_bounded() -> None:
    subject = QueryFilters()
    for number in range(1000):
        match(subject, tag(f"a{number}"), now=float(number))
    assert len(subject._results) == 256


# --- bounds of one expression ---


def test_expression_over_its_limit_is_rejected_before_compilation() -> None:
    assert matches(compiled("a" * MAX_EXPRESSION), "a" * MAX_EXPRESSION)
    for expr in ("a" * (MAX_EXPRESSION + 1), "ä" * MAX_EXPRESSION, "(" * 16_000 + ")" * 16_000):
        with pytest.raises(InvalidFilter, match=r"bytes, expected at most 1024$"):
            compiled(expr)


def test_error_shows_the_beginning_of_a_long_expression() -> None:
    with pytest.raises(InvalidFilter) as caught:
        compiled("(" * 1000)
    assert len(str(caught.value)) < 300


def test_nested_groups_take_no_memory_for_captures() -> None:
    pattern = compiled("(" * 500 + "a" + ")" * 500)
    assert pattern.programsize < 10
    assert matches(pattern, "a")


def test_exhausted_memory_is_an_invalid_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        error = ValueError

        @staticmethod
        def compile(*_: object) -> object:
            raise MemoryError

    monkeypatch.setattr(filters, "_library", lambda: (Library, None))
    with pytest.raises(InvalidFilter, match="it needs too much memory"):
        compiled("not compiled before")


def test_costs_grow_with_what_is_expensive() -> None:
    assert compile_cost("web") < 1e-4
    assert compile_cost("a" * 1000) > 1e-3
    assert compile_cost(r"\PL" * 300) > 0.09
    assert compile_cost("x{1,1000}" * 100) > 0.03
    # Each class is compiled nine times, which takes 4 ms.
    assert compile_cost(r"(?i)(\pL){9}") > 4e-3
    assert compile_cost(r"(?i)\PL") > 0.7e-3
    big, small = compiled("((a?){30}){30}"), compiled("web")
    assert search_cost(small, "web") < 1e-5
    assert search_cost(big, "a" * 500) > 5e-3
