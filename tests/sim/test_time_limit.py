"""Limits of real time, alone and nested."""

import signal
import sys
import time
from types import FrameType

import pytest
import trio

from trioserf.sim.time_limit import SimulationTimeout, real_time_limit

assert sys.platform != "win32"

LONG = 30.0
"""Seconds that no test reaches."""


def test_hanging_block_is_cut_off_after_the_callback() -> None:
    log: list[str] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, LONG, name="sleeper")
            try:
                await trio.sleep(LONG)
            finally:
                log.append("cut off")

    def log_tasks() -> None:
        root = trio.lowlevel.current_root_task()
        assert root is not None
        tasks = [root]
        for task in tasks:
            tasks += [one for nursery in task.child_nurseries for one in nursery.child_tasks]
        log.extend(task.name for task in tasks if task.name == "sleeper")

    with (
        pytest.raises(SimulationTimeout, match=r"still running after 0\.2 s"),
        real_time_limit(0.2, log_tasks),
    ):
        trio.run(main)
    assert log == ["sleeper", "cut off"]


def test_block_that_ends_in_time_is_not_interrupted() -> None:
    with real_time_limit(0.1, pytest.fail):
        pass
    time.sleep(0.2)


def test_outer_limit_applies_after_an_inner_one() -> None:
    def nest() -> None:
        with real_time_limit(0.2):
            with real_time_limit(LONG):
                pass
            time.sleep(LONG)

    with pytest.raises(SimulationTimeout, match=r"after 0\.2 s"):
        nest()


def test_overdue_outer_limit_cuts_off_at_once() -> None:
    def nest() -> None:
        with real_time_limit(0.1):
            with pytest.raises(SimulationTimeout, match=r"after 0\.3 s"), real_time_limit(0.3):
                time.sleep(LONG)
            time.sleep(LONG)

    with pytest.raises(SimulationTimeout, match=r"after 0\.1 s"):
        nest()


def test_former_alarm_still_arrives() -> None:
    alarms: list[int] = []

    def on_alarm(number: int, _frame: FrameType | None) -> None:
        alarms.append(number)

    before = signal.signal(signal.SIGALRM, on_alarm)
    left, again = signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with real_time_limit(LONG):
            pass
        time.sleep(0.4)
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left, again)
    assert alarms == [signal.SIGALRM]
