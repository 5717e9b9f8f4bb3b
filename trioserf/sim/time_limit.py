"""A limit to the real time of a simulation.

A node in an endless loop stops virtual time, so no Trio deadline can end it. A scenario that waits
for something that never happens has no deadline, and virtual time runs on. A signal ends both.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from trioserf.operating_system.processes import alarm

_RETRY_INTERVAL: Final = 2.0
"""Seconds between attempts to end the block."""


class SimulationTimeout(Exception):
    """A simulation was cut off."""


@contextmanager
def real_time_limit(seconds: float, on_limit: Callable[[], None] | None = None) -> Iterator[None]:
    """Cut off the block after so many seconds of real time.

    At the limit `on_limit` is called. If the block has not ended after a retry interval, it is
    interrupted at any point, as by Ctrl-C; this can leave Trio in an inconsistent state.

    This works in the main thread only. An alarm that was set
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
    try:
        with alarm(seconds, on_alarm, _RETRY_INTERVAL):
            yield
    except (KeyboardInterrupt, BaseExceptionGroup) as error:
        if alarms:
            raise SimulationTimeout(_text(seconds)) from error
        raise
    finally:
        signal.signal(signal.SIGINT, sigint_before)
    if alarms:
        raise SimulationTimeout(_text(seconds))


def _text(seconds: float) -> str:
    return f"still running after {seconds:g} s of real time"
