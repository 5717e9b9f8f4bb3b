"""Write to a standard stream without waiting for its reader.

A stopped terminal, a pager or a full pipe makes a write wait, perhaps for ever. An agent that
waits does not acknowledge pings, and other members would record its failure. So a thread writes.
"""

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from trioserf.net.threads import thread_errors
from trioserf.operating_system.processes import wait_until_writable

MAX_WAITING: Final = 256 * 1024
"""Bytes that wait for the reader: the lines of a join of thousands of members."""
END: Final = 2.0
"""Seconds that the end waits for the reader."""


class StreamWriter(io.RawIOBase):
    """Writes to a file descriptor, in order; made by `open_writer`.

    Without room, data is dropped until the thread takes what waits. The thread then writes how
    many lines were lost. Data that cannot be written, as on a full disk, is dropped, too.

    Args:
        descriptor: the file descriptor.
        announce: returns the text about a number of lost lines.

    Attributes:
        lost: the number of lost lines; those of a full disk are counted for files only.
    """

    def __init__(self, descriptor: int, announce: Callable[[int], bytes]) -> None:
        super().__init__()
        self.lost = 0
        self._descriptor = descriptor
        self._announce = announce
        self._changed = threading.Condition()
        self._waiting = bytearray()
        self._lost = 0
        self._writing = False
        self._ended = False

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any, /) -> int:
        """Queue whole lines, or drop them; return the number of bytes."""
        data = bytes(data)
        with self._changed:
            if self._lost or len(self._waiting) + len(data) > MAX_WAITING:
                self._lost += data.count(b"\n")
                self.lost += data.count(b"\n")
            else:
                self._waiting += data
            self._changed.notify_all()
        return len(data)

    def run(self) -> None:
        """Write until `end` is called and everything is written."""
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._lost or self._ended)
                if not (self._waiting or self._lost):
                    return
                data, self._waiting = self._waiting, bytearray()
                lost, self._lost = self._lost, 0
                self._writing = True
            if lost:
                data += self._announce(lost)
            with suppress(OSError):
                self._write_all(data)

    def wait(self, seconds: float) -> bool:
        """Block until everything is written; return whether it was, in this time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not (self._waiting or self._lost or self._writing), seconds
            )

    def end(self) -> None:
        """End the thread when everything is written."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _write_all(self, data: bytearray) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process has changed the mode of the file
                wait_until_writable(self._descriptor)


def start_writer(writer: StreamWriter) -> None:
    """Start the thread of a writer (raises OSError)."""
    with thread_errors():
        # A thread that waits for the reader must not keep the process from its end.
        threading.Thread(target=writer.run, daemon=True).start()


@contextmanager
def open_writer(descriptor: int, announce: Callable[[int], bytes]) -> Iterator[StreamWriter]:
    """Write to a descriptor in a thread while the block runs.

    If the reader does not read for 2 s at the end, the descriptor is replaced by /dev/null, so
    that nothing else waits for that reader.

    Args:
        descriptor: the file descriptor; no other code may write to it in the block.
        announce: returns the text about a number of lost lines.

    Raises:
        OSError: the thread cannot be started.
    """
    writer = StreamWriter(descriptor, announce)
    start_writer(writer)
    try:
        yield writer
    finally:
        writer.end()
        if not writer.wait(END):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)
