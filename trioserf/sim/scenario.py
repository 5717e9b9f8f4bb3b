"""What a scenario is, and how it is run."""

import logging
from collections.abc import Awaitable, Callable, Iterator, Set
from contextlib import contextmanager, nullcontext, suppress
from typing import Final, Literal

import attrs
import trio

from trioserf.exception_groups import leaf_exceptions
from trioserf.node.config import NodeConfig
from trioserf.sim.cluster import TEMPLATE, SimCluster, open_cluster
from trioserf.sim.invariants import Violation
from trioserf.sim.network import QUIET_LAN, LinkConditions
from trioserf.sim.time_limit import real_time_limit
from trioserf.sim.trace import Trace
from trioserf.sim.virtual_time import run_in_virtual_time

Observation = Literal["suspicion", "refutation", "failure", "drop"]
"""What a scenario can require of each run: a run that its faults do not affect proves nothing."""

DROPPED: Final = ("lost", "cut", "unbound", "full", "slow")
"""Why packets are dropped (see `Network.counts`)."""


class SimulationFailed(AssertionError):
    """An invariant did not hold, or a node crashed.

    Attributes:
        trace: what happened until then.
    """

    def __init__(self, text: str, trace: Trace) -> None:
        super().__init__(text)
        self.trace = trace


@attrs.frozen
class Scenario:
    """What happens in a cluster, and the conditions that it runs under.

    Attributes:
        run: performs it; afterwards all members must agree within `convergence_bound`.
        link: conditions of all links.
        config: what all members have in common.
        must_observe: what must happen in every run.
        count_false_alarms: count false alarms without raising: overload or loss makes some.
        must_agree: whether all members must agree at the end.
    """

    run: Callable[[SimCluster], Awaitable[None]]
    link: LinkConditions = QUIET_LAN
    config: NodeConfig = TEMPLATE
    must_observe: Set[Observation] = frozenset()
    count_false_alarms: bool = False
    must_agree: bool = True

    @property
    def name(self) -> str:
        """The name of its function."""
        return getattr(self.run, "__name__", "scenario")

    @property
    def description(self) -> str:
        """The docstring of its function: what happens, in a sentence."""
        return (self.run.__doc__ or "").strip()


def run(
    scenario: Scenario,
    *,
    seed: int = 0,
    quiet: bool = True,
    limit: float = 0,
    trace: Trace | None = None,
) -> Trace:
    """Run a scenario in virtual time and return its trace.

    The same seed gives the same trace, in every process.

    Args:
        scenario: the scenario.
        seed: the seed of all randomness.
        quiet: suppress the log of the nodes.
        limit: seconds of real time after which the run is cut off; 0 for none. In the main
            thread only (see `real_time_limit`).
        trace: records what happens; by default a new one.

    Raises:
        SimulationFailed: an invariant did not hold, a node crashed, the run was vacuous, or it was
            cut off.
    """
    trace = trace or Trace(scenario.name, seed)
    scope = trio.CancelScope()

    opened = open_cluster(seed=seed, link=scenario.link, config=scenario.config, trace=trace)

    async def main() -> None:
        with scope:
            async with opened as cluster:
                cluster.checker.expect_false_alarms = scenario.count_false_alarms
                await scenario.run(cluster)
                if scenario.must_agree:
                    await cluster.settle()
                _check_observations(scenario, cluster)

    with _quiet(quiet):
        try:
            with real_time_limit(limit, lambda: _cancel(scope)) if limit else nullcontext():
                run_in_virtual_time(main, seed=seed)
        except Exception as error:
            raise SimulationFailed(_report(scenario, trace, error), trace) from error
    return trace


def _cancel(scope: trio.CancelScope) -> None:
    """Cancel from a signal handler; this does not stop a task that reaches no checkpoint."""
    with suppress(RuntimeError):  # Trio does not run yet, or has ended
        trio.lowlevel.current_trio_token().run_sync_soon(scope.cancel)


def _check_observations(scenario: Scenario, cluster: SimCluster) -> None:
    checker, counts = cluster.checker, cluster.network.counts
    observed = {
        "suspicion": checker.suspicions,
        "refutation": checker.refutations,
        "failure": checker.failures,
        "drop": sum(counts[fate] for fate in DROPPED),
    }
    missing = sorted(kind for kind in scenario.must_observe if not observed[kind])
    if missing:
        raise Violation("vacuous", f"this run had no {' and no '.join(missing)}")


def _report(scenario: Scenario, trace: Trace, error: BaseException) -> str:
    cause = leaf_exceptions(error)[0]
    last = "\n".join(f"  {entry}" for entry in trace.entries[-12:])
    return (
        f"{type(cause).__name__}: {cause}\n"
        f"scenario {scenario.name}, seed {trace.seed}, at {trace.seconds:.6f} s of virtual time\n"
        f"replay: scripts/simulate --scenario {scenario.name} --seed {trace.seed} --seeds 1"
        f" --trace\nlast entries:\n{last}"
    )


@contextmanager
def _quiet(active: bool) -> Iterator[None]:
    log = logging.getLogger("trioserf")
    level = log.level
    if active:
        log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)
