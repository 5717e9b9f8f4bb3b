"""The agent's log, in Serf's format (spec: log lines).

Everything said under the logger `trioserf` becomes a `LogLine`: written to a stream if its level
is high enough, remembered among the last 512, and handed to those who follow the log. Nobody
waits for a follower; what does not fit into its buffer is counted and told.
"""

import logging
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, TextIO

import attrs
import trio

from trioserf.serf.events import Dropped

REMEMBERED: Final = 512
"""Lines that a new follower is given first."""
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
_CONTROLS: Final = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
"""What could end a line or drive a terminal: names and events of others stand in the log."""


def _escaped(control: re.Match[str]) -> str:
    return control[0].encode("unicode_escape").decode("ascii")


def level_name(level: int) -> str:
    """Give Serf's name of a level of `logging`."""
    known = _NAMES.get(level)
    if known is not None:
        return known
    for name, least in reversed(LEVELS.items()):
        if level >= least:
            return name
    return "TRACE"


@attrs.frozen(slots=True)
class LogLine:
    """One line of the log.

    Attributes:
        time: when it was said, in UTC.
        level: TRACE, DEBUG, INFO, WARN or ERR.
        source: who says it: serf, memberlist, agent, agent.ipc ...
        message: what is said.
    """

    time: datetime
    level: str
    source: str
    message: str

    @property
    def text(self) -> str:
        """The line as Serf writes it, in local time, without a newline."""
        local = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(self.time.timestamp()))
        return f"{local} [{self.level}] {self.source}: {self.message}"


class LogSubscription:
    """Lines as they are said, for one reader."""

    def __init__(self, level: str, buffer: int) -> None:
        self._least = LEVELS[level]
        self._buffer = buffer
        self._lines: deque[LogLine | Dropped] = deque()
        self._dropped = 0
        self._readers = trio.lowlevel.ParkingLot()
        self._closed = False

    def offer(self, line: LogLine) -> None:
        """Deliver a line if its level is wanted, or count it as dropped."""
        if LEVELS[line.level] < self._least:
            return
        if len(self._lines) >= self._buffer:
            self._dropped += 1
            return
        self._announce_dropped()
        self._lines.append(line)
        self._readers.unpark()

    async def receive(self) -> LogLine | Dropped:
        """Wait for the next line.

        Raises:
            trio.EndOfChannel: the log has ended, and everything was read.
        """
        await trio.lowlevel.checkpoint()
        while not self._lines:
            self._announce_dropped()
            if self._lines:
                break
            if self._closed:
                raise trio.EndOfChannel
            await self._readers.park()
        return self._lines.popleft()

    def close(self) -> None:
        """End after what is buffered."""
        self._closed = True
        self._readers.unpark_all()

    def _announce_dropped(self) -> None:
        if self._dropped:
            self._lines.append(Dropped(self._dropped))
            self._dropped = 0


class Logs(logging.Handler):
    """The log: a handler of `logging` that remembers and hands on. Made by `open_logs`.

    Lines are held back until `open_gate`, so that the banner of a start comes first.

    Args:
        level: what is written to the stream, one of LEVELS.
        stream: where to.
    """

    def __init__(self, level: str, stream: TextIO) -> None:
        super().__init__()
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
        """Take a record of `logging` in."""
        said = datetime.fromtimestamp(record.created, UTC)
        source = record.name.removeprefix(f"{_ROOT}.")
        message = record.getMessage()
        if not message.isprintable():
            message = _CONTROLS.sub(_escaped, message)
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        line = LogLine(said, level_name(record.levelno), source, message)
        self._remembered.append(line)
        for subscription in self._subscriptions:
            subscription.offer(line)
        if record.levelno >= self._level:
            for mirror in self._mirrors:
                mirror(line)
            if self._held is None:
                self._write(line)
            else:
                self._held.append(line)

    def release(self) -> None:
        """Write what was held back, and hold back no more."""
        held, self._held = self._held, None
        for line in held or ():
            self._write(line)

    @contextmanager
    def subscribe(self, level: str, *, buffer: int = 512) -> Iterator[LogSubscription]:
        """Deliver the remembered lines of `level` and above, then new ones as they are said."""
        subscription = LogSubscription(level, max(buffer, REMEMBERED))
        for line in self._remembered:
            subscription.offer(line)
        self._subscriptions[subscription] = None
        try:
            yield subscription
        finally:
            del self._subscriptions[subscription]

    @contextmanager
    def tee(self, write: Callable[[LogLine], None]) -> Iterator[None]:
        """Have a function called with every line that is written, while the block lasts.

        Lines are not held back for it. It must return at once, not raise, and not log.
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
            # A full disk or a closed terminal: the line is remembered, and could be told nowhere
            # else. The next one may find room.
            return


def disable_caller_info() -> None:
    """Have `logging` not find out for each record what no line shows, in the whole process.

    Finding the caller takes longer than writing the line (documented by `logging`: optimization).
    """
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


@contextmanager
def open_logs(level: str = "INFO", stream: TextIO | None = None) -> Iterator[Logs]:
    """Collect what is said under the logger `trioserf` while the block runs.

    Args:
        level: what is written, one of LEVELS.
        stream: where to; stderr unless given.
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
        logs.release()
        logs.end()
        logger.removeHandler(logs)
        logger.setLevel(before[0])
        logger.propagate = before[1]
