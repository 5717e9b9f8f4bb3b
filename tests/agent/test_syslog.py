"""Syslog: lines as Serf sends them, to daemons that come and go."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest

from trioserf.agent.logs import LogLine, Logs
from trioserf.agent.syslog import FACILITIES, open_syslog
from trioserf.errors import ConfigError

AT = datetime(2026, 11, 5, 1, 2, 3, tzinfo=UTC)


@contextmanager
def daemon(path: Path, kind: socket.SocketKind = socket.SOCK_DGRAM) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, kind) as one:
        one.bind(str(path))
        one.settimeout(10)
        if kind is socket.SOCK_STREAM:
            one.listen()
        yield one


def line(message: str = "hello", level: str = "INFO") -> LogLine:
    return LogLine(AT, level, "agent", message)


@pytest.mark.parametrize(
    ("level", "priority"), [("TRACE", 7), ("DEBUG", 6), ("INFO", 5), ("WARN", 4), ("ERR", 3)]
)
def test_a_line_is_the_one_that_serf_sends(tmp_path: Path, level: str, priority: int) -> None:
    path = tmp_path / "log"
    with daemon(path) as server, open_syslog("local0", [str(path)]) as syslog:
        syslog.write(line(level=level))
        said = server.recv(9000).decode()
    number = 16 * 8 + priority
    expected = rf"<{number}>Nov  [456] \d\d:\d\d:03 serf\[{os.getpid()}\]: agent: hello\n"
    assert re.fullmatch(expected, said)


def test_facilities_have_the_numbers_of_syslog() -> None:
    assert FACILITIES["KERN"] == 0
    assert FACILITIES["DAEMON"] == 3 << 3
    assert FACILITIES["FTP"] == 11 << 3
    assert FACILITIES["LOCAL7"] == 23 << 3
    assert len(FACILITIES) == 20


@pytest.mark.parametrize("facility", ["", "LOCAL8", "auth2"])
def test_unknown_facilities_are_refused(tmp_path: Path, facility: str) -> None:
    with (
        pytest.raises(ConfigError, match=f"invalid syslog facility: {facility}; expected one of"),
        open_syslog(facility, [str(tmp_path / "log")]),
    ):
        pass


def test_a_daemon_must_be_there_at_first(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="Syslog setup failed: Unix syslog delivery error"),
        open_syslog("USER", [str(tmp_path / "log")]),
    ):
        pass


def test_it_looks_in_several_places(tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "two"]
    with daemon(places[1]) as server, open_syslog("USER", list(map(str, places))) as syslog:
        syslog.write(line())
        assert server.recv(9000).startswith(b"<13>Nov")


def test_a_daemon_that_comes_back_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with daemon(path) as server, open_syslog("USER", [str(path)]) as syslog:
        server.close()
        syslog.write(line("lost"))
        path.unlink()
        syslog.write(line("lost as well"))
        with daemon(path) as another:
            syslog.write(line("found"))
            assert b"found" in another.recv(9000)
        assert syslog.dropped == 2


def test_a_daemon_that_does_not_read_delays_nobody(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with daemon(path) as server, open_syslog("USER", [str(path)]) as syslog:
        for _ in range(5000):
            syslog.write(line("x" * 1000))
        assert syslog.dropped > 0
        while b"the end" not in server.recv(9000):
            syslog.write(line("the end"))


def test_lines_that_are_too_long_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with daemon(path) as server, open_syslog("USER", [str(path)]) as syslog:
        syslog.write(line("x" * 1_000_000))
        assert len(server.recv(1_000_000)) == 32 * 1024 + 1
        assert syslog.dropped == 0


def test_daemons_with_streams_are_served(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with (
        daemon(path, socket.SOCK_STREAM) as server,
        open_syslog("USER", [str(path)]) as syslog,
    ):
        syslog.write(line("one"))
        stream, _ = server.accept()
        with stream:
            stream.settimeout(10)
            assert stream.recv(9000).endswith(b"agent: one\n")
            for _ in range(5000):
                syslog.write(line("y" * 1000))
            assert syslog.dropped > 0


def test_only_lines_of_the_level_are_mirrored() -> None:
    seen: list[str] = []
    logs = Logs("INFO", StringIO())
    import logging

    def say(level: int) -> None:
        logs.emit(logging.LogRecord("trioserf.agent", level, "", 0, str(level), None, None))

    with logs.tee(lambda line: seen.append(line.message)):
        say(logging.DEBUG)
        say(logging.INFO)  # though the gate is closed
        logs.set_level("DEBUG")
        say(logging.DEBUG)
    say(logging.ERROR)
    assert seen == [str(logging.INFO), str(logging.DEBUG)]
