"""A limit to the real time of a simulation.

A node in an endless loop stops virtual time, so no Trio deadline can end it. A scenario that waits
for something that never happens has no deadline, and virtual time runs on. A signal ends both.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_RETRY_INTERVAL: Final = 2.0
"""Seconds between attempts to end the block."""
_AT_ONCE: Final = 1e-6
"""Seconds until an overdue alarm: 0 would disable the timer."""


class SimulationTimeout(Exception):
    """A simulation was cut off."""


@contextmanager
def real_time_limit(seconds: float, on_limit: Callable[[], None] | None = None) -> Iterator[None]:
    """Cut off the block after so many seconds of real time.

    At the limit `on_limit` is called. If the block has not ended after a retry interval, it is
    interrupted at any point, as by Ctrl-C; this can leave Trio in an inconsistent state.

    This works in the main thread only, on systems with interval timers. An alarm that was set
    before, for example by a test runner, still arrives; limits can be nested.

    Args:
        seconds: the limit, above 0.
        on_limit: called in a signal handler at the limit, to cancel the block or to report its
            state; without it, the block is interrupted at once.

    Raises:
        SimulationTimeout: the block was cut off.
    """
    alarms = 0

    def on_alarm(_number: int, frame: FrameType | None) -> None:
        nonlocal alarms
        alarms += 1
        if alarms == 1 and on_limit is not None:
            on_limit()
            return
        handler = signal.getsignal(signal.SIGINT)  # Trio's own, while Trio runs
        if callable(handler):
            handler(signal.SIGINT, frame)

    # Trio handles SIGINT only where Python does, and background jobs of a shell ignore it.
    sigint_before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sigalrm_before = signal.signal(signal.SIGALRM, on_alarm)
    former_alarm, former_interval = signal.setitimer(signal.ITIMER_REAL, seconds, _RETRY_INTERVAL)
    began = time.monotonic()
    try:
        yield
    except (KeyboardInterrupt, BaseExceptionGroup) as error:
        if alarms:
            raise SimulationTimeout(_text(seconds)) from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, sigalrm_before)
        signal.signal(signal.SIGINT, sigint_before)
        if former_alarm:
            left = former_alarm - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(left, _AT_ONCE), former_interval)
    if alarms:
        raise SimulationTimeout(_text(seconds))


def _text(seconds: float) -> str:
    return f"still running after {seconds:g} s of real time"
