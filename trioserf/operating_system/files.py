"""Files: what the systems do differently."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

if sys.platform == "win32":
    AS_IT_IS: Final = os.O_BINARY | os.O_NOINHERIT
    NO_WAIT: Final = 0
    HAS_MODES: Final = False
else:
    AS_IT_IS: Final = os.O_CLOEXEC
    """Flags of `os.open`: bytes are not changed, and no child process inherits the file."""
    NO_WAIT: Final = os.O_NONBLOCK | os.O_NOCTTY
    """Flags of `os.open`: do not wait for the other end of a pipe, take no terminal."""
    HAS_MODES: Final = True
    """Whether modes and owners say who may read a file; on Windows access lists do."""


def set_blocking(descriptor: int) -> None:
    """Make reads of a descriptor opened with `NO_WAIT` wait for data."""
    if sys.platform != "win32":
        os.set_blocking(descriptor, True)


def copy_rights(descriptor: int, like: os.stat_result) -> None:
    """Set owner, group and mode of an open file to those of another one; nothing on Windows.

    Raises:
        OSError: this process may not do that.
    """
    if sys.platform != "win32":
        os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, like.st_mode & 0o7777)


def sync_directory(directory: Path) -> None:
    """Wait until a rename in a directory is on the disk; Windows has no way to do that.

    Raises:
        OSError: the file system does not support it.
    """
    if sys.platform != "win32":
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def lock_for(path: Path) -> Iterator[None]:
    """Lock a file that is replaced in the block; another process with this lock waits.

    The lock is one of the directory, because the file itself may be missing. Windows cannot lock
    directories: a file with the suffix `.lock` is left there, and to wait longer than 10 s is an
    error.

    Raises:
        OSError: the directory cannot be used.
    """
    if sys.platform == "win32":
        import msvcrt

        flags = os.O_RDWR | os.O_CREAT | AS_IT_IS
        descriptor = os.open(path.with_name(f"{path.name}.lock"), flags, 0o600)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
            try:
                yield
            finally:
                os.lseek(descriptor, 0, os.SEEK_SET)
                msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        finally:
            os.close(descriptor)
    else:
        import fcntl

        descriptor = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
