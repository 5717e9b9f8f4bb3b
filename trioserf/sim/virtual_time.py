"""Virtual time for simulations: it stands still while any task can run.

Trio asks its clock how long to sleep when nothing is left to do, and when the next deadline is.
This clock answers "not at all" and jumps there. What happens at an instant of its own, without
being any task's deadline, stands in an agenda: packets that arrive. Trio's `MockClock` jumps as
well, but it takes a round of the scheduler to find out that nothing can run, and a task with a
cancel scope for each arrival, which together are half of a simulation's work.

`trio.testing.wait_all_tasks_blocked` does not work with this clock: there is no moment at which
nothing can run and time has not moved yet.
"""

import math
from typing import Protocol

import trio


class EventQueue(Protocol):
    """What happens at instants of its own."""

    @property
    def next_at(self) -> float:
        """The instant of the next entry; infinite if there is none."""

    def act(self, now: float) -> None:
        """Let everything happen whose instant has come."""


class VirtualClock(trio.abc.Clock):
    """A clock that jumps from deadline to deadline; one for each `trio.run`.

    Attributes:
        agenda: what happens besides; at most one.
    """

    def __init__(self) -> None:
        self.agenda: EventQueue | None = None
        self._now = 0.0

    def start_clock(self) -> None:
        """Begin at 0."""

    def current_time(self) -> float:
        """Give the instant, in seconds since the beginning."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Jump to the deadline, or to the agenda's next entry before it, instead of sleeping.

        Trio calls this when no task can run, and only then.
        """
        agenda = self.agenda
        if agenda is not None:
            at = agenda.next_at
            if at <= deadline and at < math.inf:
                self._now = max(self._now, at)
                agenda.act(self._now)
                return 0.0
        if deadline == math.inf:
            return deadline  # nothing will ever happen, but somebody may press Ctrl-C
        self._now = max(self._now, deadline)
        return 0.0
