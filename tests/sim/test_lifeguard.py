"""Lifeguard's experiment with few members, and its tables."""

import re

import pytest

from trioserf.sim.lifeguard import CONFIGURATIONS, PAPER, Measurement, by_count, measure, table


def test_lifeguard_has_fewer_false_positives_than_swim() -> None:
    swim, lifeguard = (
        measure(name, 3, seed=1, blocked=8.0, free=0.1, members=9)
        for name in CONFIGURATIONS
        if name in {"SWIM", "Lifeguard"}
    )
    assert lifeguard.false_positives < swim.false_positives / 4
    assert swim.packets > 0
    assert lifeguard.packets > 0


def test_table_compares_with_the_paper() -> None:
    runs = {
        (name, 4): Measurement(
            false_positives=200 if name == "SWIM" else 10,
            at_healthy=100 if name == "SWIM" else 1,
            packets=1000,
            bytes=10**6,
            first=(4.0, 6.0),
            all=(7.0,),
        )
        for name in CONFIGURATIONS
    }
    lines = table(runs).splitlines()
    assert len(lines) == 1 + len(PAPER)
    assert re.sub(" +", " ", lines[-1]) == (
        "Lifeguard 10 1 1000 1.0 5.00 1.00 100.00 100.00 1.53 1.89 110.60 98.00 5.0 7.0"
    )
    assert lines[1].startswith("SWIM ")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_has_numbers_of_the_paper(name: str) -> None:
    assert len(PAPER[name]) == 4


def test_false_positives_are_listed_by_number_of_anomalous_members() -> None:
    one = Measurement(false_positives=7, at_healthy=2, packets=1, bytes=1, first=(), all=())
    lines = by_count({("SWIM", 4): one, ("SWIM", 12): one, ("Lifeguard", 12): one}).splitlines()
    assert [line.split() for line in lines] == [
        ["C", "SWIM", "Lifeguard"],
        ["4", "7", "/", "2", "-"],
        ["12", "7", "/", "2", "7", "/", "2"],
    ]
