"""How quickly news spreads, and at what cost, as the cluster grows."""

import math

import attrs
import trio

from trioserf.sim.scenario import Scenario, run
from trioserf.sim.trace import Entry, Trace
from trioserf.sim.world import World

_QUIET = 30.0


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
    def of(cls, times: list[float]) -> "Spread":
        """Give the spread of the instants at which members heard of something."""
        times = sorted(times)
        if not times:
            return cls(half=math.nan, most=math.nan, all=math.nan)

        def at(share: float) -> float:
            return times[math.ceil(share * len(times)) - 1]

        return cls(half=at(0.5), most=at(0.99), all=times[-1])


@attrs.frozen(slots=True, kw_only=True)
class Point:
    """What was measured in a cluster of one size.

    Attributes:
        members: the size.
        joined: seconds from the last start until all knew all.
        event: a user event, from its sending.
        detection: a crash, from the crash.
        idle_packets: packets of a member in a second in which nothing happens.
        idle_bytes: their bytes.
    """

    members: int
    joined: float
    event: Spread
    detection: Spread
    idle_packets: float
    idle_bytes: float


def measure(members: int, *, seed: int = 0) -> Point:
    """Measure a cluster of one size: it forms, is idle, hears an event, loses a member."""
    joined = packets = size = 0.0

    async def play(world: World) -> None:
        nonlocal joined, packets, size
        await world.grow(members, within=5.0)
        joined = await world.settle()
        await trio.sleep(5)
        before = world.network.counts.copy()
        await trio.sleep(_QUIET)
        spent = world.network.counts - before
        packets, size = spent["packets"], spent["bytes"]
        await world.event(f"n{members // 2}", "news")
        await trio.sleep(5)
        await world.crash(f"n{members}")

    trace = run(Scenario.of(play), seed=seed)
    return Point(
        members=members,
        joined=joined,
        event=_spread(trace, "send", "user", "news"),
        detection=_spread(trace, "crash", "member-failed", f"n{members} "),
        idle_packets=packets / members / _QUIET,
        idle_bytes=size / members / _QUIET,
    )


def _spread(trace: Trace, cause: str, effect: str, detail: str) -> Spread:
    [start] = [entry.at for entry in trace.entries if entry.what == cause]

    def is_effect(entry: Entry) -> bool:
        return entry.what == effect and entry.detail.startswith(detail)

    return Spread.of([entry.at - start for entry in trace.entries if is_effect(entry)])


def table(points: list[Point]) -> str:
    """Give what was measured as a table, durations in milliseconds and seconds."""
    lines = [
        f"{'members':>7} {'joined s':>8}   {'event 50 / 99 / 100 % ms':>24}"
        f"   {'crash 50 / 99 / 100 % s':>24}   {'packets/s':>9} {'bytes/s':>8}"
    ]
    for one in points:
        event, crash = one.event, one.detection
        lines.append(
            f"{one.members:>7} {one.joined:>8.1f}"
            f"   {1e3 * event.half:>8.1f} {1e3 * event.most:>7.1f} {1e3 * event.all:>7.1f}"
            f"   {crash.half:>8.2f} {crash.most:>7.2f} {crash.all:>7.2f}"
            f"   {one.idle_packets:>9.2f} {one.idle_bytes:>8.1f}"
        )
    return "\n".join(lines)
