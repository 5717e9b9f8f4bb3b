"""Reaps orphans: processes that the system hands to an agent that is PID 1, as in a container.

Their parents, scripts or processes of these, have ended before them. Without `wait` an ended
process stays in the table of processes, which fills up.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from trioserf.node.timers import AutoResetEvent
from trioserf.operating_system.processes import CHILD_SIGNAL, reap_children


class OrphanReaper:
    """Waits for ended children, except those that this process has started itself.

    The exit status of an own child belongs to the code that started it.
    """

    def __init__(self) -> None:
        self._starting = 0
        self._own: set[int] = set()
        self._changed = AutoResetEvent()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Reap nothing in the block, which starts a child and passes its PID to `add`."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1
            self._changed()

    def add(self, pid: int) -> None:
        """Leave the exit status of this child to its owner."""
        self._own.add(pid)

    def remove(self, pid: int) -> None:
        """Note that the owner of this child has got its exit status, or does not want it."""
        self._own.discard(pid)
        self._changed()

    async def run(self) -> None:
        """Reap orphans until cancelled; must run in the main thread, which receives signals."""
        if CHILD_SIGNAL is None:
            return
        with trio.open_signal_receiver(CHILD_SIGNAL) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reap_when_changed)
                async for _ in signals:
                    self._changed()

    async def _reap_when_changed(self) -> None:
        while True:
            if not self._starting:
                # It stops at an own child. Its owner calls `remove`; then the next ones follow.
                reap_children(self._own)
            await self._changed.wait()


def adopts_orphans() -> bool:
    """Return whether the system hands orphans to this process."""
    return os.getpid() == 1
