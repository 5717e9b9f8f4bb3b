"""Virtual time: a clock that jumps to the next deadline, and a seeded scheduler.

The clock stands still while any task can run. When none can, Trio asks it how long to sleep until
the next deadline; it jumps to the deadline and returns 0. Packet arrivals are not deadlines of
tasks: they wait in an event queue, which the clock runs itself. Trio's `MockClock` jumps as well,
but it needs a round of the scheduler to notice that no task can run, and a task with a cancel
scope for each arrival; together these are half of a simulation's work.

Trio runs ready tasks in random order. A repeatable run must repeat that order too, which needs two
private names of Trio; they are used in this file only. `tests/sim/test_repeatable.py` runs the
same scenario twice, and in another process, to check that they work with the installed Trio.

`trio.testing.wait_all_tasks_blocked` does not work with this clock: time moves on as soon as no
task can run.
"""

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import trio
from trio._core import _run

T = TypeVar("T")


class EventQueue(Protocol):
    """Scheduled events that no task waits for."""

    @property
    def next_at(self) -> float:
        """The instant of the next event; infinite if there is none."""

    def run_due(self, now: float) -> None:
        """Run all events that are due."""


class VirtualClock(trio.abc.Clock):
    """A clock that jumps from deadline to deadline; each `trio.run` needs its own.

    Attributes:
        events: the queue whose events run between deadlines, if any.
    """

    def __init__(self) -> None:
        self.events: EventQueue | None = None
        self._now = 0.0

    def start_clock(self) -> None:
        """Start at 0."""

    def current_time(self) -> float:
        """Return the seconds since the start."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Jump to the deadline, or to an earlier event, instead of sleeping.

        Trio calls this only when no task can run.
        """
        events = self.events
        if events is not None:
            at = events.next_at
            if at <= deadline and at < math.inf:
                self._now = max(self._now, at)
                events.run_due(self._now)
                return 0.0
        if deadline == math.inf:
            return deadline  # only a signal can make a task runnable
        self._now = max(self._now, deadline)
        return 0.0


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Seed the scheduler inside the block, so that tasks run in the same order each time."""
    was, state = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()  # noqa: SLF001
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # noqa: SLF001
    _run._r.seed(seed)  # noqa: SLF001
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = was  # type: ignore[misc]  # noqa: SLF001
        _run._r.setstate(state)  # noqa: SLF001


def run_in_virtual_time(main: Callable[[], Awaitable[T]], *, seed: int) -> T:
    """Run a Trio program in virtual time, with a seeded scheduler.

    The program must not use threads or sockets: the clock would not wait for them.
    """
    with repeatable(seed):
        return trio.run(main, clock=VirtualClock())
