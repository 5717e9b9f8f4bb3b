"""A limit to the real time that a simulation may take.

A node that is caught in a loop stops virtual time, and a scenario that waits for what never comes
lets it run on for ever. No deadline of Trio's ends the one, none was set for the other, so a
signal does.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_AGAIN: Final = 2.0
"""Seconds until the next attempt, should the last one not have ended it."""
_AT_ONCE: Final = 1e-6
"""Seconds until an alarm that was due meanwhile: 0 would be none."""


class SimulationTimeout(Exception):
    """A simulation was cut off."""


@contextmanager
def real_time_limit(seconds: float, at_first: Callable[[], None] | None = None) -> Iterator[None]:
    """Cut off what runs in the block after so many seconds of real time.

    An interruption acts as Ctrl-C does, wherever it finds the program, and now and then leaves
    Trio in disorder. It is for what does not give way, and comes after `at_first` had its time.

    This works in the main thread of a process only, and not where there are no interval timers.
    Who has set an alarm before, such as a test runner, gets it; limits can be nested.

    Args:
        seconds: the limit, above 0.
        at_first: is called when it is over, from a signal handler, to bring about the end of the
            block in good order, or to look at what there is.

    Raises:
        SimulationTimeout: it was cut off.
    """
    rung = 0

    def ring(_number: int, frame: FrameType | None) -> None:
        nonlocal rung
        rung += 1
        if rung == 1 and at_first is not None:
            at_first()
            return
        handler = signal.getsignal(signal.SIGINT)  # Trio's own, while Trio runs
        if callable(handler):
            handler(signal.SIGINT, frame)

    # Trio takes SIGINT only where Python does, and what a shell runs in the background ignores it.
    interrupted_before = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGALRM, ring)
    alarm, again = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    began = time.monotonic()
    try:
        yield
    except (KeyboardInterrupt, BaseExceptionGroup) as error:
        if rung:
            raise SimulationTimeout(_told(seconds)) from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGINT, interrupted_before)
        if alarm:
            left = alarm - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(left, _AT_ONCE), again)
    if rung:
        raise SimulationTimeout(_told(seconds))


def _told(seconds: float) -> str:
    return f"still running after {seconds:g} s of real time"
