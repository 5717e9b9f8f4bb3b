"""Counting: what is collected, what is forgotten, and what it may cost."""

import math
import statistics

from hypothesis import given
from hypothesis import strategies as st

from trioserf.agent.metrics import standard_deviation
from trioserf.counters import AggregateSample, Counters

VALUES = st.lists(st.integers(0, 10_000), min_size=1, max_size=30)


def counted(values: list[int]) -> AggregateSample:
    count = AggregateSample()
    for value in values:
        count.add(value)
    return count


@given(VALUES, VALUES)
def test_counts_add_up(one: list[int], two: list[int]) -> None:
    both, merged = counted(one + two), counted(one)
    merged.merge(counted(two))
    merged.merge(AggregateSample())
    for count in (both, merged):
        assert count.count == len(one + two)
        assert (count.total, count.least, count.most) == (
            sum(one + two), min(one + two), max(one + two),
        )  # fmt: skip
        assert math.isclose(
            standard_deviation(count), statistics.stdev(one + two), rel_tol=1e-6, abs_tol=1e-3
        )


def test_a_collection_begins_anew() -> None:
    tally = Counters()
    packets, sizes = tally.counter("packets"), tally.values("sizes")
    packets.add(10)
    sizes.append(3)
    tally.increment_label("events.deploy")
    counters, series = tally.collect()
    assert {name: count.total for name, count in counters.items()} == {
        "packets": 10, "events.deploy": 1,
    }  # fmt: skip
    assert series == {"sizes": [3]}
    assert tally.collect() == ({}, {})
    packets.add(5)
    counters, _ = tally.collect()
    assert [(c.count, c.least, c.most) for c in counters.values()] == [(1, 5, 5)]


def test_nothing_grows_without_bound() -> None:
    tally = Counters()
    for number in range(5000):
        tally.increment_label(f"events.{number}")
        tally.values("sizes").append(number)
    counters, series = tally.collect()
    assert len(counters) == 256
    assert series["sizes"] == list(range(5000 - 1024, 5000))
