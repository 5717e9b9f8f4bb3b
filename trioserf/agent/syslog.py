"""Log to syslog, too, in Serf's format (see agent/README.md, § Log lines).

Lines are sent to a socket of the syslog daemon without waiting: a line that the daemon has no
room for is dropped and counted. If the daemon restarts, the next line connects again.
"""

import os
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from logging.handlers import SysLogHandler
from typing import Final

from trioserf.agent.log_lines import LogLine
from trioserf.errors import ConfigError
from trioserf.operating_system.sockets import unix_socket

PATHS: Final = ("/dev/log", "/var/run/syslog", "/var/run/log")
"""Sockets of syslog daemons."""
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
"""Serf's mapping, one step lower than the names suggest."""
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
"""In English, independent of the locale."""
_FAILED: Final = "Syslog setup failed"
_MAX_LINE: Final = 32 * 1024
"""Bytes of a line; the kernel rejects a datagram that is much longer."""


class Syslog:
    """The connection to the daemon; made by `open_syslog`.

    Attributes:
        dropped: lines that could not be delivered.
    """

    def __init__(self, facility: int, paths: Sequence[str]) -> None:
        self.dropped = 0
        self._facility = facility
        self._paths = paths
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        """Connect to the first daemon that listens.

        Raises:
            OSError: no daemon listens.
        """
        self.close()
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            for path in self._paths:
                candidate = unix_socket(kind)
                candidate.setblocking(False)
                try:
                    candidate.connect(path)
                except OSError:
                    candidate.close()
                else:
                    self._socket = candidate
                    return
        raise OSError("no daemon listens")

    def write(self, line: LogLine) -> None:
        """Send a line at once, or drop it."""
        data = self._encode(line)
        for _ in range(2):
            try:
                if self._socket is None:
                    self.connect()
                if self._deliver(data):
                    return
            except BlockingIOError:
                break
            except OSError:
                self.close()  # the daemon has ended; connect to the next one
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
        # Half a line on a stream: the next line would be read as the rest of it.
        self.close()
        return False

    def _encode(self, line: LogLine) -> bytes:
        priority = self._facility | _PRIORITIES[line.level]
        at = time.localtime(line.time.timestamp())
        stamp = f"{_MONTHS[at.tm_mon - 1]} {at.tm_mday:2} {time.strftime('%H:%M:%S', at)}"
        text = f"<{priority}>{stamp} {TAG}[{os.getpid()}]: {line.source}: {line.message}"
        return text.encode("utf-8", "backslashreplace")[:_MAX_LINE] + b"\n"


@contextmanager
def open_syslog(facility: str, paths: Sequence[str] = PATHS) -> Iterator[Syslog]:
    """Connect to the syslog daemon while the block runs.

    Args:
        facility: a facility's name, in any case.
        paths: sockets of the daemon, preferred ones first.

    Raises:
        ConfigError: no such facility, or no daemon listens.
    """
    with closing(Syslog(facility_number(facility), paths)) as syslog:
        try:
            syslog.connect()
        except OSError:
            raise _no_daemon(paths) from None
        yield syslog


def facility_number(name: str) -> int:
    """Return the number of a facility (raises ConfigError)."""
    number = FACILITIES.get(name.upper())
    if number is None:
        raise ConfigError(
            f"{_FAILED}: invalid syslog facility: {name}; expected one of {' '.join(FACILITIES)}"
        )
    return number


def require_socket(paths: Sequence[str]) -> None:
    """Check that there is a socket at one of the paths, without a connection.

    Raises:
        ConfigError: there is none.
    """
    for path in paths:
        with suppress(OSError, ValueError):
            if stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116 - a text with NUL, too
                return
    raise _no_daemon(paths)


def _no_daemon(paths: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"{_FAILED}: Unix syslog delivery error: no daemon listens at {', '.join(paths)};"
        " expected its socket"
    )
