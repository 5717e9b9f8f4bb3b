"""What the README asks users to type works to the letter."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import which
from typing import NamedTuple

import pytest

from tests.interop.agents import ROOT, SERF, until
from tests.interop.namespaces import Host, two_hosts_or_skip

assert sys.platform != "win32"

pytestmark = pytest.mark.serf


def blocks(heading: str) -> list[str]:
    """Return the indented blocks of a section of the README, without their indentation."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.partition(f"\n{heading}\n")[2]
    section = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"(?:^(?: {4}.*)?\n)+(?=^\S|\Z)", section, re.MULTILINE)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in found if block.strip()]


def example() -> str:
    """Return the program in the section on the library."""
    [block] = blocks("## As a library")
    return block


class Typed(NamedTuple):
    """A command, the host in whose prompt it stands, and the lines that follow."""

    host: str
    command: str
    output: list[str]


def typed(text: str) -> list[Typed]:
    """Return the commands of a block."""
    found: list[Typed] = []
    for line in text.splitlines():
        if prompt := re.match(r"(\w*)\$ ", line):
            found.append(Typed(prompt[1], line[prompt.end() :], []))
        elif line:
            found[-1].output.append(line)
    return found


class Terminal:
    """A shell in the namespace of a host, with trioserf in its path."""

    def __init__(self, host: Host, folder: Path, screen: Path) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {"PATH": path, "HOME": str(folder), "LC_ALL": "C.UTF-8"}
        self._screen = screen
        self._read = 0
        with screen.open("wb") as file:
            self._shell = subprocess.Popen(
                host.inside("bash"), stdin=subprocess.PIPE, stdout=file, stderr=file, text=True,
                cwd=folder, env=env, start_new_session=True,
            )  # fmt: skip

    def lines(self) -> list[str]:
        """Return what was printed and has not been read, without blanks at the end of lines."""
        lines = self._screen.read_text("utf-8").splitlines()
        return [line.rstrip() for line in lines[self._read :]]

    def type(self, command: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{command}\n")
        self._shell.stdin.flush()

    def run(self, one: Typed) -> None:
        """Type a command; its output, in any order, must be the lines that follow."""
        self.type(one.command)
        count = len(one.output)
        until(lambda: len(self.lines()) >= count, what=lambda: f"{one.command}: {self.lines()}")
        printed = self.lines()[:count]
        self._read += count
        assert sorted(printed) == sorted(one.output), one.command

    def start(self, agent: Typed) -> None:
        """Start an agent; the lines that follow must be among those that it prints."""
        self.type(agent.command)
        until(lambda: set(agent.output) <= set(self.lines()), what=lambda: str(self.lines()))

    def finish(self) -> None:
        """End the shell and its programs; it must not have printed more than was expected."""
        self.type("kill $(jobs -p) 2>/dev/null; exit")
        self._shell.wait(20)
        assert self.lines() == []

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.communicate()


@contextmanager
def terminals(folder: Path) -> Iterator[Callable[[Host], Terminal]]:
    """Open terminals; kill what runs in them at the end."""
    opened: list[Terminal] = []

    def open_terminal(host: Host) -> Terminal:
        opened.append(Terminal(host, folder, folder / f"terminal-{len(opened)}"))
        return opened[-1]

    try:
        yield open_terminal
    finally:
        for one in opened:
            one.kill()


def is_connected(host: Host) -> bool:
    """Return whether a client is connected to the control port, 7373."""
    done = subprocess.run(
        host.inside("cat", "/proc/net/tcp"), capture_output=True, text=True, check=True, timeout=20
    )
    return re.search(r":1CCD [0-9A-F]+:[0-9A-F]{4} 01 ", done.stdout) is not None


def lists(host: Host, *lines: str) -> bool:
    """Return whether `trioserf members` prints these lines."""
    done = subprocess.run(
        host.inside(sys.executable, "-m", "trioserf", "members"),
        capture_output=True, text=True, check=False, timeout=20, cwd=ROOT,
    )  # fmt: skip
    return sorted(line.rstrip() for line in done.stdout.splitlines()) == sorted(lines)


@pytest.mark.skipif(not (which("jq") and which("nc")), reason="jq or nc is not installed")
def test_tour_prints_what_the_readme_shows(tmp_path: Path) -> None:
    agents, third, jq = map(typed, blocks("## Three terminals"))
    [(serf_agent, *both)] = map(typed, blocks("### With Serf"))
    with two_hosts_or_skip("10.79.0") as (host, _), terminals(tmp_path) as open_terminal:
        first, second = agents
        open_terminal(host).start(first)
        open_terminal(host).start(second)
        user = open_terminal(host)
        until(lambda: lists(host, *third[0].output))
        for one in third:
            user.run(one)
        follow, *rest = jq
        user.type(follow.command)
        until(lambda: is_connected(host))
        for one in rest:
            user.run(one)
        user.finish()
        open_terminal(host).start(serf_agent)
        until(lambda: lists(host, *both[0].output))
        user = open_terminal(host)
        for one in both:
            user.run(one)
        user.finish()


def test_two_machines_with_a_key_see_each_other(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    commands = typed("\n".join(blocks("### Two machines with a key")))
    names = dict(zip(("one", "two"), hosts, strict=True))
    *prepared, one, two, last = commands
    assert ("agent" in one.command, "agent" in two.command) == (True, True)
    with terminals(tmp_path) as open_terminal:
        first = open_terminal(names["one"])
        for command in prepared:
            first.run(command)
        first.start(one)
        until(lambda: lists(names["one"], last.output[0]))
        open_terminal(names[two.host]).start(two)
        until(lambda: lists(names["two"], *last.output))
        user = open_terminal(names[last.host])
        user.run(last)
        user.finish()


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
