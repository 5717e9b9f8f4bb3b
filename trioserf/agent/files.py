"""Files that survive a crash: a reader finds the old content or the new one, never half of it.

The plain functions block for as long as the disk takes. `Files` is what tasks use instead, and
what tests and the simulator replace.
"""

import contextlib
import os
from pathlib import Path
from typing import Protocol

import trio

PRIVATE = 0o600
SHARED = 0o644


def read_file(path: Path) -> bytes | None:
    """Read a whole file; None if there is none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def append_file(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Append to a file that exists.

    Args:
        path: the file.
        data: what to append; a full disk may take the first part of it only.
        sync: wait until it is on the disk.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - a path would create it
        _write(file.fileno(), data)
        if sync:
            os.fsync(descriptor)


def replace_file(path: Path, data: bytes, *, suffix: str = ".tmp", mode: int = PRIVATE) -> None:
    """Give a file new content in one step, or leave it as it was.

    The content is written to a file beside it, brought to the disk and renamed. Where `path` is a
    symbolic link, the file it leads to is replaced.

    Args:
        path: the file, which need not exist.
        data: the whole content.
        suffix: added to its name for the file beside it. One that a crash left is removed.
        mode: the permissions it gets, less the process's umask.

    Raises:
        OSError: it cannot be written.
    """
    target = path.resolve()
    temporary = target.with_name(target.name + suffix)
    temporary.unlink(missing_ok=True)
    # A new file of our own: nobody else may own it, or hold it open, when keys go into it.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode)
    try:
        try:
            _write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(target.parent)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_directory(directory: Path) -> None:
    """Bring a rename to the disk, where the file system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Files(Protocol):
    """What a task needs of a file system; all of it may raise OSError."""

    async def read(self, path: Path) -> bytes | None:
        """Read a whole file; None if there is none."""

    async def append(self, path: Path, data: bytes, *, sync: bool = False) -> None:
        """Append to a file that exists; with `sync`, wait until it is on the disk."""

    async def replace(self, path: Path, data: bytes, *, suffix: str, mode: int) -> None:
        """Give a file new content in one step, by way of a file of that suffix beside it."""


class DiskFiles:
    """The real file system, on threads: a slow disk must not delay an answer to a probe.

    An operation that has begun is waited for even when its task is cancelled; else it could
    overtake the next one.
    """

    async def read(self, path: Path) -> bytes | None:
        """Read a whole file; None if there is none."""
        return await trio.to_thread.run_sync(read_file, path)

    async def append(self, path: Path, data: bytes, *, sync: bool = False) -> None:
        """Append to a file that exists; with `sync`, wait until it is on the disk."""
        await trio.to_thread.run_sync(lambda: append_file(path, data, sync=sync))

    async def replace(self, path: Path, data: bytes, *, suffix: str, mode: int) -> None:
        """Give a file new content in one step, by way of a file of that suffix beside it."""
        await trio.to_thread.run_sync(lambda: replace_file(path, data, suffix=suffix, mode=mode))
