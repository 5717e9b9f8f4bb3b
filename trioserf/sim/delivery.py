"""Measure how user events and queries are delivered (see README.md, § Measured)."""

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import attrs
import trio

from trioserf.results import QueryDone
from trioserf.sim.cluster import TEMPLATE, SimCluster
from trioserf.sim.network import LinkConditions
from trioserf.sim.scale import IDLE, start_full
from trioserf.sim.scenario import Scenario, run
from trioserf.sim.trace import Trace
from trioserf.swim.config import PROFILES

LATE: Final = (1.0, 3.0)
"""Seconds after which a delivery counts as late."""
_PAUSE: Final = 0.5
"""Mean seconds between two events or queries."""
_SPREAD: Final = 5.0
"""Seconds until an event causes no more packets."""
_END: Final = 90.0
"""Seconds after the last event; a push/pull of each member takes place in them."""

HEAD: Final = (
    f"{'cluster':<14} {'pairs':>7} {'> 1 s':>6} {'> 3 s':>6} {'never':>6} {'doubled':>8}"
    f" {'acks':>15} {'packets/event':>14}"
)
"""The head of a table of measurements."""


@attrs.define(kw_only=True)
class Delivery:
    """What a measurement counted.

    Attributes:
        pairs: events times members that should receive them, the sender excluded.
        late: pairs later than each of `LATE`, those that never arrived included.
        never: pairs that did not arrive.
        doubled: pairs that arrived more than once.
        expected: acks that queries expected, the requester's own excluded.
        acked: acks that arrived in time.
        events: the number of events.
        packets: packets that the events caused.
    """

    pairs: int = 0
    late: list[int] = attrs.Factory(lambda: [0] * len(LATE))
    never: int = 0
    doubled: int = 0
    expected: int = 0
    acked: int = 0
    events: int = 0
    packets: float = 0.0

    def row(self, name: str) -> str:
        """Format the measurement as a row of a table."""
        return (
            f"{name:<14} {self.pairs:>7} {self.late[0]:>6} {self.late[1]:>6} {self.never:>6}"
            f" {self.doubled:>8} {self.acked:>7}/{self.expected:<7}"
            f" {self.packets / self.events:>14.1f}"
        )


def measure(
    members: int,
    *,
    profile: str,
    loss: float,
    pairs: int,
    seed: int,
) -> Delivery:
    """Measure a cluster of members with full tables.

    Args:
        members: the size, 2 or more.
        profile: the name of a timing profile.
        loss: the share of packets that are lost.
        pairs: the least number of pairs of an event and a member.
        seed: the seed of all randomness.
    """
    result = Delivery(events=-(-pairs // (members - 1)))
    trace = Trace("delivery", seed)
    trace.kinds = frozenset({"send", "user"})

    async def measurements(cluster: SimCluster) -> None:
        cluster.checker.expect_late_events = True
        await start_full(cluster, members)
        cluster.network.link = LinkConditions(loss=loss)
        ids = [member.id for member in cluster.up]
        await trio.sleep(1)
        idle, _ = await _packets_in(cluster, partial(trio.sleep, IDLE))
        send = partial(_send_events, cluster, ids, result.events)
        sent, seconds = await _packets_in(cluster, send)
        result.packets = sent - idle / IDLE * seconds
        async with trio.open_nursery() as nursery:
            for _ in range(result.events):
                nursery.start_soon(_ask, cluster, cluster.rng.choice(ids), result)
                await trio.sleep(cluster.rng.uniform(0, 2 * _PAUSE))
        await trio.sleep(_END)

    config = attrs.evolve(TEMPLATE, timing=PROFILES[profile])
    scenario = Scenario(measurements, config=config, must_agree=False, count_false_alarms=True)
    run(scenario, seed=seed, trace=trace)
    count_pairs(trace, members, result)
    return result


async def _packets_in(
    cluster: SimCluster, act: Callable[[], Awaitable[None]]
) -> tuple[int, float]:
    """Return the packets that all members sent meanwhile, and the seconds that it took."""
    counts, started = cluster.network.counts, trio.current_time()
    before = counts["packets"]
    await act()
    return counts["packets"] - before, trio.current_time() - started


async def _send_events(cluster: SimCluster, ids: list[str], count: int) -> None:
    for number in range(count):
        await cluster.event(cluster.rng.choice(ids), f"e{number}")
        await trio.sleep(cluster.rng.uniform(0, 2 * _PAUSE))
    await trio.sleep(_SPREAD)


async def _ask(cluster: SimCluster, member: str, result: Delivery) -> None:
    done: QueryDone | None = None
    async with cluster.node(member).query("q") as answers:
        async for answer in answers:
            if isinstance(answer, QueryDone):
                done = answer
    if done is not None and done.expected is not None:
        result.expected += done.expected - 1
        result.acked += done.expected - 1 - len(done.missing)


def count_pairs(trace: Trace, members: int, result: Delivery) -> None:
    """Count the pairs of a trace with the entries `send` and `user` of a cluster of members."""
    sent: dict[str, float] = {}
    arrivals: dict[str, Counter[str]] = {}
    for entry in trace.entries:
        name = entry.detail.partition("@")[0]
        if entry.kind == "send":
            sent[name] = entry.at
            arrivals[name] = Counter()
            continue
        by = arrivals[name]
        by[entry.member] += 1
        result.doubled += by[entry.member] > 1
        for number, limit in enumerate(LATE):
            result.late[number] += by[entry.member] == 1 and entry.at - sent[name] > limit
    result.pairs = (members - 1) * len(sent)
    never = sum(members - len(by) for by in arrivals.values())
    result.never = never
    result.late = [late + never for late in result.late]
