"""Clusters of processes: agents of the real serf and of ours, side by side."""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.interop.go_agents import OURS, ROOT, SERF
from tests.interop.go_agents import until as until  # for all who ask agents

STARTED_WITHIN = 60.0
"""Seconds: Python may take many of them on a machine that is busy."""
CONVERGED_WITHIN = 70.0
"""Seconds: what gossip may miss in a small cluster comes with the next push/pull, every 30 s."""
NET = f"127.20.{os.getpid() % 250}"
"""The addresses of this test run."""


class Process:
    """An agent that can be killed, stopped and asked; in a network namespace if one is named."""

    def __init__(
        self,
        program: Sequence[str],
        name: str,
        number: int,
        options: Sequence[str],
        bind: str = "",
        namespace: str = "",
    ):
        self.name = name
        self.host = f"{NET}.{number}"
        self.rpc = f"{self.host}:7373"
        self._within = ("ip", "netns", "exec", namespace) if namespace else ()
        self.bind = bind or f"{self.host}:7946"
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._process = subprocess.Popen(
            [*self._within, *program, "agent", f"-bind={self.bind}", f"-rpc-addr={self.rpc}",
             f"-node={name}", *options],
            stdout=self.log, stderr=subprocess.STDOUT, cwd=ROOT,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = 20.0) -> int:
        return self._process.wait(seconds)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self.log.close()

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read().decode("utf-8", "replace")

    def ask(self, *words: str) -> tuple[int, str]:
        """Drive this agent by the real program; gives its exit code and what it printed."""
        assert SERF is not None
        done = subprocess.run(
            [*self._within, SERF, words[0], f"-rpc-addr={self.rpc}", *words[1:]],
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")

    def members(self) -> dict[str, dict[str, Any]]:
        code, text = self.ask("members", "-format=json")
        if code:
            return {}
        return {one["name"]: one for one in json.loads(text)["members"]}

    def statuses(self) -> dict[str, str]:
        return {name: one["status"] for name, one in self.members().items()}


class Cluster:
    """Agents of both kinds; names beginning with `go` are the real program's."""

    def __init__(self, first: int) -> None:
        self.running: dict[str, Process] = {}
        self._first = first
        self._numbers: dict[str, int] = {}

    def start(self, name: str, *options: str, bind: str = "", namespace: str = "") -> Process:
        assert SERF is not None
        program = [SERF] if name.startswith("go") else OURS
        number = self._numbers.setdefault(name, self._first + len(self._numbers))
        agent = self.running[name] = Process(program, name, number, options, bind, namespace)
        until(lambda: agent.name in agent.members(), STARTED_WITHIN, lambda: agent.said())
        return agent

    def host(self, name: str) -> str:
        return self.running[name].host

    def end(self, name: str) -> None:
        self.running.pop(name).end()

    def leave(self, name: str) -> Process:
        """Let an agent leave by a signal, as both kinds do; gives what it was."""
        agent = self.running.pop(name)
        agent.signal(signal.SIGINT)
        assert agent.wait() == 0
        agent.end()
        return agent

    def end_all(self) -> None:
        for name in list(self.running):
            self.end(name)

    def all_see(self, status: str, *names: str, seconds: float = CONVERGED_WITHIN) -> float:
        """Wait until every agent sees these members so; gives how long that took, in seconds."""
        began = time.monotonic()

        def seen() -> dict[str, dict[str, str | None]]:
            views = {name: agent.statuses() for name, agent in self.running.items()}
            return {by: {name: view.get(name) for name in names} for by, view in views.items()}

        until(
            lambda: all(set(view.values()) == {status} for view in seen().values()),
            seconds,
            lambda: f"wanted {status}, saw {seen()}",
        )
        return time.monotonic() - began


@contextmanager
def cluster(first: int) -> Iterator[Cluster]:
    """A cluster whose addresses are numbered from `first`; its processes end with the block."""
    running = Cluster(first)
    try:
        yield running
    finally:
        running.end_all()


@contextmanager
def joined(first: int, seed: str, *others: str) -> Iterator[Cluster]:
    """A cluster of agents that have joined a first one, and see each other."""
    with cluster(first) as running:
        running.start(seed)
        for name in others:
            running.start(name, f"-join={running.host(seed)}")
        running.all_see("alive", seed, *others)
        yield running


@contextmanager
def following(agent: Process, *words: str) -> Iterator[Path]:
    """Write what our `stream` tells of an agent of either kind into a file.

    It begins soon after the block does: `streams_have_begun` waits for that.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines"
        with path.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "trioserf", "stream", f"--rpc-addr={agent.rpc}", *words],
                stdout=file, cwd=ROOT,
            )  # fmt: skip
            try:
                until(lambda: _connected(process.pid), what=lambda: "stream did not connect")
                yield path
            finally:
                process.kill()
                process.wait()


def records(path: Path) -> list[dict[str, Any]]:
    """Read whole lines of JSON."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def streams_have_begun(agent: Process, paths: Collection[Path]) -> None:
    """A stream begins at an instant that nobody tells: send until every one has begun."""
    numbers = itertools.count()

    def all_hear() -> bool:
        code, said = agent.ask("event", "-coalesce=false", f"begin-{next(numbers)}")
        assert code == 0, said
        return all(map(records, paths))

    until(
        all_hear, CONVERGED_WITHIN, lambda: f"silent: {[str(p) for p in paths if not records(p)]}"
    )


def _connected(pid: int) -> bool:
    """Tell whether a process has an open socket; its stream begins a little later."""
    try:
        links = [str(f.readlink()) for f in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(link.startswith("socket:") for link in links)
