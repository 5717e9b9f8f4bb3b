"""Virtual time, and a scheduler whose every choice follows from a seed.

Trio runs the tasks that are ready in random order, so that nobody comes to rely on one. A run
that is to be repeated must repeat these choices too; the two names of Trio's own that this takes
are used here and nowhere else. A test runs the same world twice, and in another process, to see
that it still works with the installed Trio.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio
from trio._core import _run

from trioserf.sim.virtual_time import VirtualClock

T = TypeVar("T")


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Let the scheduler's choices follow from a seed for as long as the block lasts."""
    was, state = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()  # noqa: SLF001
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # noqa: SLF001
    _run._r.seed(seed)  # noqa: SLF001
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = was  # type: ignore[misc]  # noqa: SLF001
        _run._r.setstate(state)  # noqa: SLF001


def run_in_virtual_time(main: Callable[[], Awaitable[T]], *, seed: int) -> T:
    """Run a program of Trio whose sleeps take no time, and whose choices follow from a seed.

    Time stands still while any task can run, and jumps to the next deadline when none can. The
    program must not use threads or sockets: it would not be waited for. Nor does
    `trio.testing.wait_all_tasks_blocked` work in it.
    """
    with repeatable(seed):
        return trio.run(main, clock=VirtualClock())
