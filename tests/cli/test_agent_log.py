"""The log of a real agent: JSON in a file, a reload, the journal, and clients."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.agents import ROOT, TRIOSERF, net, until

assert sys.platform != "win32"

pytestmark = pytest.mark.interop
HOST = net(4)


@contextmanager
def running(
    number: int,
    *options: str,
    stderr: Any = subprocess.DEVNULL,
    env: Mapping[str, str] = os.environ,
) -> Iterator["subprocess.Popen[bytes]"]:
    host = f"{HOST}.{number}"
    words = ("agent", f"-bind={host}:7946", f"-rpc-addr={host}:7373", f"-node=l{number}")
    with subprocess.Popen(
        [*TRIOSERF, *words, *options],
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        cwd=ROOT,
        env=env,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def records(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def messages(path: Path) -> list[str]:
    return [record["message"] for record in records(path)]


def end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_log_in_json_goes_to_a_file_that_is_opened_again(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "log.old"
    options = ("--log-format=json", f"--log-file={path}")
    with running(1, *options, stderr=subprocess.PIPE) as process:
        until(lambda: "EventMemberJoin: l1 " + f"{HOST}.1" in messages(path), 60)
        (join,) = [one for one in records(path) if one["message"].startswith("EventMemberJoin")]
        assert (join["member"], join["address"]) == ("l1", f"{HOST}.1")
        assert (join["level"], join["source"]) == ("INFO", "serf")
        with subprocess.Popen(
            [*TRIOSERF, "monitor", "--format=json", f"-rpc-addr={HOST}.1:7373"],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        ) as monitor:
            assert monitor.stdout is not None
            lines = iter(monitor.stdout.readline, b"")
            shown = next(one["log"] for one in map(json.loads, lines) if "member" in one["log"])
            monitor.kill()
        assert shown == join
        path.rename(old)
        process.send_signal(signal.SIGHUP)
        until(lambda: "Configuration reloaded" in messages(path))
        end(process)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert "Serf agent starting" in messages(old)
    assert "shutdown complete" in messages(path)


def test_agent_runs_with_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "log"
    with running(2, f"--log-file={path}", stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        assert line.endswith(
            f" [ERR] agent: log_file {path}: cannot be written: No such file or directory;"
            " lines are lost\n"
        )
        path.parent.mkdir()
        process.send_signal(signal.SIGHUP)
        assert process.stderr.readline().decode().endswith("is written again\n")
        done = subprocess.run(
            [*TRIOSERF, "info", "--format=json", f"-rpc-addr={HOST}.2:7373"],
            capture_output=True, timeout=60, check=True, cwd=ROOT,
        )  # fmt: skip
        assert json.loads(done.stdout)["log"]["lost_lines"] > 0
        end(process)
    first = path.read_text().splitlines()[0]
    assert "lines of the log were lost: the file could not be written" in first


def test_levels_and_format_change_with_a_reload(tmp_path: Path) -> None:
    config, path = tmp_path / "a.json", tmp_path / "log"
    config.write_text(json.dumps({"log_level": "WARN", "log_levels": {"agent": "INFO"}}))
    with running(3, f"-config-file={config}", f"--log-file={path}") as process:
        until(lambda: path.exists() and "Serf agent starting" in path.read_text(), 60)
        config.write_text(json.dumps({"log_levels": {"agent": "debug"}, "log_format": "json"}))
        process.send_signal(signal.SIGHUP)
        until(lambda: path.read_text().endswith("}\n"))
        end(process)
    text = path.read_text()
    assert "[INFO] serf: EventMemberJoin" not in text
    assert json.loads(text.splitlines()[-1])["message"] == "shutdown complete"


def test_lines_for_the_journal_begin_with_a_priority() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = os.fstat(theirs.fileno())
        env = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        with running(4, stderr=theirs, env=env) as process, ours.makefile("rb") as journal:
            line = journal.readline()
            while b"EventMemberJoin" not in line:
                assert line.startswith((b"<6>2", b"<4>2")), line
                line = journal.readline()
            assert line.startswith(b"<6>2")
            end(process)
