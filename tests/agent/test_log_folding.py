"""Repeated lines of the log are written once, then counted."""

import io
import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
import trio

from trioserf.agent.log_folding import _MAX_LINES, LogFolding
from trioserf.agent.log_lines import LogLine
from trioserf.agent.logs import open_logs

START = datetime(2026, 11, 30, 8, 0, 0, tzinfo=UTC)


def line(message: str, at: float, level: str = "INFO", source: str = "serf") -> LogLine:
    return LogLine(START + timedelta(seconds=at), level, source, message, {"member": "a"})


def messages(lines: Iterable[LogLine]) -> list[str]:
    return [one.message for one in lines]


def fed(folding: LogFolding, *lines: LogLine) -> list[str]:
    return [text for one in lines for text in messages(folding.feed(one))]


def test_every_line_is_written_without_folding() -> None:
    assert fed(LogFolding(), line("a", 0), line("a", 1)) == ["a", "a"]


def test_repeated_lines_are_counted_until_their_time_is_over() -> None:
    folding = LogFolding(10)
    assert fed(folding, *(line("a", at / 4) for at in range(38))) == ["a"]
    assert folding.next_expiry() == START + timedelta(seconds=10)
    assert fed(folding, line("a", 10)) == ["a … 37 more times in 9 s", "a"]
    assert folding.next_expiry() is None
    assert messages(folding.expire()) == []


def test_summary_has_the_fields_of_the_line() -> None:
    folding = LogFolding(10)
    assert fed(folding, line("a", 0), line("a", 3), line("a", 4.2)) == ["a"]
    (summary,) = folding.expire()
    assert (summary.level, summary.source) == ("INFO", "serf")
    assert summary.time == START + timedelta(seconds=4.2)
    assert summary.fields == {"member": "a", "repeats": 2, "within_seconds": 4}


@pytest.mark.parametrize("other", [line("b", 1), line("a", 1, "WARN"), line("a", 1, source="x")])
def test_different_lines_are_all_written(other: LogLine) -> None:
    assert len(fed(LogFolding(10), line("a", 0), other)) == 2


def test_other_lines_may_come_between() -> None:
    folding = LogFolding(10)
    assert fed(folding, line("a", 0), line("b", 1), line("a", 2), line("b", 3)) == ["a", "b"]
    assert messages(folding.expire()) == ["a … 1 more times in 2 s", "b … 1 more times in 2 s"]


def test_lines_are_forgotten_after_a_change_of_the_clock() -> None:
    folding = LogFolding(10)
    assert fed(folding, line("a", 0), line("a", 1), line("a", -3600)) == [
        "a",
        "a … 1 more times in 1 s",
        "a",
    ]


def test_number_of_remembered_lines_is_bounded() -> None:
    folding = LogFolding(10)
    texts = [f"line {number}" for number in range(_MAX_LINES)]
    assert fed(folding, *(line(text, 0) for text in texts), line("line 0", 1)) == texts
    assert fed(folding, line("one more", 2)) == ["line 0 … 1 more times in 1 s", "one more"]
    assert len(folding._lines) == _MAX_LINES


async def test_summary_is_written_when_its_time_is_over() -> None:
    stream = io.StringIO()
    log = logging.getLogger("trioserf.agent")
    reported = trio.Event()

    def note(line: LogLine) -> None:
        if line.message.endswith("more times in 1 s"):
            reported.set()

    with open_logs("INFO", stream) as logs:
        logs.release()
        logs.fold_repeats(0.5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(logs.run)
            for _ in range(3):
                log.info("again")
            with trio.fail_after(20), logs.tee(note):
                await reported.wait()
            nursery.cancel_scope.cancel()
        with logs.subscribe("INFO") as lines:
            assert len(lines._lines) == 3  # a client gets every line
        log.info("last")
        log.info("last")
    assert [text.partition("agent: ")[2] for text in stream.getvalue().splitlines()] == [
        "again",
        "again … 2 more times in 1 s",
        "last",
        "last … 1 more times in 1 s",
    ]
