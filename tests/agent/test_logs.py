"""The log: escaped text, and errors of writing."""

import errno
import io
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.agent.helpers import ROOT
from trioserf.agent.logs import LogLine, open_logs

_log = logging.getLogger("trioserf.agent")


class Disk(io.StringIO):
    """A file on a disk that may be full."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_log_continues_after_full_disk() -> None:
    disk = Disk()
    with open_logs("INFO", disk) as logs:
        logs.release()
        _log.info("before")
        disk.full = True
        _log.info("while it is full")
        disk.full = False
        _log.info("after")
        assert [line.rpartition(": ")[2] for line in disk.getvalue().splitlines()] == [
            "before",
            "after",
        ]
        with logs.subscribe("INFO") as lines:
            assert len(lines._lines) == 3  # all are kept


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if sys.platform == "win32":
        pytest.skip("Windows has no tzset()")
    else:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "America/New_York")
            time.tzset()
            yield
        time.tzset()


@pytest.mark.usefixtures("in_new_york")
@pytest.mark.parametrize(("microsecond", "shown"), [(0, "000"), (7_999, "007"), (999_999, "999")])
def test_line_has_the_layout_of_serf_and_milliseconds(microsecond: int, shown: str) -> None:
    at = datetime(2026, 11, 23, 20, 0, 9, microsecond, tzinfo=UTC)
    line = LogLine(at, "WARN", "serf", "text")
    assert line.text == f"2026/11/23 15:00:09.{shown} [WARN] serf: text"


def test_control_characters_in_a_line_are_escaped() -> None:
    stream = io.StringIO()
    with open_logs("INFO", stream) as logs, logs.subscribe("INFO") as lines:
        logs.release()
        _log.info("EventMemberJoin: %s", "\x1b[2J\n\x9b\u202e\u2028")
        assert stream.getvalue().endswith(": \\x1b[2J\\n\\x9b\\u202e\\u2028\n")
        line = lines._lines.pop()
        assert isinstance(line, LogLine)
        assert line.text + "\n" == stream.getvalue()


def test_text_in_an_exception_does_not_look_like_a_line() -> None:
    stream = io.StringIO()
    with open_logs("INFO", stream) as logs:
        logs.release()
        forged = "\x1b[2J\n2026/11/29 08:00:00 [INFO] agent: forged"
        _log.error("failed", exc_info=ValueError(forged))
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("[ERR] agent: failed")
    assert len(others) == 2
    assert all(line.startswith("\t") and line.isascii() for line in others)
    assert "\x1b" not in stream.getvalue()


def test_control_characters_are_escaped_without_an_import() -> None:
    """An import fails without free descriptors, and would end the agent."""
    program = (
        "import logging, sys\n"
        "from trioserf.agent.logs import open_logs\n"
        "before = set(sys.modules)\n"
        "with open_logs('INFO', sys.stdout) as logs:\n"
        "    logs.release()\n"
        "    logging.getLogger('trioserf').info('a\\nb\\0\\x1b\\x85\\u2028\\t')\n"
        "assert not set(sys.modules) - before, set(sys.modules) - before\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.endswith("a\\nb\\x00\\x1b\\x85\\u2028\\t\n")
