"""The virtual clock and its event queue."""

import time

import pytest
import trio

from trioserf.sim.virtual_time import VirtualClock


class _ListQueue:
    """An event queue that records when its events run."""

    def __init__(self, *due: float) -> None:
        self.due = sorted(due)
        self.ran_at: list[float] = []

    @property
    def next_at(self) -> float:
        return self.due[0] if self.due else float("inf")

    def run_due(self, now: float) -> None:
        while self.due and self.due[0] <= now:
            self.due.pop(0)
            self.ran_at.append(now)


def test_sleeps_take_no_real_time_and_end_in_order() -> None:
    order: list[str] = []

    async def sleep(name: str, seconds: float) -> None:
        await trio.sleep(seconds)
        assert trio.current_time() == pytest.approx(seconds)
        order.append(name)

    async def main() -> None:
        assert trio.current_time() == 0
        async with trio.open_nursery() as nursery:
            for name, seconds in (("day", 86_400.0), ("hour", 3600.0), ("blink", 1e-6)):
                nursery.start_soon(sleep, name, seconds)

    started = time.perf_counter()
    trio.run(main, clock=VirtualClock())
    assert time.perf_counter() - started < 10
    assert order == ["blink", "hour", "day"]


def test_time_stands_still_while_a_task_can_run() -> None:
    async def main() -> None:
        with trio.move_on_after(1) as deadline:
            for _ in range(1000):
                await trio.lowlevel.checkpoint()
            assert trio.current_time() == 0
        assert not deadline.cancelled_caught

    trio.run(main, clock=VirtualClock())


def test_queued_events_run_between_deadlines() -> None:
    clock, events = VirtualClock(), _ListQueue(0.5, 1.5, 1.5, 9.0)
    clock.events = events

    async def main() -> None:
        await trio.sleep(1)
        assert events.ran_at == [0.5]
        await trio.sleep(1)
        assert events.ran_at == [0.5, 1.5, 1.5]
        assert trio.current_time() == 2
        assert events.due == [9.0]

    trio.run(main, clock=clock)
