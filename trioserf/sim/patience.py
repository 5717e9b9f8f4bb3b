"""A limit to the real time that a simulation may take.

A node that is caught in a loop stops virtual time, and a scenario that waits for what never comes
lets it run on for ever. No deadline of Trio's ends the one, none was set for the other, so a
signal does. It acts as Ctrl-C would: Trio knows where that may raise an error and where not.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_AGAIN: Final = 5.0
"""Seconds until the next attempt, should the first one not have ended it."""


class TookTooLong(Exception):
    """A simulation was cut off."""


@contextmanager
def real_time_limit(seconds: float) -> Iterator[None]:
    """Cut off what runs in the block after so many seconds of real time.

    It works in the main thread of a process only, and not where there are no interval timers.

    Args:
        seconds: the limit, above 0.

    Raises:
        TookTooLong: it was cut off.
    """
    has_fired = False

    def interrupt(_number: int, frame: FrameType | None) -> None:
        nonlocal has_fired
        has_fired = True
        handler = signal.getsignal(signal.SIGINT)  # Trio's own, while Trio runs
        if callable(handler):
            handler(signal.SIGINT, frame)

    # Trio takes SIGINT only where Python does, and what a shell runs in the background ignores it.
    interrupted_before = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
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
