"""The file of the log (`log_file`), written and renamed by a thread.

The agent never waits for the disk. What cannot be written is lost and counted: the first line of
several says why on standard error, and the file says how many when it can be written again.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from trioserf.agent.stream_writer import END, StreamWriter, start_writer
from trioserf.operating_system import files as system

MODE: Final = 0o640
"""Of a new file: readable for a group, such as that of a program that collects logs."""
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | system.AS_IT_IS | system.NO_WAIT

Announce = Callable[[str, str], bytes]
"""Returns a line of the log, with its newline, from a level and a message."""


class LogFile(StreamWriter):
    """Appends to a file, and renames it when it is large; made by `open_log_file`.

    Args:
        path: the file.
        max_size: bytes from which on it is renamed; 0 for never.
        max_files: renamed files that are kept.
        line: formats lines about the file itself.
        report: takes lines about a file that cannot be written.
    """

    def __init__(
        self,
        path: Path,
        max_size: int,
        max_files: int,
        line: Announce,
        report: Callable[[bytes], object],
    ) -> None:
        super().__init__(-1, self._lost_in_queue)
        self._path = path
        self._max_size = max_size
        self._max_files = max_files
        self._line = line
        self._report = report
        self._size = 0
        self._unwritten = 0
        self._is_failing = False
        self._is_torn = False
        self._must_open = True

    def reopen(self) -> None:
        """Open the file again before the next line: another program has renamed it."""
        self._must_open = True

    def close_file(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with suppress(OSError):  # some file systems report a full disk here
                os.close(descriptor)

    def _lost_in_queue(self, count: int) -> bytes:
        return self._line("WARN", f"{count} lines of the log were lost: the disk was too slow")

    def _write_all(self, data: bytearray) -> None:
        """Write whole lines (runs in the thread)."""
        rest = bytes(data)
        try:
            while rest:
                self._prepare(rest)
                part = self._first_lines(rest)
                self._append(part)
                rest = rest[len(part) :]
        except OSError as error:
            self._fail(error, rest.count(b"\n"))

    def _prepare(self, data: bytes) -> None:
        """Open the file, rename a large one, and report what was lost before (raises OSError)."""
        if self._must_open or self._descriptor < 0:
            self._open()
        if self._max_size and self._size and self._size + data.find(b"\n") + 1 > self._max_size:
            self._rotate()
        if self._is_torn:
            self._append(b"\n")
            self._is_torn = False
        if self._unwritten:
            text = f"{self._unwritten} lines of the log were lost: the file could not be written"
            self._append(self._line("WARN", text))
            self._unwritten = 0
        if self._is_failing:
            self._is_failing = False
            self._report(self._line("INFO", f"log_file {self._path}: is written again"))

    def _open(self) -> None:
        self.close_file()
        self._descriptor = os.open(self._path, _FLAGS, MODE)
        self._must_open = False
        self._size = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        """Rename the file, and the files that were renamed before; open a new one.

        If that fails, the file is not renamed any more, and grows.
        """
        self.close_file()  # Windows renames no file that is open
        names = [self._path, *(Path(f"{self._path}.{n}") for n in range(1, self._max_files + 1))]
        try:
            for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
                with suppress(FileNotFoundError):
                    newer.replace(older)
        except OSError as error:
            self._max_size = 0
            text = f"log_file {self._path}: cannot be renamed: {error.strerror}; it grows"
            self._report(self._line("ERR", text))
        self._open()

    def _first_lines(self, data: bytes) -> bytes:
        """Return the first lines that the file has room for; at least one."""
        if not self._max_size or self._size + len(data) <= self._max_size:
            return data
        end = data.rfind(b"\n", 0, max(0, self._max_size - self._size)) + 1
        return data[: end or data.find(b"\n") + 1 or len(data)]

    def _append(self, data: bytes) -> None:
        """Append data (raises OSError); the file may have a part of it then."""
        done = 0
        try:
            while done < len(data):
                count = os.write(self._descriptor, data[done:])
                if not count:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                done += count
        finally:
            self._size += done
            self._is_torn |= 0 < done < len(data) and data[done - 1 : done] != b"\n"

    def _fail(self, error: OSError, count: int) -> None:
        self._unwritten += count
        self.lost += count
        self._must_open = True
        if not self._is_failing:
            self._is_failing = True
            reason = error.strerror or str(error)
            text = f"log_file {self._path}: cannot be written: {reason}; lines are lost"
            self._report(self._line("ERR", text))


@contextmanager
def open_log_file(
    path: Path,
    max_size: int,
    max_files: int,
    line: Announce,
    report: Callable[[bytes], object],
) -> Iterator[LogFile]:
    """Write to a file in a thread while the block runs; for the arguments see `LogFile`.

    A file that cannot be opened raises nothing: that is reported, and tried again with each line.
    The end waits 2 s at most for the disk.

    Raises:
        OSError: the thread cannot be started.
    """
    writer = LogFile(path, max_size, max_files, line, report)
    start_writer(writer)
    try:
        yield writer
    finally:
        writer.end()
        if writer.wait(END):
            writer.close_file()
