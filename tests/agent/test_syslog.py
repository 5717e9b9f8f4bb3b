"""Syslog: lines in Serf's format, to daemons that start and stop."""

import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest

from trioserf.agent.log_lines import LogLine
from trioserf.agent.logs import Logs
from trioserf.agent.syslog import FACILITIES, open_syslog
from trioserf.errors import ConfigError

assert sys.platform != "win32"

AT = datetime(2026, 11, 5, 1, 2, 3, tzinfo=UTC)


@contextmanager
def daemon(path: Path, kind: socket.SocketKind = socket.SOCK_DGRAM) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind(str(path))
        server.settimeout(10)
        if kind is socket.SOCK_STREAM:
            server.listen()
        yield server


def line(message: str = "hello", level: str = "INFO") -> LogLine:
    return LogLine(AT, level, "agent", message)


@pytest.mark.parametrize(
    ("level", "priority"), [("TRACE", 7), ("DEBUG", 6), ("INFO", 5), ("WARN", 4), ("ERR", 3)]
)
def test_line_equals_serfs_format(tmp_path: Path, level: str, priority: int) -> None:
    path = tmp_path / "log"
    with daemon(path) as server, open_syslog("local0", [str(path)]) as syslog:
        syslog.write(line(level=level))
        received = server.recv(9000).decode()
    number = 16 * 8 + priority
    expected = rf"<{number}>Nov  [456] \d\d:\d\d:03 serf\[{os.getpid()}\]: agent: hello\n"
    assert re.fullmatch(expected, received)


def test_facilities_have_syslog_numbers() -> None:
    assert FACILITIES["KERN"] == 0
    assert FACILITIES["DAEMON"] == 3 << 3
    assert FACILITIES["FTP"] == 11 << 3
    assert FACILITIES["LOCAL7"] == 23 << 3
    assert len(FACILITIES) == 20


@pytest.mark.parametrize("facility", ["", "LOCAL8", "auth2"])
def test_unknown_facility_is_rejected(tmp_path: Path, facility: str) -> None:
    with (
        pytest.raises(ConfigError, match=f"invalid syslog facility: {facility}; expected one of"),
        open_syslog(facility, [str(tmp_path / "log")]),
    ):
        pass


def test_missing_daemon_at_start_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="Syslog setup failed: Unix syslog delivery error"),
        open_syslog("USER", [str(tmp_path / "log")]),
    ):
        pass


def test_all_socket_paths_are_tried(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    with daemon(paths[1]) as server, open_syslog("USER", list(map(str, paths))) as syslog:
        syslog.write(line())
        assert server.recv(9000).startswith(b"<13>Nov")


def test_restarted_daemon_is_reconnected(tmp_path: Path) -> None:
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


def test_lines_for_blocked_daemon_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with daemon(path) as server, open_syslog("USER", [str(path)]) as syslog:
        for _ in range(5000):
            syslog.write(line("x" * 1000))
        assert syslog.dropped > 0
        while b"the end" not in server.recv(9000):
            syslog.write(line("the end"))


def test_long_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with daemon(path) as server, open_syslog("USER", [str(path)]) as syslog:
        syslog.write(line("x" * 1_000_000))
        assert len(server.recv(1_000_000)) == 32 * 1024 + 1
        assert syslog.dropped == 0


def test_stream_daemon_is_supported(tmp_path: Path) -> None:
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


def test_lines_below_level_are_not_sent() -> None:
    seen: list[str] = []
    logs = Logs("INFO", StringIO())
    import logging

    def log(level: int) -> None:
        logs.emit(logging.LogRecord("trioserf.agent", level, "", 0, str(level), None, None))

    with logs.tee(lambda line: seen.append(line.message)):
        log(logging.DEBUG)
        log(logging.INFO)  # while lines are held back
        logs.set_level("DEBUG")
        log(logging.DEBUG)
    log(logging.ERROR)
    assert seen == [str(logging.INFO), str(logging.DEBUG)]
