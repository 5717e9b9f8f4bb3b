"""Counters and samples for metrics, under Serf's names.

The code that counts runs for every packet, so counting only changes a few numbers; the metrics
task collects them periodically.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Final

_MAX_VALUES: Final = 8192
"""Maximum number of values of one series between two collections; the newest are kept."""
_MAX_LABELS: Final = 256
"""Maximum number of labels chosen by peers, such as event names, between two collections."""


class AggregateSample:
    """A counter since its last collection.

    Attributes:
        count: the number of added values.
        total: the sum.
        squares: the sum of squares.
        least: the smallest value; 0 without values.
        most: the largest value; 0 without values.
    """

    __slots__ = ("count", "least", "most", "squares", "total")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Reset to no values."""
        self.count = 0
        self.total = self.squares = self.least = self.most = 0.0

    def add(self, value: float = 1.0) -> None:
        """Add a value."""
        if value < self.least or not self.count:
            self.least = value
        if value > self.most or not self.count:
            self.most = value
        self.count += 1
        self.total += value
        self.squares += value * value

    def merge(self, other: "AggregateSample") -> None:
        """Add all values of another counter."""
        if not other.count:
            return
        self.least = min(self.least, other.least) if self.count else other.least
        self.most = max(self.most, other.most) if self.count else other.most
        self.count += other.count
        self.total += other.total
        self.squares += other.squares


class Histogram:
    """Values since the start, counted by size.

    Attributes:
        bounds: upper bounds in rising order, each included in its bucket.
        counts: the number of values of each bucket; the last one is for those above all bounds.
        total: the sum of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Add a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


Samples = deque[float]
"""Single values in order, for timings and sizes."""


class Counters:
    """Counters and series by name.

    Attributes:
        counters: counters by name, kept for ever.
        labels: counters by a name that peers choose, dropped at each collection.
        series: samples by name.
        gauges: the latest values by name, kept for ever.
    """

    def __init__(self) -> None:
        self.counters: dict[str, AggregateSample] = {}
        self.labels: dict[str, AggregateSample] = {}
        self.series: dict[str, Samples] = {}
        self.gauges: dict[str, float] = {}

    def counter(self, name: str) -> AggregateSample:
        """Return the counter of a name, for the caller to keep."""
        return self.counters.setdefault(name, AggregateSample())

    def values(self, name: str) -> Samples:
        """Return the samples of a name, for the caller to keep."""
        return self.series.setdefault(name, deque(maxlen=_MAX_VALUES))

    def increment_label(self, name: str) -> None:
        """Count under a name that peers choose, unless there are too many names."""
        sample = self.labels.get(name)
        if sample is None:
            if len(self.labels) >= _MAX_LABELS:
                return
            sample = self.labels[name] = AggregateSample()
        sample.add()

    def collect(self) -> tuple[dict[str, AggregateSample], dict[str, list[float]]]:
        """Return and reset the counters and samples with values since the last call."""
        counters = self.labels
        self.labels = {}
        for name, sample in self.counters.items():
            if sample.count:
                counters[name] = AggregateSample()
                counters[name].merge(sample)
                sample.clear()
        series = {name: list(values) for name, values in self.series.items() if values}
        for name in series:
            self.series[name].clear()
        return counters, series
