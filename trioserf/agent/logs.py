"""The agent's log, in Serf's format (see agent/README.md, § Log lines).

Each record of the logger `trioserf` becomes a `LogLine`. It is written to a stream if its level
is high enough, kept among the last 512 lines, and delivered to subscriptions. Logging never waits
for a subscriber: lines without room are dropped, counted and announced.
"""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, TextIO

import attrs
import trio

from trioserf.agent.log_limits import LogLimits
from trioserf.dropping_queue import DroppingQueue
from trioserf.printable import printable
from trioserf.results import Dropped

REMEMBERED: Final = 512
"""Lines that are kept for new subscriptions."""
TRACE: Final = 5
LEVELS: Final = {
    "TRACE": TRACE,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERR": logging.ERROR,
}
_ROOT: Final = "trioserf"
_NAMES: Final = {level: name for name, level in LEVELS.items()}


def level_name(level: int) -> str:
    """Return Serf's name of a level of `logging`."""
    known = _NAMES.get(level)
    if known is not None:
        return known
    for name, least in reversed(LEVELS.items()):
        if level >= least:
            return name
    return "TRACE"


@attrs.frozen
class LogLine:
    """One line of the log.

    Attributes:
        time: the time of the record, in UTC.
        level: TRACE, DEBUG, INFO, WARN or ERR.
        source: the logger below `trioserf`: serf, memberlist, agent, agent.ipc ...
        message: the text.
    """

    time: datetime
    level: str
    source: str
    message: str

    @property
    def text(self) -> str:
        """The line as Serf writes it, in local time, with milliseconds, without a newline."""
        local = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(self.time.timestamp()))
        milliseconds = self.time.microsecond // 1000
        return f"{local}.{milliseconds:03} [{self.level}] {self.source}: {self.message}"


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

    Attributes:
        limits: leaves out lines that other hosts cause too often.
    """

    def __init__(self, level: str, stream: TextIO) -> None:
        super().__init__()
        self.limits = LogLimits()
        self.addFilter(self.limits)
        self._level = LEVELS[level]
        self._stream = stream
        self._held: list[LogLine] | None = []
        self._remembered: deque[LogLine] = deque(maxlen=REMEMBERED)
        self._subscriptions: dict[LogSubscription, None] = {}
        self._mirrors: list[Callable[[LogLine], None]] = []

    def set_level(self, level: str) -> None:
        """Write lines of this level and above from now on."""
        self._level = LEVELS[level]

    def emit(self, record: logging.LogRecord) -> None:
        """Handle a record of `logging`."""
        created = datetime.fromtimestamp(record.created, UTC)
        source = record.name.removeprefix(f"{_ROOT}.")
        message = printable(record.getMessage())
        if record.exc_info:
            # Indented, so that no text in an exception looks like a line of its own.
            trace = logging.Formatter().formatException(record.exc_info)
            message += "\n\t" + printable(trace, "\n").replace("\n", "\n\t")
        line = LogLine(created, level_name(record.levelno), source, message)
        self._remembered.append(line)
        for subscription in self._subscriptions:
            subscription.put_nowait(line)
        if record.levelno >= self._level:
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
        for line in self._remembered:
            subscription.put_nowait(line)
        self._subscriptions[subscription] = None
        try:
            yield subscription
        finally:
            del self._subscriptions[subscription]

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
        """End all subscriptions."""
        for subscription in self._subscriptions:
            subscription.close()

    def _write(self, line: LogLine) -> None:
        try:
            self._stream.write(line.text + "\n")
            self._stream.flush()
        except OSError:
            # A full disk or a closed terminal. The line is kept for subscriptions; the next one
            # may succeed.
            return


def disable_caller_info() -> None:
    """Make `logging` skip the caller, thread and process of records, which no line shows.

    This affects the whole process. Finding the caller takes longer than writing the line (see
    "Optimization" in the documentation of `logging`).
    """
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


@contextmanager
def open_logs(level: str = "INFO", stream: TextIO | None = None) -> Iterator[Logs]:
    """Collect the records of the logger `trioserf` while the block runs.

    Args:
        level: least level of lines that are written, one of LEVELS.
        stream: the stream to write to; default: stderr.
    """
    logs = Logs(level, stream or sys.stderr)
    logger = logging.getLogger(_ROOT)
    before = logger.level, logger.propagate
    logger.setLevel(TRACE)
    logger.propagate = False
    logger.addHandler(logs)
    try:
        yield logs
    finally:
        logs.limits.report()
        logs.release()
        logs.end()
        logger.removeHandler(logs)
        logger.setLevel(before[0])
        logger.propagate = before[1]
