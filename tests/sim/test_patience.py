"""Limits of real time, one within the other."""

import signal
import time
from types import FrameType

import pytest
import trio

from trioserf.sim.time_limit import SimulationTimeout, real_time_limit

LONG = 30.0
"""Seconds that nothing here needs."""


def test_what_hangs_is_cut_off_and_seen_before() -> None:
    seen: list[str] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, LONG, name="the sleeper")
            try:
                await trio.sleep(LONG)
            finally:
                seen.append("the cut")

    def look() -> None:
        root = trio.lowlevel.current_root_task()
        assert root is not None
        tasks = [root]
        for task in tasks:
            tasks += [one for nursery in task.child_nurseries for one in nursery.child_tasks]
        seen.extend(task.name for task in tasks if task.name == "the sleeper")

    with (
        pytest.raises(SimulationTimeout, match=r"still running after 0\.2 s"),
        real_time_limit(0.2, look),
    ):
        trio.run(main)
    assert seen == ["the sleeper", "the cut"]


def test_what_ends_in_time_is_left_alone() -> None:
    with real_time_limit(0.1, pytest.fail):
        pass
    time.sleep(0.2)


def test_the_outer_limit_holds_after_an_inner_one() -> None:
    def nest() -> None:
        with real_time_limit(0.2):
            with real_time_limit(LONG):
                pass
            time.sleep(LONG)

    with pytest.raises(SimulationTimeout, match=r"after 0\.2 s"):
        nest()


def test_an_outer_limit_that_is_over_meanwhile_cuts_at_once() -> None:
    def nest() -> None:
        with real_time_limit(0.1):
            with pytest.raises(SimulationTimeout, match=r"after 0\.3 s"), real_time_limit(0.3):
                time.sleep(LONG)
            time.sleep(LONG)

    with pytest.raises(SimulationTimeout, match=r"after 0\.1 s"):
        nest()


def test_the_alarm_of_somebody_else_rings() -> None:
    rung: list[int] = []

    def ring(number: int, _frame: FrameType | None) -> None:
        rung.append(number)

    before = signal.signal(signal.SIGALRM, ring)
    left, again = signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with real_time_limit(LONG):
            pass
        time.sleep(0.4)
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left, again)
    assert rung == [signal.SIGALRM]
