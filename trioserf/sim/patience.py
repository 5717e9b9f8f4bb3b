"""A limit to the real time that a simulation may take.

A node that is caught in a loop stops virtual time, and a scenario that waits for what never comes
lets it run on for ever. No deadline of Trio's ends the one, none was set for the other, so a
signal does. It acts as Ctrl-C would: Trio knows where that may raise an error and where not.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_AGAIN: Final = 5.0
"""Seconds until the next attempt, should the first one not have ended it."""
_AT_ONCE: Final = 1e-6
"""Seconds until an alarm that was due meanwhile: 0 would be none."""


class TookTooLong(Exception):
    """A simulation was cut off."""


@contextmanager
def real_time_limit(seconds: float, witness: Callable[[], None] | None = None) -> Iterator[None]:
    """Cut off what runs in the block after so many seconds of real time.

    It works in the main thread of a process only, and not where there are no interval timers.
    Who has set an alarm before, such as a test runner, gets it; limits can be nested.

    Args:
        seconds: the limit, above 0.
        witness: is called before the cut, with everything as it is then.

    Raises:
        TookTooLong: it was cut off.
    """
    has_fired = False

    def interrupt(_number: int, frame: FrameType | None) -> None:
        nonlocal has_fired
        if not has_fired and witness is not None:
            witness()
        has_fired = True
        handler = signal.getsignal(signal.SIGINT)  # Trio's own, while Trio runs
        if callable(handler):
            handler(signal.SIGINT, frame)

    # Trio takes SIGINT only where Python does, and what a shell runs in the background ignores it.
    interrupted_before = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGALRM, interrupt)
    alarm, again = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    began = time.monotonic()
    try:
        yield
    except (KeyboardInterrupt, BaseExceptionGroup) as error:
        if has_fired:
            raise TookTooLong(f"still running after {seconds:g} s of real time") from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGINT, interrupted_before)
        if alarm:
            left = alarm - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(left, _AT_ONCE), again)
