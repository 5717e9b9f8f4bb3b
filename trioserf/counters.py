"""What a node counts for metrics, under the names that Serf's have.

Counting happens where things happen, so it has to cost next to nothing: a few numbers change, and
nobody is called. Whoever wants to know collects them from time to time.
"""

from collections import deque
from typing import Final

_RECENT: Final = 1024
"""Values of one series between two collections; of more, the last are kept."""
_NAMES: Final = 256
"""Names that others choose, such as those of events, between two collections."""


class AggregateSample:
    """A counter since it was last collected: how often, how much, and how unevenly.

    Attributes:
        count: how often something was added.
        total: the sum.
        squares: the sum of squares.
        least: the smallest that was added; 0 if nothing was.
        most: the largest.
    """

    __slots__ = ("count", "least", "most", "squares", "total")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.count = 0
        self.total = self.squares = self.least = self.most = 0.0

    def add(self, value: float = 1.0) -> None:
        """Count something of this size."""
        if value < self.least or not self.count:
            self.least = value
        if value > self.most or not self.count:
            self.most = value
        self.count += 1
        self.total += value
        self.squares += value * value

    def merge(self, other: "AggregateSample") -> None:
        """Count what another one has counted."""
        if not other.count:
            return
        self.least = min(self.least, other.least) if self.count else other.least
        self.most = max(self.most, other.most) if self.count else other.most
        self.count += other.count
        self.total += other.total
        self.squares += other.squares


Samples = deque[float]
"""Values as they came, for timings and sizes."""


class Counters:
    """Counters and series by name.

    Attributes:
        counters: those that whoever counts keeps at hand.
        named: counters whose names others choose; forgotten with every collection.
        series: values by name.
    """

    def __init__(self) -> None:
        self.counters: dict[str, AggregateSample] = {}
        self.named: dict[str, AggregateSample] = {}
        self.series: dict[str, Samples] = {}

    def counter(self, name: str) -> AggregateSample:
        """Give the counter of a name, to be kept."""
        return self.counters.setdefault(name, AggregateSample())

    def values(self, name: str) -> Samples:
        """Give the series of a name, to be kept."""
        return self.series.setdefault(name, deque(maxlen=_RECENT))

    def increment_label(self, name: str) -> None:
        """Count something whose name others choose, unless there are too many of them."""
        known = self.named.get(name)
        if known is None:
            if len(self.named) >= _NAMES:
                return
            known = self.named[name] = AggregateSample()
        known.add()

    def collect(self) -> tuple[dict[str, AggregateSample], dict[str, list[float]]]:
        """Give the counters and series that something was added to since the last call."""
        counters = self.named
        self.named = {}
        for name, count in self.counters.items():
            if count.count:
                taken = counters[name] = AggregateSample()
                taken.merge(count)
                count.clear()
        series = {name: list(values) for name, values in self.series.items() if values}
        for name in series:
            self.series[name].clear()
        return counters, series
