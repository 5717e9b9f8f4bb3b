"""What a service manager passes to this process, by systemd's environment variables.

launchd of macOS and the services of Windows pass nothing of the kind. The variables are removed,
so that no script takes them for its own.
"""

import os
import socket
import stat
import sys
from collections.abc import MutableMapping
from typing import Final, NamedTuple

_FIRST: Final = 3
"""The number of the first socket that is passed."""
_MOST: Final = 64
"""More sockets than anyone needs; each number is tried."""


class ServiceEnvironment(NamedTuple):
    """What was passed.

    Attributes:
        notify: address of the socket for messages about this process, as `connect` takes it; empty
            if there is none.
        watchdog: seconds within which the manager expects a sign of life; 0 for never.
        sockets: listening sockets that the manager made.
        problems: what could not be used, each a line of text.
    """

    notify: str = ""
    watchdog: float = 0.0
    sockets: tuple[socket.socket, ...] = ()
    problems: tuple[str, ...] = ()


def take_environment(environ: MutableMapping[str, str]) -> ServiceEnvironment:
    """Read and remove the variables of the service manager; nothing on Windows.

    Args:
        environ: the environment of this process. `NOTIFY_SOCKET` is a path or `@` and a name;
            `WATCHDOG_USEC` counts if `WATCHDOG_PID` is missing or this process, `LISTEN_FDS` if
            `LISTEN_PID` is this process.
    """
    if sys.platform == "win32":
        return ServiceEnvironment()
    else:
        problems: list[str] = []
        own = str(os.getpid())
        notify = environ.pop("NOTIFY_SOCKET", "")
        if notify.startswith("@"):
            notify = "\0" + notify[1:]
        elif notify and not notify.startswith("/"):
            problems.append(f"NOTIFY_SOCKET: expected a path or @NAME, not '{notify}'")
            notify = ""
        interval = _number(environ, "WATCHDOG_USEC", problems)
        is_watched = environ.pop("WATCHDOG_PID", own) == own
        count = _number(environ, "LISTEN_FDS", problems)
        environ.pop("LISTEN_FDNAMES", "")
        sockets: list[socket.socket] = []
        if environ.pop("LISTEN_PID", "") == own:
            sockets = _inherited(min(count, _MOST), problems)
        seconds = interval / 1e6 if is_watched else 0.0
        return ServiceEnvironment(notify, seconds, tuple(sockets), tuple(problems))


def _number(environ: MutableMapping[str, str], name: str, problems: list[str]) -> int:
    text = environ.pop(name, "0")
    if text.isascii() and text.isdecimal():
        return int(text)
    problems.append(f"{name}: expected a whole number, not '{text}'")
    return 0


def _inherited(count: int, problems: list[str]) -> list[socket.socket]:
    found = []
    for number in range(_FIRST, _FIRST + count):
        try:
            os.set_inheritable(number, False)
            found.append(socket.socket(fileno=number))
        except OSError as error:
            problems.append(f"LISTEN_FDS: descriptor {number}: {error.strerror}")
    return found


def is_journal(descriptor: int, environ: MutableMapping[str, str]) -> bool:
    """Return whether what is written to a descriptor goes to systemd's journal.

    `JOURNAL_STREAM` has device and inode of the journal's socket; a redirected stream has others.
    """
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and (device, inode) == (
        str(found.st_dev),
        str(found.st_ino),
    )
