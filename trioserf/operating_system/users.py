"""Users, groups and their limits: POSIX systems number them, Windows does not."""

import os
import sys
from typing import Final, Literal, NamedTuple

HAS_USERS: Final = sys.platform != "win32"
"""Whether processes have numbered users and groups, and limits; without, the lookups fail."""


class User(NamedTuple):
    """An entry of the user database: numbers of user and group, and the home directory."""

    uid: int
    gid: int
    home: str


def user_id() -> int:
    """Return the number of the user of this process, 0 for root; -1 on Windows."""
    if sys.platform == "win32":
        return -1
    else:
        return os.geteuid()


def group_ids() -> frozenset[int]:
    """Return the numbers of the groups of this process; empty on Windows."""
    if sys.platform == "win32":
        return frozenset()
    else:
        return frozenset((os.getegid(), *os.getgroups()))


def find_user(name: str) -> User:
    """Return a user of this host; its home is decoded as UTF-8 whatever the locale is.

    Raises:
        LookupError: there is none.
    """
    if sys.platform == "win32":
        raise LookupError(name)
    else:
        import pwd

        try:
            entry = pwd.getpwnam(name)
        except ValueError as error:  # NUL in a name
            raise LookupError(name) from error
        home = os.fsencode(entry.pw_dir).decode("utf-8", "surrogateescape")
        return User(entry.pw_uid, entry.pw_gid, home)


def find_group(name: str) -> int:
    """Return the number of a group of this host.

    Raises:
        LookupError: there is none.
    """
    if sys.platform == "win32":
        raise LookupError(name)
    else:
        import grp

        try:
            return grp.getgrnam(name).gr_gid
        except ValueError as error:  # NUL in a name
            raise LookupError(name) from error


def groups_of(name: str, gid: int) -> list[int]:
    """Return the numbers of all groups of a user, with its own; empty on Windows."""
    if sys.platform == "win32":
        return []
    else:
        return os.getgrouplist(name, gid)


def lower_to_limit(value: int, kind: Literal["memory", "processes"]) -> int:
    """Return a limit for a child process, or this process's own hard limit if that is lower."""
    if sys.platform == "win32":
        return value
    else:
        import resource

        number = resource.RLIMIT_AS if kind == "memory" else resource.RLIMIT_NPROC
        _, hard = resource.getrlimit(number)
        return value if hard == resource.RLIM_INFINITY else min(value, hard)


def set_group(path: str, group: int) -> None:
    """Set the group of a file, not of the target of a link; nothing on Windows.

    Raises:
        OSError: this process may not do that.
    """
    if sys.platform != "win32":
        os.chown(path, -1, group, follow_symlinks=False)
