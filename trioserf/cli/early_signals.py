"""Keep the signals of an agent that arrive before it can handle them.

By default SIGHUP and SIGUSR1 end a process. For an agent they mean work, which is done after the
start. They are blocked until it is known whether the process becomes an agent. Windows has none.
"""

import signal
from typing import Final

from trioserf.operating_system.processes import (
    METRICS_SIGNAL,
    RELOAD_SIGNAL,
    block_signals,
    unblock_signals,
)

_KEPT: Final = tuple(number for number in (RELOAD_SIGNAL, METRICS_SIGNAL) if number is not None)
_noted: dict[int, None] = {}


def block() -> None:
    """Block the signals: the system keeps them."""
    block_signals(_KEPT)


def unblock() -> None:
    """Receive the signals again, those that were kept among them."""
    unblock_signals(_KEPT)


def note() -> None:
    """Note the signals from now on; SIGINT and SIGTERM end the process at once.

    Python's own handler of SIGINT would wait for the end of a system call that blocks.
    """
    for number in _KEPT:
        signal.signal(number, lambda number, _: _noted.setdefault(number))
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def repeat() -> None:
    """Send this process each signal that was noted, now that it handles them."""
    while _noted:
        signal.raise_signal(_noted.popitem()[0])
