"""The program in the README runs unchanged with an agent of Serf."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.agents import ROOT, SERF, until
from tests.interop.namespaces import Host, two_hosts_or_skip

pytestmark = pytest.mark.serf


def example() -> str:
    """Return the program in the section on the library."""
    text = (ROOT / "README.md").read_text()
    section = text.partition("\n## As a library\n")[2].partition("\n## ")[0]
    [block] = re.findall(r"(?:^(?: {4}.*)?\n)+(?=^\S)", section, re.MULTILINE)
    return re.sub(r"^ {4}", "", block, flags=re.MULTILINE)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """The host that the example joins, and another."""
    with two_hosts_or_skip("10.0.0") as both:
        yield both


@contextmanager
def go_agent(host: Host, log: Path) -> Iterator[None]:
    assert SERF is not None
    command = host.inside(SERF, "agent", f"-bind={host.v4}", "-node=go-a")
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as run:
        try:
            yield
        finally:
            run.kill()


def statuses(host: Host) -> dict[str, str]:
    assert SERF is not None
    done = subprocess.run(
        host.inside(SERF, "members", "-format=json"), capture_output=True, check=False, timeout=20
    )
    if done.returncode:
        return {}
    return {one["name"]: one["status"] for one in json.loads(done.stdout)["members"]}


def test_example_joins_prints_events_and_leaves(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    program = example()
    assert '"10.0.0.1"' in program
    assert len([line for line in program.splitlines() if line.strip()]) <= 17
    (tmp_path / "example.py").write_text(program)
    there, here = hosts
    with go_agent(there, tmp_path / "log"):
        until(lambda: statuses(there) == {"go-a": "alive"})
        done = subprocess.run(
            here.inside(sys.executable, "-W", "error", str(tmp_path / "example.py")),
            capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        printed = done.stdout.splitlines()
        assert any("member-join" in line and "go-a" in line for line in printed)
        assert "hello" in printed[-1]
        assert "from a program" in printed[-1]
        until(lambda: statuses(there).get("embedded") == "left")
    log = (tmp_path / "log").read_text()
    assert "EventMemberJoin: embedded 10.0.0.2" in log
    assert "EventMemberLeave: embedded 10.0.0.2" in log
    assert "EventMemberFailed" not in log
