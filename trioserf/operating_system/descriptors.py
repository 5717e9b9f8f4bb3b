"""The limit of open descriptors (`RLIMIT_NOFILE`): raised at the start, and restored for scripts.

A process may raise its soft limit up to the hard one. Scripts get the old limit back, because some
programs use `select()`, or close every possible descriptor at their start.
"""

import sys
from typing import Final

RESERVE: Final = 128
"""Descriptors for sockets, files, scripts, look-ups, and streams to other members."""
_FALLBACK: Final = 10_240
"""The most that macOS allows (`OPEN_MAX`) when its hard limit claims to be infinite."""
_changed: dict[str, int] = {}
"""The soft limit before `raise_limit`, if that has changed it; a limit belongs to the process."""


def raise_limit() -> None:
    """Raise the soft limit of this process to its hard limit; nothing on Windows."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for value in (hard, _FALLBACK):
            if soft != resource.RLIM_INFINITY and (
                soft < value or value == resource.RLIM_INFINITY
            ):
                try:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (value, hard))
                except (OSError, ValueError):
                    continue
                _changed.setdefault("soft", soft)
                return


def limit_of_scripts() -> int | None:
    """Return the soft limit that scripts must get back; None if it has not changed."""
    return _changed.get("soft")


def low_limit_warning(streams: int, connections: int) -> str:
    """Return a warning if fewer descriptors may be open than an agent can need; else nothing.

    Windows has no such limit.

    Args:
        streams: incoming streams of other members at once (`max_streams`).
        connections: connections to the control port at once.
    """
    if sys.platform == "win32":
        return ""
    else:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = streams + connections + RESERVE
        if soft == resource.RLIM_INFINITY or soft >= needed:
            return ""
        return (
            f"this process may open {soft} descriptors, but {streams} streams (max_streams),"
            f" {connections} connections to the control port and {RESERVE} others can be open at"
            f" once; expected a limit of {needed} or more (ulimit -n, LimitNOFILE= of systemd), or"
            " a smaller max_streams"
        )
