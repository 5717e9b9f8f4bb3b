"""Measure how user events and queries are delivered (see README.md, § Measured)."""

from collections import Counter
from typing import Final

import attrs
import trio

from trioserf.serf.query_collector import QueryDone
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
_END: Final = 90.0
"""Seconds after the last event; a push/pull of each member takes place in them."""


@attrs.define(kw_only=True)
class Delivery:
    """What a measurement counted; measurements of one kind can be added up.

    Attributes:
        pairs: events times members that should receive them, the sender excluded.
        late: pairs later than each of `LATE`, those that never arrived included.
        never: pairs that did not arrive.
        doubled: pairs that arrived more than once.
        expected: acks that queries expected, the requester's own excluded.
        acked: acks that arrived in time.
        events: the number of events.
        packets: packets that the events caused.
        exchanges: push/pulls that the events caused, beyond those of an idle cluster.
    """

    pairs: int = 0
    late: list[int] = attrs.Factory(lambda: [0] * len(LATE))
    never: int = 0
    doubled: int = 0
    expected: int = 0
    acked: int = 0
    events: int = 0
    packets: float = 0.0
    exchanges: float = 0.0

    def add(self, other: "Delivery") -> None:
        """Add the counts of another measurement."""
        for field in attrs.fields(Delivery):
            value = getattr(other, field.name)
            if field.name == "late":
                self.late = [a + b for a, b in zip(self.late, value, strict=True)]
            else:
                setattr(self, field.name, getattr(self, field.name) + value)


def measure(
    members: int,
    *,
    profile: str = "lan",
    loss: float = 0.0,
    pairs: int = 1000,
    queries: bool = True,
    seed: int = 0,
) -> Delivery:
    """Measure a cluster of members with full tables.

    Args:
        members: the size, 2 or more.
        profile: the name of a timing profile.
        loss: the share of packets that are lost.
        pairs: the least number of pairs of an event and a member.
        queries: whether a query follows each event.
        seed: the seed of all randomness.
    """
    result = Delivery(events=-(-pairs // (members - 1)))
    trace = Trace("delivery", seed)
    trace.kinds = frozenset({"send", "user"})

    async def measurements(cluster: SimCluster) -> None:
        await start_full(cluster, members)
        cluster.network.link = attrs.evolve(cluster.network.link, loss=loss)
        await trio.sleep(1)
        counts = cluster.network.counts
        idle = counts.copy()
        await trio.sleep(IDLE)
        idle_packets = (counts["packets"] - idle["packets"]) / IDLE
        ids = [member.id for member in cluster.up]
        before, started = counts.copy(), trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(result.events):
                await cluster.event(cluster.rng.choice(ids), f"e{number}")
                await trio.sleep(cluster.rng.uniform(0, 2 * _PAUSE))
            if queries:
                await trio.sleep(5)
                counted, ended = counts.copy(), trio.current_time()
                for _ in range(result.events):
                    nursery.start_soon(_ask, cluster, cluster.rng.choice(ids), result)
                    await trio.sleep(cluster.rng.uniform(0, 2 * _PAUSE))
            else:
                counted, ended = counts.copy(), trio.current_time()
        sent = counted["packets"] - before["packets"]
        result.packets = sent - idle_packets * (ended - started)
        await trio.sleep(_END)

    link = LinkConditions()
    config = attrs.evolve(TEMPLATE, timing=PROFILES[profile])
    run(
        Scenario(
            measurements, link=link, config=config, must_agree=False, count_false_alarms=True
        ),
        seed=seed,
        trace=trace,
    )
    _count_pairs(trace, members, result)
    return result


async def _ask(cluster: SimCluster, member: str, result: Delivery) -> None:
    done: QueryDone | None = None
    async with cluster.node(member).query("q") as answers:
        async for answer in answers:
            if isinstance(answer, QueryDone):
                done = answer
    if done is not None:
        result.expected += done.expected - 1
        result.acked += done.expected - 1 - len(done.missing)


def _count_pairs(trace: Trace, members: int, result: Delivery) -> None:
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
