"""Metrics: what the node and the agent count, in Serf's names and forms.

Once a second the tally is collected, put together with a few gauges, and given to whoever wants
it: to sinks (see `statsd`), and to a memory of the last minute in steps of ten seconds, which
SIGUSR1 writes to stderr. Names begin with `serf-agent`; if there are sinks, those of gauges go on
with the host's name.
"""

import gc
import logging
import math
import resource
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
import trio

from trioserf.counters import AggregateSample, Counters
from trioserf.serf.events import Event, MemberEvent

_log = logging.getLogger("trioserf.agent")

COLLECT_EVERY: Final = 1.0
"""Seconds between two collections."""
INTERVAL: Final = timedelta(seconds=10)
"""The steps of the memory."""
_REMEMBERED: Final = 6
"""Steps kept, the one at hand included."""
_SERVICE: Final = "serf-agent"
_CHANGES: Final = {
    "member-join": "serf.member.join",
    "member-leave": "serf.member.left",
    "member-failed": "serf.member.failed",
    "member-update": "serf.member.update",
}

WallClock = Callable[[], datetime]


@attrs.frozen(slots=True)
class Report:
    """What one collection has brought, by full name.

    Attributes:
        gauges: values as they are now, by names that lack a prefix.
        gauge_prefix: what the names of gauges begin with.
        counters: what was counted since the last collection.
        samples: values that came since then.
    """

    gauges: Mapping[str, float]
    gauge_prefix: str
    counters: Mapping[str, AggregateSample]
    samples: Mapping[str, Sequence[float]]


class Sink(Protocol):
    """Takes reports; must not wait for anything."""

    def record(self, report: Report) -> None:
        """Take one report in."""
        ...


class MetricsSource(Protocol):
    """What metrics ask a node."""

    @property
    def counters(self) -> Counters:
        """What is counted."""
        ...

    def stats(self) -> Mapping[str, Any]:
        """Give `flaps` and `health_score`, among others."""
        ...

    def dropped(self) -> Mapping[str, int]:
        """Count what was dropped."""
        ...


def local_now() -> datetime:
    """The time of day, with the zone of this machine."""
    return datetime.now().astimezone()


class Metrics:
    """Collects, remembers, and passes on.

    Args:
        node: whose tally it is.
        sinks: who else wants reports.
        host: the host's name, if those of gauges are to bear it.
        wall: the time of day.
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
        self._gauge_prefix = f"{_SERVICE}.{_plain(host)}." if host else f"{_SERVICE}."
        self._wall = wall
        self._grown: dict[str, int] = {}
        self._steps: deque[_Step] = deque(maxlen=_REMEMBERED)

    def record(self, event: Event) -> None:
        """Count what happens to members; to be called with every event of the node."""
        name = _CHANGES.get(event.kind)
        if name is not None and isinstance(event, MemberEvent):
            self._node.counters.counter(name).add(len(event.members))

    async def run(self) -> None:
        """Collect until cancelled."""
        due = trio.current_time()
        while True:
            due += COLLECT_EVERY
            await trio.sleep_until(due)
            self.collect()

    def collect(self) -> None:
        """Collect what was counted since the last time."""
        counters, samples = self._node.counters.collect()
        stats = self._node.stats()
        for name, total in self._growing(stats).items():
            if grown := total - self._grown.get(name, 0):
                counters[name] = AggregateSample()
                counters[name].add(grown)
                self._grown[name] = total
        report = Report(
            self._gauges(stats),
            self._gauge_prefix,
            {f"{_SERVICE}.{_plain(name)}": count for name, count in counters.items()},
            {f"{_SERVICE}.{_plain(name)}": values for name, values in samples.items()},
        )
        self._step().record(report, self._wall())
        for sink in self._sinks:
            sink.record(report)

    def text(self) -> str:
        """Tell the last minute, without the step at hand, as Serf does on SIGUSR1."""
        self._step()
        return "".join(step.text() for step in list(self._steps)[:-1])

    def _growing(self, stats: Mapping[str, Any]) -> dict[str, int]:
        grown = {"serf.member.flap": int(stats["flaps"])}
        for name, count in self._node.dropped().items():
            grown[f"trioserf.dropped.{name}"] = count
        return grown

    @staticmethod
    def _gauges(stats: Mapping[str, Any]) -> dict[str, float]:
        collections = sum(one["collections"] for one in gc.get_stats())
        return {
            "runtime.num_goroutines": trio.lowlevel.current_statistics().tasks_living,
            "runtime.sys_bytes": _resident(),
            "runtime.total_gc_runs": collections,
            "memberlist.health.score": stats["health_score"],
        }

    def _step(self) -> "_Step":
        """Give the step at hand, a new one if its time has come."""
        now = self._wall()
        seconds = INTERVAL.total_seconds()
        start = now - timedelta(seconds=now.timestamp() % seconds)
        if not self._steps or self._steps[-1].index != now.timestamp() // seconds:
            self._steps.append(_Step(int(now.timestamp() // seconds), start))
        return self._steps[-1]


class _Step:
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
    """Tell how often, how much, and, unless all were the same, how unevenly."""
    deviation = standard_deviation(count)
    if not deviation:
        return f"Count: {count.count} Sum: {count.total:.3f}"
    return (
        f"Count: {count.count} Min: {count.least:.3f} Mean: {count.total / count.count:.3f}"
        f" Max: {count.most:.3f} Stddev: {deviation:.3f} Sum: {count.total:.3f}"
    )


def standard_deviation(count: AggregateSample) -> float:
    """Give the standard deviation of a sample; 0 for less than two values."""
    n = count.count
    if n < 2:
        return 0.0
    return math.sqrt(max(0.0, (n * count.squares - count.total**2) / (n * (n - 1))))


def _plain(name: str) -> str:
    return name.replace(" ", "_")


def _resident() -> float:
    """Give the memory that this process occupies in bytes (the most of it, if not on Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return float(most if sys.platform == "darwin" else most * 1024)
    return float(pages * resource.getpagesize())
