"""Counters and series for metrics: merging, collection and bounds."""

import math
import statistics

from hypothesis import given
from hypothesis import strategies as st

from trioserf.agent.metrics import standard_deviation
from trioserf.counters import AggregateSample, Counters

VALUES = st.lists(st.integers(0, 10_000), min_size=1, max_size=30)


def sample_of(values: list[int]) -> AggregateSample:
    sample = AggregateSample()
    for value in values:
        sample.add(value)
    return sample


@given(VALUES, VALUES)
def test_merged_samples_equal_one_sample_of_all_values(
    first: list[int], second: list[int]
) -> None:
    values = first + second
    merged = sample_of(first)
    merged.merge(sample_of(second))
    merged.merge(AggregateSample())
    for sample in (sample_of(values), merged):
        assert sample.count == len(values)
        assert (sample.total, sample.least, sample.most) == (sum(values), min(values), max(values))
        assert math.isclose(
            standard_deviation(sample), statistics.stdev(values), rel_tol=1e-6, abs_tol=1e-3
        )


def test_collect_resets_counters_and_series() -> None:
    counters = Counters()
    packets, sizes = counters.counter("packets"), counters.values("sizes")
    packets.add(10)
    sizes.append(3)
    counters.increment_label("events.deploy")
    collected, series = counters.collect()
    assert {name: sample.total for name, sample in collected.items()} == {
        "packets": 10, "events.deploy": 1,
    }  # fmt: skip
    assert series == {"sizes": [3]}
    assert counters.collect() == ({}, {})
    packets.add(5)
    collected, _ = counters.collect()
    assert [(c.count, c.least, c.most) for c in collected.values()] == [(1, 5, 5)]


def test_labels_and_series_are_bounded() -> None:
    counters = Counters()
    for number in range(20_000):
        counters.increment_label(f"events.{number}")
        counters.values("sizes").append(number)
    collected, series = counters.collect()
    assert len(collected) == 256
    assert series["sizes"] == list(range(20_000 - 8192, 20_000))
