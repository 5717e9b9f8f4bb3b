"""Wake-ups of one waiting task."""

import trio
import trio.testing
from trio.testing import MockClock

from trioserf.node.timers import AutoResetEvent, DeadlineTimer


async def test_event_set_before_the_wait_is_not_lost(autojump_clock: MockClock) -> None:
    event = AutoResetEvent()
    event()
    event()
    await event.wait()
    with trio.move_on_after(1) as timeout:
        await event.wait()
    assert timeout.cancelled_caught


async def test_deadline_can_move_both_ways(autojump_clock: MockClock) -> None:
    timer = DeadlineTimer()
    fired: list[tuple[float, float]] = []
    began = trio.current_time()

    async def waiter() -> None:
        while True:
            at = await timer.wait()
            fired.append((at - began, trio.current_time() - began))
            timer.move(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter)
        await trio.sleep(1)
        timer.move(began + 10)
        await trio.sleep(1)
        timer.move(began + 5)  # earlier
        await trio.sleep(8)
        assert fired == [(5, 5)]
        timer.move(began + 20)
        await trio.sleep(1)
        timer.move(began + 30)  # later: the old deadline does not count
        await trio.sleep(14)
        assert fired == [(5, 5)]
        timer.move(began + 1)  # in the past: at once
        await trio.testing.wait_all_tasks_blocked()
        assert fired[1:] == [(1, 25)]
        nursery.cancel_scope.cancel()
