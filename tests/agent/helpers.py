"""Helpers of the agent's tests."""

from pathlib import Path
from typing import Final

from trioserf.counters import AggregateSample

ROOT: Final = Path(__file__).resolve().parents[2]
"""The root of the repository."""


def sample(*values: float) -> AggregateSample:
    """Return the aggregate of some values."""
    aggregate = AggregateSample()
    for value in values:
        aggregate.add(value)
    return aggregate
