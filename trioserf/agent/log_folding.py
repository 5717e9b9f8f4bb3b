"""Repeated lines of the log: written once, then counted (`log_fold`)."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from trioserf.agent.log_lines import LogLine

_MAX_LINES: Final = 256
"""Different lines that are remembered; the oldest one is forgotten for a further one."""


class _Repeats:
    """A line that was written, and the number and the time of its repeats."""

    __slots__ = ("count", "first", "last")

    def __init__(self, first: LogLine) -> None:
        self.first = first
        self.last = first.time
        self.count = 0


class LogFolding:
    """Counts lines that are equal but for their time.

    Args:
        seconds: how long after a line equal ones are counted only; 0 for not at all.

    Attributes:
        seconds: see there.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._interval = timedelta(seconds=seconds)
        self._lines: dict[tuple[str, str, str], _Repeats] = {}
        self._repeating = 0

    @property
    def is_repeating(self) -> bool:
        """Whether lines have been counted and not reported yet."""
        return self._repeating > 0

    def feed(self, line: LogLine) -> Iterator[LogLine]:
        """Yield the lines to write now, for a new line: those that are over, and the line itself.

        Nothing is yielded for a repeated line.
        """
        if not self._interval:
            yield line
            return
        yield from self.expire(line.time)
        key = line.level, line.source, line.message
        repeats = self._lines.get(key)
        if repeats is not None:
            self._repeating += repeats.count == 0
            repeats.count += 1
            repeats.last = line.time
            return
        if len(self._lines) >= _MAX_LINES:
            yield from self._pop(next(iter(self._lines)))
        self._lines[key] = _Repeats(line)
        yield line

    def next_expiry(self) -> datetime | None:
        """Return when the first line is over that was repeated; None if there is none."""
        firsts = (one.first.time for one in self._lines.values() if one.count)
        return next((first + self._interval for first in firsts), None)

    def expire(self, now: datetime | None = None) -> Iterator[LogLine]:
        """Forget lines, and yield how often they were repeated, if at all.

        Args:
            now: forget lines that are older than the interval, or younger than now after a change
                of the clock; None: forget all.
        """
        for key, repeats in list(self._lines.items()):
            age = None if now is None else now - repeats.first.time
            if age is not None and timedelta() <= age < self._interval:
                return  # later ones are younger
            yield from self._pop(key)

    def _pop(self, key: tuple[str, str, str]) -> Iterator[LogLine]:
        repeats = self._lines.pop(key)
        if not repeats.count:
            return
        self._repeating -= 1
        first = repeats.first
        seconds = max(1, round((repeats.last - first.time).total_seconds()))
        text = f"{first.message} … {repeats.count} more times in {seconds} s"
        fields = {**first.fields, "repeats": repeats.count, "within_seconds": seconds}
        yield LogLine(repeats.last, first.level, first.source, text, fields)
