"""Wake-ups for one waiting task: an event that resets itself, and a deadline that can move."""

import trio


class AutoResetEvent:
    """An event that wakes one task and resets itself.

    A call before the task waits is not lost: the next `wait` returns at once.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    def __call__(self) -> None:
        """Set the event."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until the event is set, then reset it."""
        await self._event.wait()
        self._event = trio.Event()


class DeadlineTimer:
    """A deadline that one task sets and another waits for.

    Attributes:
        at: the deadline in seconds of Trio's clock, or None.
        wake: wakes the waiting task when the deadline moves to an earlier instant.
    """

    __slots__ = ("at", "wake")

    def __init__(self) -> None:
        self.at: float | None = None
        self.wake = AutoResetEvent()

    def move(self, at: float | None) -> None:
        """Set the deadline; wake the waiting task only if it would sleep too long."""
        if at != self.at:
            earlier = at is not None and (self.at is None or at < self.at)
            self.at = at
            if earlier:
                self.wake()

    async def wait(self) -> float:
        """Sleep until the deadline and return it."""
        while True:
            at = self.at
            if at is None:
                await self.wake.wait()
            elif trio.current_time() >= at:
                await trio.lowlevel.checkpoint()
                return at
            else:
                with trio.move_on_at(at):
                    await self.wake.wait()
