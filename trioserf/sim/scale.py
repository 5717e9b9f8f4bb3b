"""How quickly news spreads, and at what cost, as the cluster grows.

Clusters are *founded*: their members begin with full tables, as if they had been together for
hours. That thousands join at once, each of whom all others must hear of, costs so much more than
everything else that it is measured for itself (`measure_forming`), and in smaller clusters only.
"""

import gc
import math
from collections.abc import Iterable
from itertools import takewhile
from typing import Final

import attrs
import trio

from trioserf.node.state import ClusterState
from trioserf.sim.cluster import SimCluster
from trioserf.sim.scenario import Scenario, run
from trioserf.sim.trace import Entry, Trace
from trioserf.swim.config import LAN, push_pull_scale
from trioserf.swim.suspicion import suspicion_timeout
from trioserf.wire.swim_messages import PushPull

IDLE: Final = 10.0
"""Seconds for which traffic is counted."""
PARTED: Final = 60.0
"""Seconds for which two members are cut off: they are held for failed, and reconnecting begins."""
_CRASHES: Final = 4
_NEWCOMERS: Final = 16
"""One newcomer for so many members."""
_PROBES_TO_FIRST: Final = math.e / (math.e - 1)
"""Intervals until a random member of many probes a given one, on average (SWIM §3.2)."""


@attrs.frozen(slots=True, kw_only=True)
class Spread:
    """How long something took to reach members, in seconds.

    Attributes:
        half: until half of them had it.
        most: until 99 % had it.
        all: until everyone had it.
    """

    half: float
    most: float
    all: float

    @classmethod
    def of(cls, times: Iterable[float]) -> "Spread":
        """Give the spread of the times after which members heard of something."""
        ordered = sorted(times)
        if not ordered:
            return cls(half=math.nan, most=math.nan, all=math.nan)

        def at(share: float) -> float:
            return ordered[math.ceil(share * len(ordered)) - 1]

        return cls(half=at(0.5), most=at(0.99), all=ordered[-1])


@attrs.frozen(slots=True, kw_only=True)
class Point:
    """What was measured in a cluster of one size.

    Attributes:
        members: the size.
        packets: packets of a member in a second in which nothing happens.
        bytes: their bytes.
        streamed: bytes on streams for each member in such a second: those of an exchange, of which
            each member begins one in every interval of push/pulls.
        event: a user event, from its sending to each member.
        join: newcomers, each from its start to each member that hears of it.
        detection: crashes, each from the crash to each member that declares it.
        heal: seconds from the end of a partition until all agreed again.
        formed: seconds from the last of so many joins until all knew all, if that was measured.
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
    """Give the seconds in which SWIM's epidemic reaches 99 % if news waits for a round.

    From x(t) = n / (1 + (n + 1) e^(−k t)) with k messages a round (SWIM §4.1), Serf's interval.
    """
    rounds = (math.log(members + 1) + math.log(99)) / LAN.gossip_nodes
    return rounds * LAN.gossip_interval


def expected_detection(members: int) -> float:
    """Give the seconds from a crash to its declaration, on average, if all confirm it.

    The first probe comes after e/(e − 1) intervals (SWIM §3.2) and lasts one; then suspicion's
    minimum, mult · max(1, log10 n) intervals (Lifeguard §IV-B).
    """
    interval = LAN.probe_interval
    suspicion = suspicion_timeout(LAN.suspicion_mult, members, interval)
    return (_PROBES_TO_FIRST + 1) * interval + suspicion


def measure_forming(members: int, *, seed: int = 0) -> float:
    """Give the seconds from the last of so many joins until all know all."""
    joined = 0.0

    async def play(world: SimCluster) -> None:
        nonlocal joined
        await world.grow(members, within=5.0)
        joined = await world.settle()

    run(Scenario.of(play), seed=seed)
    return joined


def measure(members: int, *, seed: int = 0) -> Point:
    """Measure a founded cluster: traffic, an event, newcomers, crashes, a partition that heals.

    Args:
        members: how many, 8 or more.
        seed: what all randomness comes from.
    """
    spent: dict[str, float] = {}
    heal = 0.0
    trace = Trace("scale", seed)

    async def play(world: SimCluster) -> None:
        nonlocal heal
        trace.kinds = frozenset()
        await found(world, members)
        trace.kinds = None
        await trio.sleep(1)
        before = world.network.counts.copy()
        await trio.sleep(IDLE)
        counted = {kind: count - before[kind] for kind, count in world.network.counts.items()}
        for kind in ("packets", "bytes"):
            spent[kind] = counted[kind] / members / IDLE
        # Not by the second: first exchanges are spread over an interval that is not yet stretched.
        exchange = counted["streamed"] / max(1, counted["streams"])
        spent["streamed"] = exchange / push_pull_scale(LAN.push_pull_interval, members)
        await world.event(f"n{members // 2}", "news")
        await trio.sleep(5)
        await world.grow(max(1, members // _NEWCOMERS))
        await world.settle()
        for number in range(_CRASHES):
            await world.crash(f"n{2 + number}")
            await trio.sleep(world.rng.random())
        await world.settle()
        world.partition([f"n{members}", f"n{members - 1}"])
        await trio.sleep(PARTED)
        world.heal()
        heal = await world.settle()

    try:
        run(Scenario.of(play), seed=seed, trace=trace)
    finally:
        gc.unfreeze()
    return Point(
        members=members,
        packets=spent["packets"],
        bytes=spent["bytes"],
        streamed=spent["streamed"],
        event=_spread(trace, "send", "user"),
        join=_spread(trace, "start", "member-join"),
        detection=_spread(trace, "crash", "member-failed"),
        heal=heal,
    )


async def found(world: SimCluster, members: int) -> None:
    """Start members that know each other from the beginning."""
    for number in range(1, members + 1):
        await world.start(f"n{number}")
    table = tuple(world.node(m.id).memberlist.local.node_state() for m in world.up)
    everyone = PushPull(False, table, b"")

    def know(state: ClusterState, now: float) -> None:
        state.merge(everyone, now)
        # All have heard of it, so there is nothing to pass on.
        for queue in (state.membership.broadcasts, *state.serf.queues.values()):
            queue.prune(0)

    for who in world.up:
        node = world.node(who.id)
        await node._owner.ask(know)  # noqa: SLF001 - nothing but an experiment has use for this
        node.add_seeds([f"{seed.name}/{seed.address}" for seed in world.up[:2]])
    gc.collect()
    gc.freeze()  # millions of records that stay: not to be looked through again and again


def _spread(trace: Trace, cause: str, effect: str) -> Spread:
    """Give the times from each cause to each effect that names it, until the partition."""
    entries = list(takewhile(lambda entry: entry.what != "partition", trace.entries))
    causes = {_subject(entry): entry.at for entry in entries if entry.what == cause}
    return Spread.of(
        entry.at - causes[_subject(entry)]
        for entry in entries
        if entry.what == effect and _subject(entry) in causes and entry.who != _subject(entry)
    )


def _subject(entry: Entry) -> str:
    """Give the event or the member that an entry is about."""
    if entry.what in {"send", "user"}:
        return entry.detail.partition("@")[0]
    return entry.detail.split()[0] if entry.what.startswith("member-") else entry.who


def table(points: list[Point]) -> str:
    """Give what was measured as a table."""
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
