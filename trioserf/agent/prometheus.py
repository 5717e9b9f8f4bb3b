"""The page of metrics for Prometheus, in its text format.

It has the metrics of `agent/metrics.py` since the start, under the names of Serf, and figures that
are read for each request, such as the number of members in each status.
"""

import platform
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Final, get_args

import trio
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)

from trioserf._version import __version__
from trioserf.agent.handlers import Handlers, Worker
from trioserf.agent.metrics import INSTANCES, Report
from trioserf.counters import AggregateSample, Histogram
from trioserf.node import Node
from trioserf.results import MemberStatus
from trioserf.wire.errors import KINDS

_MAX_NAMES: Final = 1024
"""Counters, and samples, that are kept apart; other members choose names of events."""
_LABELLED: Final = {
    "serf.events.": ("serf_events_by_name", "name"),
    "serf.queries.": ("serf_queries_by_name", "name"),
    "agent.invoke.": ("agent_invoke_milliseconds", "script"),
    "trioserf.dropped.": ("trioserf_dropped", "kind"),
    INSTANCES: ("memberlist_node_instances", "node_state"),
}
"""Families with a label, which is the rest of the name."""
_PREFIX: Final = "serf-agent."
_PROGRAM: Final = re.compile(r"\s*(?:\w+=[\w./:@%+,-]*\s+)*([\w./+-]+)(?=\s|$)", re.ASCII)
"""The program of a simple command, after assignments of variables."""
_REASONS: Final = ("packets", "streams", "streams in", "not-allowed", *KINDS)
"""Reasons of drops that are on the page from the start."""
_HELP: Final = {
    "trioserf_serf_events_by_name": "User events by name.",
    "trioserf_serf_queries_by_name": "Received queries by name.",
    "trioserf_agent_invoke_milliseconds": "Run times of handlers by program, in milliseconds.",
    "trioserf_dropped": "Dropped messages by kind, without kinds that have not occurred.",
    "trioserf_memberlist_node_instances": "Members in each state of the failure detector.",
}
"""Texts of the families with a label."""


class PrometheusPage:
    """The page; also a sink that sums up all reports (see `Sink`)."""

    def __init__(self) -> None:
        self._gauges: dict[tuple[str, str, str], float] = {}
        self._counters: dict[tuple[str, str, str], AggregateSample] = {}
        self._samples: dict[tuple[str, str, str], AggregateSample] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def watch(self, node: Node, handlers: Handlers) -> None:
        """Add the figures of a node, of its handlers and of this process to the page."""
        self._registry.register(_AgentFigures(node, handlers))
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def record(self, report: Report) -> None:
        """Add a report."""
        self._gauges = {_family(name): value for name, value in report.gauges.items()}
        for name, count in report.counters.items():
            self._sample(self._counters, name).merge(count)
        for name, values in report.samples.items():
            count = self._sample(self._samples, name)
            for value in values:
                count.add(value)

    def _sample(
        self, samples: dict[tuple[str, str, str], AggregateSample], name: str
    ) -> AggregateSample:
        key = _family(name.removeprefix(_PREFIX))
        if key not in samples and len(samples) >= _MAX_NAMES:
            key = (key[0], key[1], "others" if key[1] else "")
        return samples.setdefault(key, AggregateSample())

    def describe(self) -> list[Any]:
        """Return the families that are known before they are collected: none."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the families of metrics; called by prometheus_client."""
        families: dict[str, Any] = {}
        for kind, metrics in (
            (GaugeMetricFamily, {key: (value,) for key, value in self._gauges.items()}),
            (CounterMetricFamily, {key: (one.total,) for key, one in self._counters.items()}),
            (SummaryMetricFamily, {k: (one.count, one.total) for k, one in self._samples.items()}),
        ):
            for (name, label, which), values in metrics.items():
                if name not in families:
                    families[name] = kind(name, _help(name), labels=[label] if label else [])
                families[name].add_metric([which] if label else [], *values)
        yield from families.values()

    def text(self) -> bytes:
        """Return the page."""
        return bytes(generate_latest(self._registry))


class _AgentFigures:
    """Figures of an agent that are read for each page."""

    def __init__(self, node: Node, handlers: Handlers) -> None:
        self._node = node
        self._handlers = handlers
        self._started = _wall_time(trio.current_time())

    def describe(self) -> list[Any]:
        """Return the families that are known before they are collected: none."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the families of metrics; called by prometheus_client."""
        yield from self._node_figures()
        yield from self._handler_figures()
        yield GaugeMetricFamily(
            "trioserf_start_time_seconds",
            "When the agent was started, in seconds since 1970.",
            self._started,
        )
        build = GaugeMetricFamily(
            "trioserf_build_info",
            "1; the labels have the version of trioserf and of Python.",
            labels=["version", "python"],
        )
        build.add_metric([__version__, platform.python_version()], 1)
        yield build

    def _node_figures(self) -> Iterator[Any]:
        node = self._node
        counts = Counter(member.status for member in node.members())
        yield _labelled(
            GaugeMetricFamily,
            "serf_members",
            "Members by status, as this member sees them, itself included.",
            "status",
            {status: counts[status] for status in get_args(MemberStatus) if status != "none"},
        )
        yield GaugeMetricFamily(
            "serf_suspects",
            "Members that do not respond, and are declared failed unless they refute it.",
            node.states()["suspect"],
        )
        stats = node.stats()
        yield GaugeMetricFamily(
            "serf_health_score",
            "Lifeguard's score of this member's own health: 0 is good, up to 8 it is slow or its"
            " network loses packets.",
            int(str(stats["health_score"])),
        )
        yield CounterMetricFamily(
            "serf_member_flaps",
            "Members that failed and joined again within flap_timeout.",
            int(str(stats["flaps"])),
        )
        yield _labelled(
            GaugeMetricFamily,
            "serf_queue_depth",
            "What waits in this member: items of the inbox, and broadcasts by queue.",
            "queue",
            node.queue_depths(),
        )
        yield _labelled(
            CounterMetricFamily,
            "serf_dropped",
            "Packets, messages and streams that were dropped, by reason; decrypt and"
            " plaintext-refused are signs of different encryption keys.",
            "reason",
            dict.fromkeys(_REASONS, 0) | node.dropped(),
        )
        last = GaugeMetricFamily(
            "serf_last_push_pull_timestamp_seconds",
            "When states were last exchanged with another member, in seconds since 1970; without"
            " a sample if never.",
        )
        if node.push_pull_at is not None:
            last.add_metric([], _wall_time(node.push_pull_at))
        yield last

    def _handler_figures(self) -> Iterator[Any]:
        labels = ["filter", "script"]
        found: dict[tuple[str, str], list[Worker]] = {}
        for worker in self._handlers.workers():
            filters = ",".join(map(str, worker.handler.filters))
            key = (_utf8(filters), _program(_utf8(worker.handler.script)))
            found.setdefault(key, []).append(worker)
        count: Callable[[Worker], int]
        for name, help_text, count in (
            ("runs", "Runs of event handlers that have begun.", lambda one: one.runs),
            ("failures", "Runs that failed, timeouts included.", lambda one: one.failures),
            ("timeouts", "Runs that handler_timeout ended.", lambda one: one.timeouts),
            ("drops", "Events for which a full queue had no room.", lambda one: one.dropped),
        ):
            family = CounterMetricFamily(f"trioserf_handler_{name}", help_text, labels=labels)
            for key, workers in found.items():
                family.add_metric(key, sum(map(count, workers)))
            yield family
        durations = HistogramMetricFamily(
            "trioserf_handler_duration_seconds", "How long handlers ran.", labels=labels
        )
        for key, workers in found.items():
            _add_histograms(durations, key, [worker.durations for worker in workers])
        yield durations


def _add_histograms(family: Any, labels: tuple[str, ...], histograms: list[Histogram]) -> None:
    counts = [sum(column) for column in zip(*(one.counts for one in histograms), strict=True)]
    bounds = [*(f"{bound:g}" for bound in histograms[0].bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(counts), strict=True))
    family.add_metric(labels, buckets, sum(one.total for one in histograms))


def _labelled(kind: Any, name: str, text: str, label: str, values: dict[str, int]) -> Any:
    family = kind(name, text, labels=[label])
    for which, value in values.items():
        family.add_metric([which], value)
    return family


def _wall_time(instant: float) -> float:
    """Return the time of day of an instant of Trio's clock, in seconds since 1970."""
    return datetime.now(UTC).timestamp() - (trio.current_time() - instant)


def _help(name: str) -> str:
    """Return the text of a family with one of Serf's names."""
    return _HELP.get(name) or f"{name.removeprefix('trioserf_')}, as Serf sends it to statsd."


def _family(name: str) -> tuple[str, str, str]:
    """Return the family of a name, and its label and value, empty if there are none."""
    for prefix, (family, label) in _LABELLED.items():
        if name.startswith(prefix):
            value = _utf8(name[len(prefix) :])
            if label == "script":
                value = _program(value)
            return f"trioserf_{family.removeprefix('trioserf_')}", label, value
    return "trioserf_" + re.sub("[^a-zA-Z0-9_]", "_", name), "", ""


def _utf8(text: str) -> str:
    """Replace bytes that are not UTF-8 by question marks; the page must be UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _program(script: str) -> str:
    """Return the base name of a script's program: its arguments may be secret."""
    found = _PROGRAM.match(script)
    return found[1].rpartition("/")[2] if found else "script"
