"""Metrics of the node and the agent, with Serf's names and formats (agent/README.md, § Metrics).

Once a second the counters are collected, combined with a few gauges, and given to sinks (see
`statsd` and `prometheus`) and to the intervals of the last minute, which SIGUSR1 writes to stderr.
Without sinks, an idle agent collects once in each interval, shortly before its end.
Names begin with `serf-agent`; names of gauges continue with the host's name if there is a sender.
"""

import gc
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import attrs
import trio

from trioserf.counters import AggregateSample, Counters
from trioserf.operating_system.host import resident_memory
from trioserf.printable import printable
from trioserf.serf.events import Event, MemberEvent
from trioserf.value_objects import ValueObject

COLLECT_EVERY: Final = 1.0
"""Seconds between two collections, if there are sinks or many samples."""
_BEFORE_END: Final = 0.5
"""Seconds between the only collection of an interval and its end."""
_MANY_SAMPLES: Final = 128
"""Samples of one name that an idle agent never has in an interval; far less than are kept."""
INTERVAL: Final = timedelta(seconds=10)
"""Length of one interval of the last minute."""
_MAX_INTERVALS: Final = 6
"""Intervals kept, including the current one."""
INSTANCES: Final = "memberlist.node.instances."
"""Gauges of the number of members in each state, whose name follows."""
_SERVICE: Final = "serf-agent"
_CHANGES: Final = {
    "member-join": "serf.member.join",
    "member-leave": "serf.member.left",
    "member-failed": "serf.member.failed",
    "member-update": "serf.member.update",
}

WallClock = Callable[[], datetime]


@attrs.frozen(eq=False, repr=False)
class Report(ValueObject):
    """The result of one collection.

    Attributes:
        gauges: current values by name, without prefix.
        gauge_prefix: prefix of the names of gauges.
        counters: increments since the last collection, by full name.
        samples: values since the last collection, by full name.
    """

    gauges: Mapping[str, float]
    gauge_prefix: str
    counters: Mapping[str, AggregateSample]
    samples: Mapping[str, Sequence[float]]


class Sink(Protocol):
    """A destination of reports."""

    def record(self, report: Report) -> None:
        """Handle one report; must not block."""
        ...


class MetricsSource(Protocol):
    """The part of a node that metrics read."""

    @property
    def counters(self) -> Counters:
        """The counters."""
        ...

    def stats(self) -> Mapping[str, Any]:
        """Return `flaps` and `health_score`, among others."""
        ...

    def states(self) -> Mapping[str, int]:
        """Count the members by their state in the failure detector."""
        ...

    def dropped(self) -> Mapping[str, int]:
        """Return the numbers of dropped messages by kind."""
        ...


def local_now() -> datetime:
    """Return the time of day with the zone of this machine."""
    return datetime.now().astimezone()


class Metrics:
    """Collects metrics for the sinks and for the dump of the last minute.

    Args:
        node: the source of counters.
        sinks: further destinations of reports.
        host: the host's name, for the names of gauges; empty to omit it.
        wall: returns the time of day.
    """

    def __init__(
        self,
        node: MetricsSource,
        sinks: Sequence[Sink] = (),
        *,
        host: str = "",
        wall: WallClock = local_now,
    ) -> None:
        self._node = node
        self._sinks = sinks
        self._gauge_prefix = f"{_SERVICE}.{_metric_name(host)}." if host else f"{_SERVICE}."
        self._wall = wall
        self._totals: dict[str, int] = {}
        self._intervals: deque[_Interval] = deque(maxlen=_MAX_INTERVALS)
        self._is_busy = False

    def record(self, event: Event) -> None:
        """Count changes of members; must be called with each event of the node."""
        name = _CHANGES.get(event.kind)
        if name is not None and isinstance(event, MemberEvent):
            self._node.counters.counter(name).add(len(event.members))

    async def run(self) -> None:
        """Collect until cancelled."""
        due = trio.current_time()
        while True:
            if self._sinks or self._is_busy:
                due = max(due + COLLECT_EVERY, trio.current_time())
            else:
                due = trio.current_time() + self._until_end()
            await trio.sleep_until(due)
            self.collect()

    def _until_end(self) -> float:
        """Return the seconds until the only collection of the current or next interval."""
        seconds = INTERVAL.total_seconds()
        left = seconds - _BEFORE_END - self._wall().timestamp() % seconds
        return left if left > 0 else left + seconds

    def collect(self) -> None:
        """Collect the counters since the last call."""
        counters, samples = self._node.counters.collect()
        self._is_busy = any(len(values) >= _MANY_SAMPLES for values in samples.values())
        stats = self._node.stats()
        for name, total in self._current_totals(stats).items():
            if increment := total - self._totals.get(name, 0):
                counters[name] = AggregateSample()
                counters[name].add(increment)
                self._totals[name] = total
        report = Report(
            self._gauges(stats),
            self._gauge_prefix,
            {f"{_SERVICE}.{_metric_name(name)}": count for name, count in counters.items()},
            {f"{_SERVICE}.{_metric_name(name)}": values for name, values in samples.items()},
        )
        self._current_interval().record(report, self._wall())
        for sink in self._sinks:
            sink.record(report)

    def text(self) -> str:
        """Format the last minute without the current interval, as Serf does on SIGUSR1."""
        self._current_interval()
        return "".join(interval.text() for interval in list(self._intervals)[:-1])

    def _current_totals(self, stats: Mapping[str, Any]) -> dict[str, int]:
        totals = {"serf.member.flap": int(stats["flaps"])}
        for name, count in self._node.dropped().items():
            totals[f"trioserf.dropped.{name}"] = count
        return totals

    def _gauges(self, stats: Mapping[str, Any]) -> dict[str, float]:
        memory = resident_memory()
        collections = sum(generation["collections"] for generation in gc.get_stats())
        return {
            "runtime.num_goroutines": trio.lowlevel.current_statistics().tasks_living,
            **({} if memory is None else {"runtime.sys_bytes": memory}),
            "runtime.total_gc_runs": collections,
            "memberlist.health.score": stats["health_score"],
            **{f"{INSTANCES}{state}": count for state, count in self._node.states().items()},
            **self._node.counters.gauges,
        }

    def _current_interval(self) -> "_Interval":
        """Return the current interval; start it if the last one is over."""
        now = self._wall()
        seconds = INTERVAL.total_seconds()
        start = now - timedelta(seconds=now.timestamp() % seconds)
        if not self._intervals or self._intervals[-1].index != now.timestamp() // seconds:
            self._intervals.append(_Interval(int(now.timestamp() // seconds), start))
        return self._intervals[-1]


class _Interval:
    """Ten seconds of metrics."""

    def __init__(self, index: int, start: datetime) -> None:
        self.index = index
        self._start = start
        self._gauges: dict[str, float] = {}
        self._counters: dict[str, AggregateSample] = {}
        self._samples: dict[str, AggregateSample] = {}
        self._updated: dict[str, datetime] = {}

    def record(self, report: Report, now: datetime) -> None:
        for name, value in report.gauges.items():
            self._gauges[report.gauge_prefix + name] = value
        for name, count in report.counters.items():
            self._counters.setdefault(name, AggregateSample()).merge(count)
            self._updated[name] = now
        for name, values in report.samples.items():
            known = self._samples.setdefault(name, AggregateSample())
            for value in values:
                known.add(value)
            self._updated[name] = now

    def text(self) -> str:
        at = f"[{self._start:%Y-%m-%d %H:%M:%S %z %Z}]"
        lines = [f"{at}[G] '{name}': {value:.3f}\n" for name, value in self._gauges.items()]
        for letter, kind in (("C", self._counters), ("S", self._samples)):
            for name, count in kind.items():
                updated = f"{self._updated[name]:%Y-%m-%d %H:%M:%S.%f %z %Z}"
                lines.append(
                    f"{at}[{letter}] '{name}': {format_sample(count)} LastUpdated: {updated}\n"
                )
        return "".join(lines)


def format_sample(count: AggregateSample) -> str:
    """Format count and sum, and the distribution unless all values are equal."""
    deviation = standard_deviation(count)
    if not deviation:
        return f"Count: {count.count} Sum: {count.total:.3f}"
    return (
        f"Count: {count.count} Min: {count.least:.3f} Mean: {count.total / count.count:.3f}"
        f" Max: {count.most:.3f} Stddev: {deviation:.3f} Sum: {count.total:.3f}"
    )


def standard_deviation(count: AggregateSample) -> float:
    """Return the standard deviation of a sample; 0 for less than two values."""
    n = count.count
    if n < 2:
        return 0.0
    return math.sqrt(max(0.0, (n * count.squares - count.total**2) / (n * (n - 1))))


def _metric_name(name: str) -> str:
    return printable(name).replace(" ", "_")
