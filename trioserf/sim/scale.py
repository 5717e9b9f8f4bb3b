"""Dissemination times and traffic by cluster size.

Members start with full tables, as in a cluster that has run for hours. A mass join costs so much
more than everything else that it is measured separately (`measure_forming`), and in smaller
clusters only.
"""

import gc
import math
from collections.abc import Iterable
from itertools import takewhile
from typing import Final

import attrs
import trio

from trioserf.node.state import ClusterState
from trioserf.sim.cluster import TEMPLATE, SimCluster
from trioserf.sim.scenario import Scenario, run
from trioserf.sim.trace import Entry, Trace
from trioserf.swim.config import LAN, SwimOptions, push_pull_scale
from trioserf.swim.suspicion import suspicion_timeout
from trioserf.wire.swim_messages import PushPull

IDLE: Final = 10.0
"""Seconds for which traffic is counted."""
PARTITIONED: Final = 60.0
"""Seconds of the partition that cuts off two members: long enough to declare them failed."""
_CRASHES: Final = 4
_MEMBERS_PER_JOIN: Final = 16
_PROBES_TO_FIRST: Final = math.e / (math.e - 1)
"""Mean intervals until any of many members probes a given one (SWIM §3.2)."""
_SILENT_CRASHES: Final = attrs.evolve(TEMPLATE, swim=SwimOptions(refusal_timeout=0))
"""Crashes as those of whole hosts: connections to them are not refused."""


@attrs.frozen(kw_only=True)
class Spread:
    """Quantiles of the seconds until members were reached.

    Attributes:
        half: until 50 % were.
        most: until 99 % were.
        all: until 100 % were.
    """

    half: float
    most: float
    all: float

    @classmethod
    def of(cls, times: Iterable[float]) -> "Spread":
        """Return the quantiles of these times; NaN without any."""
        ordered = sorted(times)
        if not ordered:
            return cls(half=math.nan, most=math.nan, all=math.nan)

        def at(share: float) -> float:
            return ordered[math.ceil(share * len(ordered)) - 1]

        return cls(half=at(0.5), most=at(0.99), all=ordered[-1])


@attrs.frozen(kw_only=True)
class Point:
    """The measurements of one cluster size.

    Attributes:
        members: the size.
        packets: packets per second that an idle member sends.
        bytes: the bytes in them, per second.
        streamed: bytes on streams per second and member: those of one push/pull per interval.
        event: a user event, from its sending to each member.
        join: new members, each from its start to the join event at each member.
        detection: crashes, each from the crash to the failure event at each member.
        heal: seconds from the end of a partition until all members agreed.
        formed: seconds from the last join of a mass join until all members agreed, if measured.
    """

    members: int
    packets: float
    bytes: float
    streamed: float
    event: Spread
    join: Spread
    detection: Spread
    heal: float
    formed: float | None = None


def expected_event(members: int) -> float:
    """Return the seconds until SWIM's epidemic reaches 99 %, if broadcasts wait for a round.

    From x(t) = n / (1 + (n + 1) e^(−k t)) with k messages a round (SWIM §4.1) and Serf's interval.
    """
    rounds = (math.log(members + 1) + math.log(99)) / LAN.gossip_nodes
    return rounds * LAN.gossip_interval


def expected_detection(members: int) -> float:
    """Return the mean seconds from a silent crash to its declaration, with enough confirmations.

    The first probe starts after e/(e − 1) intervals (SWIM §3.2) and lasts one; then comes the
    minimum suspicion timeout, mult · max(1, log10 n) intervals (Lifeguard §IV-B).
    """
    interval = LAN.probe_interval
    suspicion = suspicion_timeout(LAN.suspicion_mult, members, interval)
    return (_PROBES_TO_FIRST + 1) * interval + suspicion


def measure_forming(members: int, *, seed: int = 0) -> float:
    """Return the seconds from the last join of a mass join until all members agree."""
    joined = 0.0

    async def form(cluster: SimCluster) -> None:
        nonlocal joined
        await cluster.grow(members, within=5.0)
        joined = await cluster.settle()

    run(Scenario(form), seed=seed)
    return joined


def measure(members: int, *, seed: int = 0) -> Point:
    """Measure a running cluster: idle traffic, an event, joins, crashes and a partition.

    Args:
        members: the size, 8 or more.
        seed: the seed of all randomness.
    """
    traffic: dict[str, float] = {}
    heal = 0.0
    trace = Trace("scale", seed)

    async def measurements(cluster: SimCluster) -> None:
        nonlocal heal
        trace.kinds = frozenset()
        await start_full(cluster, members)
        trace.kinds = None
        await trio.sleep(1)
        before = cluster.network.counts.copy()
        await trio.sleep(IDLE)
        counted = {kind: count - before[kind] for kind, count in cluster.network.counts.items()}
        for kind in ("packets", "bytes"):
            traffic[kind] = counted[kind] / members / IDLE
        # One exchange per interval, not those counted: the first ones start in a shorter interval.
        exchange = counted["streamed"] / max(1, counted["streams"])
        traffic["streamed"] = exchange / push_pull_scale(LAN.push_pull_interval, members)
        await cluster.event(f"n{members // 2}", "news")
        await trio.sleep(5)
        await cluster.grow(max(1, members // _MEMBERS_PER_JOIN))
        await cluster.settle()
        for number in range(_CRASHES):
            await cluster.crash(f"n{2 + number}")
            await trio.sleep(cluster.rng.random())
        await cluster.settle()
        cluster.partition([f"n{members}", f"n{members - 1}"])
        await trio.sleep(PARTITIONED)
        cluster.heal()
        heal = await cluster.settle()

    try:
        run(Scenario(measurements, config=_SILENT_CRASHES), seed=seed, trace=trace)
    finally:
        gc.unfreeze()
    return Point(
        members=members,
        packets=traffic["packets"],
        bytes=traffic["bytes"],
        streamed=traffic["streamed"],
        event=_spread(trace, "send", "user"),
        join=_spread(trace, "start", "member-join"),
        detection=_spread(trace, "crash", "member-failed"),
        heal=heal,
    )


async def start_full(cluster: SimCluster, members: int) -> None:
    """Start members with full tables."""
    for number in range(1, members + 1):
        await cluster.start(f"n{number}")
    nodes = tuple(cluster.node(m.id).memberlist.local.node_state() for m in cluster.up)
    full = PushPull(False, nodes, b"")

    def fill(state: ClusterState, now: float) -> None:
        state.merge(full, now)
        # All members have these records, so there is nothing to broadcast.
        for queue in (state.membership.broadcasts, *state.serf.queues.values()):
            queue.prune(0)

    for member in cluster.up:
        node = cluster.node(member.id)
        await node._owner.ask(fill)  # noqa: SLF001 - only an experiment needs this
        node.add_seeds([f"{seed.name}/{seed.address}" for seed in cluster.up[:2]])
    gc.collect()
    gc.freeze()  # do not scan millions of permanent records in each collection


def _spread(trace: Trace, cause: str, effect: str) -> Spread:
    """Return the times from each cause to its effects at other members, before the partition."""
    entries = list(takewhile(lambda entry: entry.kind != "partition", trace.entries))
    causes = {_subject(entry): entry.at for entry in entries if entry.kind == cause}
    return Spread.of(
        entry.at - causes[_subject(entry)]
        for entry in entries
        if entry.kind == effect and _subject(entry) in causes and entry.member != _subject(entry)
    )


def _subject(entry: Entry) -> str:
    """Return the name of the event or member that an entry is about."""
    if entry.kind in {"send", "user"}:
        return entry.detail.partition("@")[0]
    return entry.detail.split()[0] if entry.kind.startswith("member-") else entry.member


def table(points: list[Point]) -> str:
    """Format measurements as a table."""
    lines = [
        f"{'members':>7} {'formed s':>8}  {'event 50 / 99 / 100 % ms':>24}"
        f"  {'join 50 / 99 / 100 % s':>22}  {'crash 50 / 99 / 100 % s':>23} {'(formula)':>9}"
        f"  {'heal s':>6}  {'packets/s':>9} {'bytes/s':>8} {'streamed':>8}"
    ]
    for one in points:
        event, join, crash = one.event, one.join, one.detection
        formed = "-" if one.formed is None else f"{one.formed:.1f}"
        lines.append(
            f"{one.members:>7} {formed:>8}"
            f"  {1e3 * event.half:>8.1f} {1e3 * event.most:>7.1f} {1e3 * event.all:>7.1f}"
            f"  {join.half:>8.3f} {join.most:>6.2f} {join.all:>6.2f}"
            f"  {crash.half:>8.2f} {crash.most:>6.2f} {crash.all:>7.2f}"
            f" {expected_detection(one.members):>9.2f}"
            f"  {one.heal:>6.1f}  {one.packets:>9.2f} {one.bytes:>8.1f} {one.streamed:>8.1f}"
        )
    return "\n".join(lines)
