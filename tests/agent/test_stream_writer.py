"""Standard streams whose readers do not read."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from trioserf.agent import stream_writer
from trioserf.agent.stream_writer import MAX_WAITING, StreamWriter, open_writer

assert sys.platform != "win32"

LINE = b"x" * 1023 + b"\n"
WITHIN = 20.0


def announce(count: int) -> bytes:
    return b"%d lost\n" % count


@contextmanager
def full_pipe() -> Iterator[tuple[int, int, int]]:
    """Yield both ends of a pipe without room, and the number of bytes in it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    size = 0
    try:
        while True:
            size += os.write(writing, b"y")
    except BlockingIOError:
        os.set_blocking(writing, True)
    try:
        yield reading, writing, size
    finally:
        os.close(reading)
        os.close(writing)


def read(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(descriptor, size - len(data))
    return data


def test_lines_keep_their_order() -> None:
    reading, writing = os.pipe()
    with open_writer(writing, announce) as writer:
        for number in range(1000):
            writer.write(b"%d\n" % number)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert file.read() == b"".join(b"%d\n" % number for number in range(1000))


def test_lines_without_room_are_counted_where_they_are_missing() -> None:
    with full_pipe() as (reading, writing, size), open_writer(writing, announce) as writer:
        # At most twice: what the thread holds, and what waits for it.
        written = MAX_WAITING // 1024 * 3
        for _ in range(written):
            writer.write(LINE)
        writer.write(b"short\n")
        assert not writer.wait(0)
        with os.fdopen(os.dup(reading), "rb") as file:
            assert len(file.read(size)) == size
            lines: list[bytes] = []
            while not lines or b"lost" not in lines[-1]:
                lines.append(file.readline())
            *kept, last = lines
            assert set(kept) == {LINE}
            assert len(kept) >= MAX_WAITING // len(LINE)
            assert int(last.split()[0]) + len(kept) == written + 1
            assert writer.wait(WITHIN)
            writer.write(b"later\n")
            assert file.readline() == b"later\n"


def test_end_does_not_wait_for_a_reader_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_writer, "END", 0.0)
    with full_pipe() as (reading, writing, size):
        with open_writer(writing, announce) as writer:
            writer.write(LINE)
        os.write(writing, LINE)  # to /dev/null
        assert read(reading, size) == b"y" * size
        assert writer.wait(WITHIN)  # its thread must not write to the next file of this number


def test_descriptor_that_does_not_block_is_waited_for() -> None:
    with full_pipe() as (reading, writing, size):
        os.set_blocking(writing, False)
        with open_writer(writing, announce) as writer:
            writer.write(LINE)
            assert not writer.wait(0)
            read(reading, size)
            assert read(reading, len(LINE)) == LINE


def test_closed_reader_is_ignored() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open_writer(writing, announce) as writer:
        writer.write(LINE)
        assert writer.wait(WITHIN)
        writer.write(LINE)
        assert writer.wait(WITHIN)
    os.close(writing)


def test_missing_thread_is_an_error(no_threads: None) -> None:
    with pytest.raises(OSError, match="no thread"), open_writer(2, announce):
        pass


def test_writer_is_writable() -> None:
    assert StreamWriter(2, announce).writable()
