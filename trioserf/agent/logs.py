"""The agent's log, in Serf's format (see agent/README.md, § Log lines).

Each record of the logger `trioserf` becomes a `LogLine`. It is written to a stream if its level
is high enough, kept among the last 512 lines, and delivered to subscriptions. Logging never waits
for a subscriber: lines without room are dropped, counted and announced.
"""

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Self, TextIO

import trio

from trioserf.agent.log_folding import LogFolding
from trioserf.agent.log_limits import LogLimits
from trioserf.agent.log_lines import (
    LEVELS,
    NO_FIELDS,
    TRACE,
    LogFormat,
    LogLine,
    fields_of,
    level_name,
)
from trioserf.dropping_queue import DroppingQueue
from trioserf.node.timers import AutoResetEvent
from trioserf.printable import printable
from trioserf.results import Dropped

REMEMBERED: Final = 512
"""Lines that are kept for new subscriptions."""
_LEAST_SLEEP: Final = 0.1
"""Seconds between two looks for repeated lines whose time is over."""
_ROOT: Final = "trioserf"


class _Unformatted(NamedTuple):
    """A line without a reader so far, formatted for its first one."""

    created: float
    level: int
    name: str
    template: str
    values: tuple[object, ...]

    @classmethod
    def of(cls, record: logging.LogRecord) -> Self | None:
        """Return the line of a record; None if its text may be another one later."""
        values = record.args
        if record.exc_info or not isinstance(values, tuple):
            return None
        for value in values:
            if not isinstance(value, str | int | float):
                return None
        return cls(record.created, record.levelno, record.name, record.msg, values)

    def line(self) -> LogLine:
        """Format the line."""
        text = self.template % self.values if self.values else self.template
        return _line(self.created, self.level, self.name, printable(text))


class LogSubscription:
    """Lines of a level and above for one reader; made by `Logs.subscribe`."""

    def __init__(self, level: str, buffer: int) -> None:
        self._least = LEVELS[level]
        self._lines: DroppingQueue[LogLine | Dropped] = DroppingQueue(buffer, Dropped)
        self._readers = trio.lowlevel.ParkingLot()
        self._closed = False

    def put_nowait(self, line: LogLine) -> None:
        """Deliver a line if its level is high enough and there is room."""
        if LEVELS[line.level] >= self._least and self._lines.put(line):
            self._readers.unpark()

    async def receive(self) -> LogLine | Dropped:
        """Wait for the next line.

        Raises:
            trio.EndOfChannel: the log has ended, and all lines were read.
        """
        await trio.lowlevel.checkpoint()
        while not self._lines:
            if self._closed:
                raise trio.EndOfChannel
            await self._readers.park()
        return self._lines.pop()

    def close(self) -> None:
        """End the subscription after the lines in the queue."""
        self._closed = True
        self._readers.unpark_all()


class Logs(logging.Handler):
    """The log: a handler of `logging` that keeps and delivers lines; made by `open_logs`.

    Lines are held back until `release`, so that the banner of the start comes first.

    Args:
        level: least level of lines that are written, one of LEVELS.
        stream: the stream to write to.
        line_format: formats lines for the stream; default: Serf's text.

    Attributes:
        limits: leaves out lines that other hosts cause too often.
        line_format: formats lines for the stream.
        count_lost: returns the number of lines that the stream could not take.
    """

    def __init__(self, level: str, stream: TextIO, line_format: LogFormat | None = None) -> None:
        super().__init__()
        self.limits = LogLimits()
        self.addFilter(self.limits)
        self.line_format = line_format or LogFormat()
        self.count_lost: Callable[[], int] = lambda: 0
        self._levels: dict[str, int] = {}
        self._level_of: dict[str, int] = {}
        self.set_level(level)
        self._folding = LogFolding()
        self._has_repeats = AutoResetEvent()
        self._stream = stream
        self._held: list[LogLine] | None = []
        self._remembered: deque[LogLine | _Unformatted] = deque(maxlen=REMEMBERED)
        self._subscriptions: dict[LogSubscription, None] = {}
        self._mirrors: list[Callable[[LogLine], None]] = []

    def set_level(self, level: str, by_source: Mapping[str, str] | None = None) -> None:
        """Write lines of this level and above from now on.

        Args:
            level: the level, one of LEVELS.
            by_source: other levels, in any case, of some sources and of their parts.
        """
        self._level = LEVELS[level]
        found = (by_source or {}).items()
        self._levels = {f"{_ROOT}.{source}": LEVELS[name.upper()] for source, name in found}
        self._level_of.clear()

    def fold_repeats(self, seconds: float) -> None:
        """Write equal lines within some seconds once from now on; 0: write all."""
        self._deliver(self._folding.expire())
        self._folding = LogFolding(seconds)

    def emit(self, record: logging.LogRecord) -> None:
        """Handle a record of `logging`."""
        if record.levelno < self._least_level(record.name) and not self._subscriptions:
            unformatted = _Unformatted.of(record)
            if unformatted is not None:
                self._remembered.append(unformatted)
                return
        line = _line_of(record)
        self._remembered.append(line)
        for subscription in self._subscriptions:
            subscription.put_nowait(line)
        if record.levelno >= self._least_level(record.name):
            self._deliver(self._folding.feed(line))
            if self._folding.is_repeating:
                self._has_repeats()

    async def run(self) -> None:
        """Write how often lines were repeated when their time is over, until cancelled."""
        while True:
            await self._has_repeats.wait()
            while (expiry := self._folding.next_expiry()) is not None:
                left = (expiry - datetime.now(UTC)).total_seconds()
                # Within limits, because the clock may be set.
                await trio.sleep(min(max(_LEAST_SLEEP, left), self._folding.seconds))
                self._deliver(self._folding.expire(datetime.now(UTC)))

    def _least_level(self, name: str) -> int:
        """Return the least level of lines of a logger that are written."""
        if not self._levels:
            return self._level
        found = self._level_of.get(name)
        if found is None:
            sources = [one for one in self._levels if f"{name}.".startswith(f"{one}.")]
            found = self._levels[max(sources, key=len)] if sources else self._level
            self._level_of[name] = found
        return found

    def _deliver(self, lines: Iterable[LogLine]) -> None:
        """Write lines, or hold them back before `release`."""
        for line in lines:
            for mirror in self._mirrors:
                mirror(line)
            if self._held is None:
                self._write(line)
            else:
                self._held.append(line)

    def release(self) -> None:
        """Write the lines held back, and from now on write each line at once."""
        held, self._held = self._held, None
        for line in held or ():
            self._write(line)

    @contextmanager
    def subscribe(self, level: str, *, buffer: int = 512) -> Iterator[LogSubscription]:
        """Deliver the kept lines of `level` and above, then new ones."""
        subscription = LogSubscription(level, max(buffer, REMEMBERED))
        for line in self.remembered():
            subscription.put_nowait(line)
        self._subscriptions[subscription] = None
        try:
            yield subscription
        finally:
            del self._subscriptions[subscription]

    def remembered(self) -> list[LogLine]:
        """Return the kept lines, the oldest first."""
        kept = self._remembered
        return [one if isinstance(one, LogLine) else one.line() for one in kept]

    @contextmanager
    def tee(self, write: Callable[[LogLine], None]) -> Iterator[None]:
        """Call a function with each line that is written, while the block runs.

        Lines are not held back for it. It must not block, raise or log.
        """
        self._mirrors.append(write)
        try:
            yield
        finally:
            self._mirrors.remove(write)

    def end(self) -> None:
        """Write what is held back, and end all subscriptions."""
        self._deliver(self._folding.expire())
        self.release()
        for subscription in self._subscriptions:
            subscription.close()

    def _write(self, line: LogLine) -> None:
        try:
            self._stream.write(self.line_format(line))
            self._stream.flush()
        except OSError:
            # A full disk or a closed terminal. The line is kept for subscriptions; the next one
            # may succeed.
            return


def _line_of(record: logging.LogRecord) -> LogLine:
    message = printable(record.getMessage())
    if record.exc_info:
        # Indented, so that no text in an exception looks like a line of its own.
        trace = logging.Formatter().formatException(record.exc_info)
        message += "\n\t" + printable(trace, "\n").replace("\n", "\n\t")
    return _line(record.created, record.levelno, record.name, message, fields_of(record))


def _line(
    created: float, level: int, name: str, message: str, fields: Mapping[str, Any] = NO_FIELDS
) -> LogLine:
    source = name.removeprefix(f"{_ROOT}.")
    time = datetime.fromtimestamp(created, UTC)
    return LogLine(time, level_name(level), source, message, fields)


def disable_caller_info() -> None:
    """Make `logging` skip the caller, thread and process of records, which no line shows.

    This affects the whole process. Finding the caller takes longer than writing the line (see
    "Optimization" in the documentation of `logging`).
    """
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


@contextmanager
def open_logs(
    level: str = "INFO", stream: TextIO | None = None, line_format: LogFormat | None = None
) -> Iterator[Logs]:
    """Collect the records of the logger `trioserf` while the block runs.

    Args:
        level: least level of lines that are written, one of LEVELS.
        stream: the stream to write to; default: stderr.
        line_format: formats lines for it; default: Serf's text.
    """
    logs = Logs(level, stream or sys.stderr, line_format)
    logger = logging.getLogger(_ROOT)
    before = logger.level, logger.propagate
    logger.setLevel(TRACE)
    logger.propagate = False
    logger.addHandler(logs)
    try:
        yield logs
    finally:
        logs.limits.report()
        logs.end()
        logger.removeHandler(logs)
        logger.setLevel(before[0])
        logger.propagate = before[1]
