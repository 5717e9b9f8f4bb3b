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


def test_instruments_of_trio_still_work() -> None:
    steps: list[str] = []

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if "main" in task.name:  # not Trio's own tasks
                steps.append(task.name)

    async def main() -> None:
        instrument = Steps()
        trio.lowlevel.add_instrument(instrument)
        await trio.sleep(1)
        trio.lowlevel.remove_instrument(instrument)
        seen = len(steps)
        await trio.sleep(1)
        assert len(steps) == seen

    trio.run(main, clock=VirtualClock())
    assert len(steps) == 1


def test_a_callback_from_outside_is_called_soon_though_io_is_seldom_polled() -> None:
    async def main() -> None:
        called = trio.Event()
        trio.lowlevel.current_trio_token().run_sync_soon(called.set)
        await called.wait()

    trio.run(main, clock=VirtualClock())
