"""The rows of the benchmark, declared once each: what is measured, how, and its goal."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import bench_cluster as many
import bench_control as one
import bench_wire as wire

SERF, OURS = "serf", "trioserf"
ANY = 0
"""Key of a goal for clusters of all sizes, and for single agents."""


class Goal(NamedTuple):
    """What the median of trioserf must be.

    Attributes:
        limit: in the unit of the row, or a factor of Serf's median.
        at_least: more is better.
        of_serf: the limit is a factor.
    """

    limit: float
    at_least: bool = False
    of_serf: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{' × Serf' if self.of_serf else ''}"

    def is_met(self, medians: Mapping[str, float]) -> bool | None:
        """Return whether the medians of the programs meet it; None without them."""
        if OURS not in medians or (self.of_serf and SERF not in medians):
            return None
        limit = self.limit * (medians[SERF] if self.of_serf else 1)
        return medians[OURS] >= limit if self.at_least else medians[OURS] <= limit


def at_most(limit: float) -> dict[int, Goal]:
    return {ANY: Goal(limit)}


def serf_times(limit: float) -> dict[int, Goal]:
    return {ANY: Goal(limit, of_serf=True)}


def at_least_serf_times(limit: float) -> dict[int, Goal]:
    return {ANY: Goal(limit, at_least=True, of_serf=True)}


class Row(NamedTuple):
    """A row of the table; `goals` has the number of agents of each goal."""

    name: str
    what: str
    unit: str
    goals: Mapping[int, Goal] = {}


class Measurement(NamedTuple):
    """A function that yields values for its rows.

    Attributes:
        name: as it is chosen on the command line.
        measure: takes a program, a host and the settings, or a cluster and the settings.
        rows: what it yields values for.
        cluster: the kind of the cluster that it needs; "": none.
        sizes: numbers of agents in that cluster.
    """

    name: str
    measure: Callable[..., many.Samples]
    rows: tuple[Row, ...]
    cluster: str = ""
    sizes: tuple[int, ...] = (0,)


MEASUREMENTS = (
    Measurement("start", one.start_agent, (
        Row("wall", "start, until `members` is answered", "ms"),
        Row("ratio", "start, times `import trio`", "×", at_most(2)),
        Row("cpu", "CPU of a start", "ms"),
        Row("cpu-ratio", "CPU of a start, times `import trio`", "×"),
    )),
    Measurement("snapshot", one.snapshot, (
        Row("port", f"start with a snapshot of {one.SNAPSHOT_MEMBERS:,} members", "ms"),
        Row("read", "start, until that snapshot is read and joins begin", "ms"),
    )),
    Measurement("calls", one.calls, (
        Row("event", "`event` calls, one at a time", "/s", at_least_serf_times(0.5)),
        Row("event-64", f"`event` calls, {one.WINDOW} at a time", "/s", at_least_serf_times(0.5)),
        Row("members", "`members` calls, 1 member, one at a time", "/s", at_least_serf_times(0.7)),
        Row("members-64", f"`members` calls, 1 member, {one.WINDOW} at a time", "/s"),
        Row("many", f"`members` calls, {one.MANY + 1:,} members", "/s"),
    )),
    Measurement("process", one.members_process, (
        Row("wall", "`members` as a whole process", "ms", at_most(75)),
    )),
    Measurement("pings", wire.pings, (
        Row("rate", "pings answered", "/s", at_least_serf_times(4)),
    )),
    Measurement("pushpull", wire.push_pull, (
        Row("time", f"push/pull of {wire.FAKE_MEMBERS:,} members", "ms", serf_times(1.3)),
        Row("memory", f"memory for each of {wire.FAKE_MEMBERS:,} members", "kB"),
    )),
    Measurement("join", wire.join, (
        Row("time", f"join of a cluster of {wire.JOINED_MEMBERS:,}", "ms"),
    )),
    Measurement("boot", many.boot, (
        Row("wall", "start of all agents (`join`), until all see all", "s", {100: Goal(25)}),
        Row("cpu", "CPU of each agent until then (`join`)", "s", at_most(0.3)),
    ), many.JOIN, (40, 100)),
    Measurement("retry-join", many.boot, (
        Row("wall", "start of all agents (`retry-join`), until all see all", "s", {100: Goal(25)}),
        Row("cpu", "CPU of each agent until then (`retry-join`)", "s", at_most(0.3)),
    ), many.RETRY_JOIN, (20, 40, 100)),
    Measurement("memory", many.memory_of_agents, (
        Row("rss", "resident memory", "MB", at_most(29)),
        Row("pss", "proportional memory", "MB", at_most(20)),
    ), many.RETRY_JOIN, (20,)),
    Measurement("idle", many.idle, (
        Row("cpu", "CPU of an idle agent", "%", serf_times(0.75)),
    ), many.RETRY_JOIN, (20, 100)),
    Measurement("event", many.event, (
        Row("seen", "user event, until the last member has it", "ms",
            {20: Goal(0.05, of_serf=True), 100: Goal(0.1, of_serf=True)}),
    ), many.RETRY_JOIN, (20, 100)),
    Measurement("query", many.query, (
        Row("done", "query until `done`", "s"),
    ), many.RETRY_JOIN, (20, 100)),
    Measurement("crash", many.crash, (
        Row("first", "SIGKILL, until the first member reports it failed", "s", at_most(3.5)),
        Row("all", "SIGKILL, until all members report it failed", "s", at_most(4)),
    ), many.RETRY_JOIN, (20,)),
    Measurement("keys", many.keys, (
        Row("rotation", "`keys -install` and `-use`, until all have the key", "ms"),
    ), many.KEYS, (20,)),
)  # fmt: skip
NAMES = tuple(measurement.name for measurement in MEASUREMENTS)
