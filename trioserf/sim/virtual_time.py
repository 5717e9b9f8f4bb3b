"""Virtual time: a clock that jumps to the next deadline, and a seeded scheduler.

The clock stands still while any task can run. When none can, Trio asks it how long to sleep until
the next deadline; it jumps to the deadline and returns 0. Packet arrivals are not deadlines of
tasks: they wait in an event queue, which the clock runs itself. Trio's `MockClock` jumps as well,
but it needs a round of the scheduler to notice that no task can run, and a task with a cancel
scope for each arrival; together these are half of a simulation's work.

Trio runs ready tasks in random order. A repeatable run must repeat that order too, which needs
private names of Trio; they are used in this file only. `tests/sim/test_repeatable.py` runs the
same scenario twice, and in another process, to check that they work with the installed Trio.

A few more private names make Trio's loop cheaper, which runs once for each packet and each timer:
it looks for I/O, of which a simulation has none, only now and then.

`trio.testing.wait_all_tasks_blocked` does not work with this clock: time moves on as soon as no
task can run.
"""

import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar

import trio
from trio._core import _run
from trio._core._instrumentation import Instruments

T = TypeVar("T")

_POLL_EVERY: Final = 64
"""Rounds of Trio's loop between two looks at the system's I/O: only signals arrive there."""


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
        runner: Any = _run.GLOBAL_RUN_CONTEXT.runner
        runner.instruments = _Instruments(runner.instruments)
        runner.io_manager = _SeldomPolled(runner.io_manager)

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


class _Instruments(dict[str, Any]):
    """Trio's instruments by hook, as a plain dictionary: its own one is much slower to look into.

    Trio looks into it four times in each round of its loop and twice for each task.
    """

    add_instrument = Instruments.add_instrument
    remove_instrument = Instruments.remove_instrument
    call = Instruments.call

    @property
    def data(self) -> dict[str, Any]:
        """The dictionary that these methods use."""
        return self


class _SeldomPolled:
    """Trio's I/O manager, which asks the system for events only now and then."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._rounds = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def get_events(self, timeout: float) -> Any:
        """Return the events, none in most rounds in which a task can run."""
        self._rounds += 1
        if timeout <= 0 and self._rounds % _POLL_EVERY:
            return ()
        return self._manager.get_events(timeout)

    def process_events(self, events: Any) -> None:
        """Wake the tasks that wait for these events."""
        if events:
            self._manager.process_events(events)


class _TaskOrder(random.Random):
    """The order of ready tasks, the same as of its base class: mostly one task is ready."""

    def shuffle(self, x: Any) -> None:
        """Shuffle a list in place."""
        if len(x) > 1:
            super().shuffle(x)


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Seed the scheduler inside the block, so that tasks run in the same order each time."""
    was, order = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r  # noqa: SLF001
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # noqa: SLF001
    _run._r = _TaskOrder(seed)  # noqa: SLF001
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = was  # type: ignore[misc]  # noqa: SLF001
        _run._r = order  # noqa: SLF001


def run_in_virtual_time(main: Callable[[], Awaitable[T]], *, seed: int) -> T:
    """Run a Trio program in virtual time, with a seeded scheduler.

    The program must not use threads or sockets: the clock would not wait for them.
    """
    with repeatable(seed):
        return trio.run(main, clock=VirtualClock())
