"""Files that survive a crash: a reader finds the old content or the new one, never a part.

The plain functions block until the disk is done. Tasks use `Files`, which tests replace.
"""

import contextlib
import os
import stat
from pathlib import Path
from typing import Protocol

import trio

PRIVATE = 0o600
SHARED = 0o644


def read_file(path: Path) -> bytes | None:
    """Return the content of a file; None if it does not exist.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def append_file(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Append to a file that exists.

    Args:
        path: the file.
        data: the bytes to append; a full disk may take the first part only.
        sync: wait until the data is on the disk.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the file cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
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
        OSError: the file cannot be written, or its owner cannot be set.
    """
    target = path.resolve()
    temporary = target.with_name(target.name + suffix)
    temporary.unlink(missing_ok=True)
    # O_EXCL: no other process may own the file or hold it open when keys are written to it.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode)
    try:
        try:
            if like is not None:
                os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
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
    """Sync a rename to the disk if the file system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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

    A cancelled task still waits for an operation that has begun; otherwise that operation could
    run after the next one.
    """

    async def read(self, path: Path) -> bytes | None:
        """Return the content of a file; None if it does not exist."""
        return await trio.to_thread.run_sync(read_file, path)

    async def append(self, path: Path, data: bytes, *, sync: bool = False) -> None:
        """Append to a file that exists; with `sync`, wait until the data is on the disk."""
        await trio.to_thread.run_sync(lambda: append_file(path, data, sync=sync))

    async def replace(self, path: Path, data: bytes, *, suffix: str, mode: int) -> None:
        """Replace a file atomically through a temporary file with this suffix."""
        await trio.to_thread.run_sync(lambda: replace_file(path, data, suffix=suffix, mode=mode))
