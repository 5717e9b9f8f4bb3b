"""Logging to the system's log as well (spec: configuration; what is sent is what Serf sends).

Lines go to a socket of the syslog daemon, one after the other, and nobody waits for them: a line
that the daemon has no room for is dropped and counted. A daemon that goes away and comes back is
connected to again.
"""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from logging.handlers import SysLogHandler
from typing import Final

from trioserf.agent.logs import LogLine
from trioserf.errors import ConfigError

PATHS: Final = ("/dev/log", "/var/run/syslog", "/var/run/log")
"""Where daemons listen."""
TAG: Final = "serf"
_NAMES: Final = "KERN USER MAIL DAEMON AUTH SYSLOG LPR NEWS UUCP CRON AUTHPRIV FTP"
FACILITIES: Final = {
    **{name: number << 3 for number, name in enumerate(_NAMES.split(" "))},
    **{f"LOCAL{number}": (16 + number) << 3 for number in range(8)},
}
_PRIORITIES: Final = {
    "TRACE": SysLogHandler.LOG_DEBUG,
    "DEBUG": SysLogHandler.LOG_INFO,
    "INFO": SysLogHandler.LOG_NOTICE,
    "WARN": SysLogHandler.LOG_WARNING,
    "ERR": SysLogHandler.LOG_ERR,
}
"""One step lower than the names suggest, as with Serf."""
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
"""In English, whatever language this machine speaks."""
_LONGEST: Final = 32 * 1024
"""Bytes of a line; the kernel would refuse a datagram that is much longer."""


class Syslog:
    """The way to the daemon; made by `open_syslog`.

    Attributes:
        dropped: lines that could not be delivered.
    """

    def __init__(self, facility: int, paths: Sequence[str]) -> None:
        self.dropped = 0
        self._facility = facility
        self._paths = paths
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        """Find a daemon that listens.

        Raises:
            OSError: there is none.
        """
        self.close()
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            for path in self._paths:
                one = socket.socket(socket.AF_UNIX, kind)
                one.setblocking(False)
                try:
                    one.connect(path)
                except OSError:
                    one.close()
                else:
                    self._socket = one
                    return
        raise OSError("Unix syslog delivery error")

    def write(self, line: LogLine) -> None:
        """Send a line, at once or not at all."""
        data = self._spelled(line)
        for _ in range(2):
            try:
                if self._socket is None:
                    self.connect()
                if self._deliver(data):
                    return
            except BlockingIOError:
                break
            except OSError:
                self.close()  # it went away; perhaps another is there
        self.dropped += 1

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _deliver(self, data: bytes) -> bool:
        assert self._socket is not None
        if self._socket.send(data) == len(data):
            return True
        # Half a line on a stream: whatever followed would be taken for the rest of it.
        self.close()
        return False

    def _spelled(self, line: LogLine) -> bytes:
        priority = self._facility | _PRIORITIES[line.level]
        at = time.localtime(line.time.timestamp())
        stamp = f"{_MONTHS[at.tm_mon - 1]} {at.tm_mday:2} {time.strftime('%H:%M:%S', at)}"
        text = f"<{priority}>{stamp} {TAG}[{os.getpid()}]: {line.source}: {line.message}"
        return text.encode("utf-8", "backslashreplace")[:_LONGEST] + b"\n"


@contextmanager
def open_syslog(facility: str, paths: Sequence[str] = PATHS) -> Iterator[Syslog]:
    """Connect to the syslog daemon for as long as the block lasts.

    Args:
        facility: its name in Serf's list, in either case.
        paths: where to look for the daemon, best first.

    Raises:
        ConfigError: no such facility, or nobody listens.
    """
    number = FACILITIES.get(facility.upper())
    if number is None:
        raise ConfigError(
            f"Syslog setup failed: invalid syslog facility: {facility}; expected one of"
            f" {' '.join(FACILITIES)}"
        )
    with closing(Syslog(number, paths)) as syslog:
        try:
            syslog.connect()
        except OSError as error:
            raise ConfigError(
                f"Syslog setup failed: {error}: nobody listens at {', '.join(paths)}"
            ) from None
        yield syslog
