"""Files that survive a crash: a reader finds the old content or the new one, never a part.

The plain functions block until the disk is done. Tasks use `Files`, which tests replace. Only
regular files are used: to open or read a pipe or a device may take for ever.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Protocol

from trioserf.net.threads import run_in_thread
from trioserf.operating_system import files as system

PRIVATE = 0o600
SHARED = 0o644


def read_file(path: Path, *, pipe: bool = False) -> bytes | None:
    """Return the content of a file; None if it does not exist.

    Args:
        path: the file.
        pipe: read a pipe, too. One without a writer is empty.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
    """
    try:
        descriptor = _open(path, os.O_RDONLY, pipe=pipe)
    except FileNotFoundError:
        return None
    system.set_blocking(descriptor)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        return file.read()


def is_open_to_all(mode: int) -> bool:
    """Return whether users other than the owner and the group can read or change a file.

    Args:
        mode: the mode of the file. On Windows it says nothing about other users.
    """
    return system.HAS_MODES and bool(mode & 0o006)


def append_file(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Append to a file that exists.

    Args:
        path: the file.
        data: the bytes to append; a full disk may take the first part only.
        sync: wait until the data is on the disk.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the file cannot be written, or is not a regular file.
    """
    descriptor = _open(path, os.O_WRONLY | os.O_APPEND)
    with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - a path would create it
        _write(file.fileno(), data)
        if sync:
            os.fsync(descriptor)


def replace_file(
    path: Path,
    data: bytes,
    *,
    suffix: str = ".tmp",
    mode: int = PRIVATE,
    like: os.stat_result | None = None,
) -> None:
    """Replace the content of a file atomically, or leave the file unchanged.

    Write the content to a temporary file in the same directory, sync it to the disk and rename
    it. If `path` is a symbolic link, its target is replaced.

    Args:
        path: the file; it may be missing.
        data: the whole content.
        suffix: added to the name for the temporary file. One that a crash left is removed.
        mode: permissions of the new file, before the process's umask.
        like: owner and permissions of the new file instead.

    Raises:
        OSError: the file cannot be written, its owner cannot be set, or `path` is not a regular
            file.
    """
    target = path.resolve()
    with contextlib.suppress(FileNotFoundError):
        _require_regular(target.stat().st_mode)
    temporary = target.with_name(target.name + suffix)
    temporary.unlink(missing_ok=True)
    # O_EXCL: no other process may own the file or hold it open when keys are written to it.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | system.AS_IT_IS
    descriptor = os.open(temporary, flags, mode)
    try:
        try:
            if like is not None:
                system.copy_rights(descriptor, like)
            _write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    with contextlib.suppress(OSError):  # not every file system supports it
        system.sync_directory(target.parent)


def _open(path: Path, flags: int, *, pipe: bool = False) -> int:
    """Open a file that exists and is regular, without waiting for anything.

    The first check avoids effects that opening a device may have; the second one is for a path
    that changes in between.
    """
    _require_regular(path.stat().st_mode, pipe=pipe)
    descriptor = os.open(path, flags | system.AS_IT_IS | system.NO_WAIT)
    try:
        _require_regular(os.fstat(descriptor).st_mode, pipe=pipe)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(mode: int, *, pipe: bool = False) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode) and not (pipe and stat.S_ISFIFO(mode)):
        raise OSError(errno.EINVAL, "not a regular file")


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class Files(Protocol):
    """The file operations of tasks; each may raise OSError."""

    async def read(self, path: Path) -> bytes | None:
        """Return the content of a file; None if it does not exist."""

    async def append(self, path: Path, data: bytes, *, sync: bool = False) -> None:
        """Append to a file that exists; with `sync`, wait until the data is on the disk."""

    async def replace(self, path: Path, data: bytes, *, suffix: str, mode: int) -> None:
        """Replace a file atomically through a temporary file with this suffix."""


class DiskFiles:
    """The real file system, in threads: a slow disk must not delay acks.

    Without a thread an operation raises an OSError, too.

    A cancelled task still waits for an operation that has begun; otherwise that operation could
    run after the next one.
    """

    async def read(self, path: Path) -> bytes | None:
        """Return the content of a file; None if it does not exist."""
        return await run_in_thread(lambda: read_file(path))

    async def append(self, path: Path, data: bytes, *, sync: bool = False) -> None:
        """Append to a file that exists; with `sync`, wait until the data is on the disk."""
        await run_in_thread(lambda: append_file(path, data, sync=sync))

    async def replace(self, path: Path, data: bytes, *, suffix: str, mode: int) -> None:
        """Replace a file atomically through a temporary file with this suffix."""
        await run_in_thread(lambda: replace_file(path, data, suffix=suffix, mode=mode))
