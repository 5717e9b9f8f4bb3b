"""The file of the log: opened again, renamed when it is large, on a full disk."""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trioserf.agent.log_file import LogFile, open_log_file

assert sys.platform != "win32"

WITHIN = 20.0
"""Seconds for a thread to write."""


class Reports:
    """What is reported on standard error."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, data: bytes) -> None:
        self.lines += data.decode().splitlines()


@pytest.fixture
def reports() -> Reports:
    return Reports()


@contextmanager
def opened(
    path: Path, reports: Reports, max_size: int = 0, max_files: int = 5
) -> Iterator[LogFile]:
    def line(level: str, message: str) -> bytes:
        return f"[{level}] {message}\n".encode()

    with open_log_file(path, max_size, max_files, line, reports) as file:
        yield file


def write(file: LogFile, *lines: str) -> None:
    """Write lines, one after the other, and wait for each."""
    for text in lines:
        file.write(f"{text}\n".encode())
        assert file.wait(WITHIN)


def test_lines_are_appended(tmp_path: Path, reports: Reports) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    with opened(path, reports) as file:
        write(file, "a", "b")
    assert path.read_text() == "before\na\nb\n"
    assert (reports.lines, file.lost) == ([], 0)


def test_new_file_cannot_be_read_by_all(tmp_path: Path, reports: Reports) -> None:
    with opened(tmp_path / "log", reports) as file:
        write(file, "a")
    assert (tmp_path / "log").stat().st_mode & 0o007 == 0


def test_renamed_file_is_used_until_it_is_opened_again(tmp_path: Path, reports: Reports) -> None:
    path, old = tmp_path / "log", tmp_path / "old"
    with opened(path, reports) as file:
        write(file, "a")
        path.rename(old)
        write(file, "b")
        file.reopen()
        write(file, "c")
    assert (old.read_text(), path.read_text()) == ("a\nb\n", "c\n")


def test_large_file_is_renamed(tmp_path: Path, reports: Reports) -> None:
    path = tmp_path / "log"
    with opened(path, reports, max_size=10, max_files=2) as file:
        write(file, "1234", "5678", "9", "a", "b", "c", "d", "long line", "x" * 30, "end")
    names = sorted(one.name for one in tmp_path.iterdir())
    assert names == ["log", "log.1", "log.2"]
    assert [(tmp_path / name).read_text() for name in names] == [
        "end\n",
        "x" * 30 + "\n",
        "long line\n",
    ]
    assert reports.lines == []


def test_lines_that_wait_together_are_divided(tmp_path: Path, reports: Reports) -> None:
    path = tmp_path / "log"
    with opened(path, reports, max_size=10, max_files=9) as file:
        file.write(b"".join(b"%04d\n" % number for number in range(6)))
        assert file.wait(WITHIN)
    texts = [(tmp_path / f"log{end}").read_text() for end in (".2", ".1", "")]
    assert texts == ["0000\n0001\n", "0002\n0003\n", "0004\n0005\n"]


def test_size_of_a_file_from_before_counts(tmp_path: Path, reports: Reports) -> None:
    path = tmp_path / "log"
    path.write_text("12345678\n")
    with opened(path, reports, max_size=10) as file:
        write(file, "new")
    assert (path.read_text(), (tmp_path / "log.1").read_text()) == ("new\n", "12345678\n")


def test_missing_directory_is_reported_once_and_lines_are_counted(
    tmp_path: Path, reports: Reports
) -> None:
    path = tmp_path / "later" / "log"
    with opened(path, reports) as file:
        write(file, "a", "b", "c")
        text = f"log_file {path}: cannot be written: No such file or directory; lines are lost"
        assert reports.lines == [f"[ERR] {text}"]
        assert file.lost == 3
        path.parent.mkdir()
        write(file, "d", "e")
    lost = "[WARN] 3 lines of the log were lost: the file could not be written"
    assert path.read_text().splitlines() == [lost, "d", "e"]
    assert reports.lines[1:] == [f"[INFO] log_file {path}: is written again"]
    assert file.lost == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_reported_once(reports: Reports) -> None:
    with opened(Path("/dev/full"), reports) as file:
        write(file, "a", "b")
    assert len(reports.lines) == 1
    assert "No space left on device; lines are lost" in reports.lines[0]
    assert file.lost == 2


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Limit the size of files in the block, as a disk does: a write may end in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_torn_line_ends_before_the_next_one(tmp_path: Path, reports: Reports) -> None:
    path = tmp_path / "log"
    with opened(path, reports) as file:
        write(file, "first")
        with limited_files(10):
            file.write(b"a longer line\n")
            assert file.wait(WITHIN)
        write(file, "last")
    assert path.read_text().splitlines() == [
        "first",
        "a lo",
        "[WARN] 1 lines of the log were lost: the file could not be written",
        "last",
    ]
    assert "File too large; lines are lost" in reports.lines[0]


def test_file_that_cannot_be_renamed_grows(tmp_path: Path, reports: Reports) -> None:
    path = tmp_path / "log"
    (tmp_path / "log.1").mkdir()
    (tmp_path / "log.1" / "x").touch()
    with opened(path, reports, max_size=4, max_files=1) as file:
        write(file, "a b c", "d e f", "g h i")
    assert path.read_text() == "a b c\nd e f\ng h i\n"
    (text,) = reports.lines
    assert "cannot be renamed: " in text
    assert text.endswith("; it grows")
    assert file.lost == 0


def test_descriptor_is_closed_at_the_end(tmp_path: Path, reports: Reports) -> None:
    with opened(tmp_path / "log", reports) as file:
        write(file, "a")
        descriptor = file._descriptor
        os.fstat(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
