"""What a scenario is, and how it is played."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Literal

import attrs
import trio

from trioserf.node.config import NodeConfig
from trioserf.sim.cluster import SimCluster, open_world
from trioserf.sim.invariants import Violation
from trioserf.sim.network import LinkConditions
from trioserf.sim.schedule import run_in_virtual_time
from trioserf.sim.time_limit import real_time_limit
from trioserf.sim.trace import Trace

Observation = Literal["suspicion", "refutation", "failure", "drop"]
"""What may be seen in a run: a run in which a fault shows nowhere has tested nothing."""


class SimulationFailed(AssertionError):
    """An invariant did not hold, or a node broke.

    Attributes:
        trace: what happened until then.
    """

    def __init__(self, text: str, trace: Trace) -> None:
        super().__init__(text)
        self.trace = trace


@attrs.frozen(slots=True, kw_only=True)
class Scenario:
    """A story, with the world it is told in.

    Attributes:
        name: its name.
        about: what happens, in a sentence.
        play: tells it; when it returns, all members must agree within the derived bound.
        link: how packets fare.
        config: what all members have in common.
        shows: what must be seen in every run.
        count_false_alarms: only count them: more is asked of members here than can be sure.
        must_agree: all must agree when it is over.
    """

    name: str
    description: str
    run: Callable[[SimCluster], Awaitable[None]]
    link: LinkConditions = attrs.Factory(LinkConditions)
    config: NodeConfig = attrs.field(factory=lambda: NodeConfig(name="template"))
    must_observe: frozenset[Observation] = frozenset()
    count_false_alarms: bool = False
    must_agree: bool = True

    @classmethod
    def of(
        cls,
        run: Callable[[SimCluster], Awaitable[None]],
        *,
        link: LinkConditions | None = None,
        config: NodeConfig | None = None,
        must_observe: Iterable[Observation] = (),
        count_false_alarms: bool = False,
        must_agree: bool = True,
    ) -> "Scenario":
        """Make a scenario of a function, with its name and its docstring."""
        return cls(
            name=getattr(run, "__name__", "scenario"),
            description=(run.__doc__ or "").strip(),
            run=run,
            link=link or LinkConditions(),
            config=config or NodeConfig(name="template"),
            must_observe=frozenset(must_observe),
            count_false_alarms=count_false_alarms,
            must_agree=must_agree,
        )


def run(
    scenario: Scenario,
    *,
    seed: int = 0,
    quiet: bool = True,
    limit: float = 0,
    trace: Trace | None = None,
) -> Trace:
    """Play a scenario in virtual time and give its trace.

    The same seed gives the same trace, in every process.

    Args:
        scenario: the story.
        seed: what all randomness comes from.
        quiet: keep the nodes' own log lines to themselves.
        limit: seconds of real time after which the run is cut off; 0 for none. In the main
            thread only (`real_time_limit`).
        trace: takes down what happens; a new one unless given.

    Raises:
        SimulationFailed: an invariant did not hold, a node broke, the run was tame, or it was cut
            off.
    """
    trace = trace or Trace(scenario.name, seed)
    scope = trio.CancelScope()

    opened = open_world(
        seed=seed, scenario=scenario.name, link=scenario.link, config=scenario.config, trace=trace
    )

    async def main() -> None:
        with scope:
            async with opened as world:
                world.judge.expect_false_alarms = scenario.count_false_alarms
                await scenario.run(world)
                if scenario.must_agree:
                    await world.settle()
                _judge_tameness(scenario, world)

    with _quiet(quiet):
        try:
            with real_time_limit(limit, lambda: _cancel(scope)) if limit else nullcontext():
                run_in_virtual_time(main, seed=seed)
        except Exception as error:
            raise SimulationFailed(_report(scenario, trace, error), trace) from error
    return trace


def _cancel(scope: trio.CancelScope) -> None:
    """Cancel from a signal handler; whoever does not give way may not notice."""
    with suppress(RuntimeError):  # Trio does not run yet, or has ended
        trio.lowlevel.current_trio_token().run_sync_soon(scope.cancel)


def _judge_tameness(scenario: Scenario, world: SimCluster) -> None:
    judge, counts = world.judge, world.network.counts
    seen = {
        "suspicion": judge.suspicions,
        "refutation": judge.refutations,
        "failure": judge.failures,
        "drop": sum(counts[fate] for fate in ("lost", "cut", "nobody", "full", "slow")),
    }
    missing = sorted(sight for sight in scenario.must_observe if not seen[sight])
    if missing:
        raise Violation("tameness", f"this run has shown no {' and no '.join(missing)}")


def _report(scenario: Scenario, trace: Trace, error: BaseException) -> str:
    cause = _cause(error)
    last = "\n".join(f"  {entry}" for entry in trace.entries[-12:])
    return (
        f"{type(cause).__name__}: {cause}\n"
        f"scenario {scenario.name}, seed {trace.seed}, at {trace.seconds:.6f} s of virtual time\n"
        f"replay: scripts/simulate --scenario {scenario.name} --seed {trace.seed} --seeds 1"
        f" --trace\nlast entries:\n{last}"
    )


def _cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


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
