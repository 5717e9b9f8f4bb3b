"""The log: escaped text, errors of writing, formats, fields and levels by source."""

import errno
import io
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.agent.helpers import ROOT
from trioserf.address import Address
from trioserf.agent.log_lines import LEVELS, LogFormat, LogLine
from trioserf.agent.logs import open_logs

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


class Changing:
    """A value of a line whose text is another one later."""

    text = "as it was"

    def __str__(self) -> str:
        return self.text


def test_line_below_the_level_is_formatted_for_its_first_reader() -> None:
    changing = Changing()
    with open_logs("ERR", io.StringIO()) as logs:
        _log.info("%d of %s\x1b", 1, "two")
        _log.debug("%s", changing)
        changing.text = "as it is"
        _log.info("100%")
        assert logs.remembered() == logs.remembered()
        with logs.subscribe("DEBUG") as lines:
            found = [lines._lines.pop() for _ in range(3)]
    assert [line.message for line in found if isinstance(line, LogLine)] == [
        "1 of two\\x1b",
        "as it was",
        "100%",
    ]
    assert [line.level for line in found if isinstance(line, LogLine)] == ["INFO", "DEBUG", "INFO"]


@pytest.mark.usefixtures("in_new_york")
def test_line_of_json_has_time_in_utc_and_the_named_values() -> None:
    stream = io.StringIO()
    with open_logs("INFO", stream, LogFormat(json=True)) as logs:
        logs.release()
        named = {"member": "a\x1b", "seconds": 0.5, "address": Address("127.0.0.1", 1)}
        _log.warning("lost '%(member)s' at %(address)s for %(seconds)g s", named)
        _log.info("plain %s", "values", exc_info=ValueError("bad"))
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "WARN",
        "source": "agent",
        "message": "lost 'a\\x1b' at 127.0.0.1:1 for 0.5 s",
        "member": "a\x1b",
        "seconds": 0.5,
        "address": "127.0.0.1:1",
    }
    assert set(second) == {"time", "level", "source", "message"}
    assert second["message"].startswith("plain values\n\tValueError: bad")


def test_named_values_leave_the_text_as_it_was() -> None:
    stream = io.StringIO()
    with open_logs("INFO", stream) as logs:
        logs.release()
        _log.info("EventMemberJoin: %(member)s %(address)s", {"member": "a", "address": "::1"})
    assert stream.getvalue().endswith(" [INFO] agent: EventMemberJoin: a ::1\n")


@pytest.mark.parametrize(
    ("level", "priority"), [("TRACE", 7), ("DEBUG", 7), ("INFO", 6), ("WARN", 4), ("ERR", 3)]
)
def test_every_line_for_the_journal_has_a_priority(level: str, priority: int) -> None:
    line = LogLine(datetime(2026, 11, 30, tzinfo=UTC), level, "serf", "text\n\tmore")
    first, second = LogFormat(priorities=True)(line).splitlines()
    assert first == f"<{priority}>{line.text.splitlines()[0]}"
    assert second == f"<{priority}>\tmore"


def test_levels_apply_to_sources_and_their_parts() -> None:
    stream = io.StringIO()
    with open_logs("WARN", stream) as logs:
        logs.release()
        logs.set_level("WARN", {"agent": "debug", "agent.ipc": "ERR", "serf": "TRACE"})
        for source in ("agent", "agent.ipc", "agent.ipc.x", "agentx", "serf.x", "memberlist"):
            for level in ("DEBUG", "WARN", "ERR"):
                logging.getLogger(f"trioserf.{source}").log(LEVELS[level], f"of {source}")
        shown = [
            line.split(" ", 2)[2].partition(":")[0] for line in stream.getvalue().splitlines()
        ]
        assert shown == [
            *("[DEBUG] agent", "[WARN] agent", "[ERR] agent"),
            *("[ERR] agent.ipc", "[ERR] agent.ipc.x"),
            *("[WARN] agentx", "[ERR] agentx"),
            *("[DEBUG] serf.x", "[WARN] serf.x", "[ERR] serf.x"),
            *("[WARN] memberlist", "[ERR] memberlist"),
        ]
        logs.set_level("ERR")
        logging.getLogger("trioserf.agent").warning("not shown")
        assert "not shown" not in stream.getvalue()


def test_lines_left_out_are_reported_without_the_names_of_values() -> None:
    stream = io.StringIO()
    log = logging.getLogger("trioserf.memberlist")
    with open_logs("INFO", stream) as logs:
        logs.release()
        for number in range(100):
            log.warning("lost '%(member)s': %(count)d", {"member": "a", "count": number})
    assert stream.getvalue().splitlines()[-1].endswith(" more lines like: lost '%s': %d")
