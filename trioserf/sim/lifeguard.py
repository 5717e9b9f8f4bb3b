"""Lifeguard's experiment, repeated with this implementation.

Dadgar, Phillips and Currey ("Lifeguard: Local Health Awareness for More Accurate Failure
Detection", §V) ran 128 members of which C were *anomalous*: their message handling was blocked
for a time, then free for a moment, repeatedly, for two minutes. Each declaration that one of the
other members failed is a false positive. They compared plain SWIM with each of Lifeguard's three
components and with all of them, at alpha 5 and beta 6.

Here an anomalous member is paused in the simulated network: its packets and streams wait in both
directions while its timers go on, as in the paper. `NodeConfig` switches the components.
"""

import math
import random
import statistics
from typing import Final

import attrs
import trio

from trioserf.node.config import NodeConfig
from trioserf.sim.cluster import SimCluster
from trioserf.sim.scenario import Scenario, run
from trioserf.sim.trace import Trace
from trioserf.swim.config import SwimOptions, Timing

CONFIGURATIONS: Final = {
    "SWIM": (False, False, False),
    "LHA-Probe": (True, False, False),
    "LHA-Suspicion": (False, True, False),
    "Buddy System": (False, False, True),
    "Lifeguard": (True, True, True),
}
"""Whether LHA-Probe, LHA-Suspicion and Buddy System are on."""

PAPER: Final = {
    "SWIM": (100.0, 100.0, 100.0, 100.0),
    "LHA-Probe": (67.72, 32.88, 98.5, 90.0),
    "LHA-Suspicion": (3.00, 6.71, 111.3, 106.5),
    "Buddy System": (94.08, 44.57, 100.1, 99.0),
    "Lifeguard": (1.53, 1.89, 110.6, 98.0),
}
"""False positives, those at healthy members, messages, bytes: percent of SWIM (tables IV, VI)."""

ANOMALOUS: Final = (1, 4, 8, 12, 16, 20, 24, 28, 32)
_QUIET: Final = 15.0
"""Seconds before the first anomaly."""
LENGTH: Final = 120.0
"""Seconds of anomalies, as in the paper."""


@attrs.frozen(kw_only=True)
class Measurement:
    """The results of one run.

    Attributes:
        false_positives: declarations by any member that a healthy member failed.
        at_healthy: those by healthy members.
        packets: packets sent by all members.
        bytes: the bytes in them.
        first: seconds from an anomalous member's first block until a healthy member declares it
            failed.
        all: seconds until every healthy member does.
    """

    false_positives: int
    at_healthy: int
    packets: int
    bytes: int
    first: tuple[float, ...]
    all: tuple[float, ...]


def measure(
    configuration: str,
    anomalous: int,
    *,
    seed: int,
    blocked: float,
    free: float,
    length: float = LENGTH,
    members: int = 128,
) -> Measurement:
    """Run the experiment once.

    Args:
        configuration: one of `CONFIGURATIONS`.
        anomalous: the number of anomalous members.
        seed: the seed of all randomness; it selects the same members in all configurations.
        blocked: seconds for which an anomalous member is blocked each time.
        free: seconds between two blocks.
        length: seconds of anomalies.
        members: the number of members.
    """
    victims = random.Random(seed).sample([f"n{n}" for n in range(1, members + 1)], anomalous)
    lha_probe, lha_suspicion, buddy = CONFIGURATIONS[configuration]
    swim = SwimOptions(lha_probe=lha_probe, lha_suspicion=lha_suspicion, buddy=buddy)

    async def experiment(cluster: SimCluster) -> None:
        await cluster.grow(members, within=5.0)
        await trio.sleep_until(_QUIET)
        end = _QUIET + length
        async with trio.open_nursery() as nursery:
            for victim in victims:
                nursery.start_soon(_block_repeatedly, cluster, victim, blocked, free, end)
        await trio.sleep_until(end)

    trace = run(
        Scenario(
            experiment,
            config=NodeConfig(
                name="template",
                timing=Timing(suspicion_mult=5, suspicion_max_timeout_mult=6),
                swim=swim,
            ),
            count_false_alarms=True,
            must_agree=False,
        ),
        seed=seed,
    )
    return _count(trace, set(victims), members)


async def _block_repeatedly(
    cluster: SimCluster, victim: str, blocked: float, free: float, end: float
) -> None:
    while cluster.now < end:
        cluster.pause(victim)
        await trio.sleep(blocked)
        cluster.resume(victim)
        await trio.sleep(free)


def _count(trace: Trace, victims: set[str], members: int) -> Measurement:
    false_positives = at_healthy = 0
    detected: dict[str, dict[str, float]] = {victim: {} for victim in victims}
    for entry in trace.entries:
        if entry.kind != "member-failed":
            continue
        subject = entry.detail.split()[0]
        if subject in victims:
            if entry.member not in victims:
                detected[subject].setdefault(entry.member, entry.at - _QUIET)
            continue
        false_positives += 1
        at_healthy += entry.member not in victims
    healthy = members - len(victims)
    return Measurement(
        false_positives=false_positives,
        at_healthy=at_healthy,
        packets=trace.network["packets"],
        bytes=trace.network["bytes"],
        first=tuple(min(times.values()) for times in detected.values() if times),
        all=tuple(max(times.values()) for times in detected.values() if len(times) == healthy),
    )


def table(runs: dict[tuple[str, int], Measurement]) -> str:
    """Format sums over all numbers of anomalous members, in percent of SWIM, with the paper's.

    Args:
        runs: by configuration and number of anomalous members; SWIM must be among them.
    """
    lines = [
        f"{'':<14} {'FP':>8} {'FP-':>8} {'packets':>9} {'MB':>7}   {'% of SWIM':^31}"
        f"  {'paper':^27}  {'first':>6} {'all':>6}"
    ]
    base = _sums(runs, "SWIM")
    for configuration, paper in PAPER.items():
        sums = _sums(runs, configuration)
        if not sums[2]:
            continue
        shares = " ".join(
            f"{100 * one / all_:>7.2f}" if all_ else f"{'-':>7}"
            for one, all_ in zip(sums, base, strict=True)
        )
        published = " ".join(f"{share:>6.2f}" for share in paper)
        selected = [run for (name, _), run in runs.items() if name == configuration]
        first = [seconds for run in selected for seconds in run.first]
        all_ = [seconds for run in selected for seconds in run.all]
        lines.append(
            f"{configuration:<14} {sums[0]:>8} {sums[1]:>8} {sums[2]:>9} {sums[3] / 1e6:>7.1f}"
            f"   {shares}  {published}  {_median(first):>6.1f} {_median(all_):>6.1f}"
        )
    return "\n".join(lines)


def by_count(runs: dict[tuple[str, int], Measurement]) -> str:
    """Format false positives, and those at healthy members, by number of anomalous members."""
    names = [name for name in CONFIGURATIONS if any(name == one for one, _ in runs)]
    lines = [f"{'C':>3}" + "".join(f" {name:>17}" for name in names)]
    for count in sorted({count for _, count in runs}):
        line = f"{count:>3}"
        for name in names:
            one = runs.get((name, count))
            cell = "-" if one is None else f"{one.false_positives} / {one.at_healthy}"
            line += f" {cell:>17}"
        lines.append(line)
    return "\n".join(lines)


def _sums(runs: dict[tuple[str, int], Measurement], configuration: str) -> tuple[int, ...]:
    selected = [run for (name, _), run in runs.items() if name == configuration]
    return (
        sum(run.false_positives for run in selected),
        sum(run.at_healthy for run in selected),
        sum(run.packets for run in selected),
        sum(run.bytes for run in selected),
    )


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else math.nan
