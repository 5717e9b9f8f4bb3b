"""Agents as processes: single ones, and clusters of trioserf's and Serf's side by side."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, AnyStr

import attrs

SERF = shutil.which("serf")
ROOT = Path(__file__).parent.parent.parent
TRIOSERF = (sys.executable, "-m", "trioserf")
HANDLERS = ("query:load=echo 0.42", r"query:raw=printf '\377\001<b>\n\n'")
STARTED_WITHIN = 60.0
"""Seconds for the start of an agent; Python takes many of them on a busy machine."""
CONVERGED_WITHIN = 70.0
"""Seconds until a small cluster agrees: what gossip misses, the next push/pull (30 s) brings."""
_NAMELESS = re.compile(r"""^(    ""(: "")?,?|(Ack|Response) from ''.*)$""", re.MULTILINE)
"""An acknowledgement or a response without a name, in JSON and in lines."""
NET = f"127.20.{os.getpid() % 250}"
"""The addresses of this test run."""


def net(number: int) -> str:
    """Return three numbers of addresses, for `number` 0 to 7, that no other test run uses."""
    return f"127.17.{100 + os.getpid() % 19 * 8 + number}"


def as_newest(text: str) -> str:
    """Return an output of Serf 0.9 (Debian's) with the error texts of Serf 0.10, which are ours.

    An address that was only joined by its host has its port in the newer texts.
    """
    text = re.sub(
        r"Failed to join \S+: dial tcp (\S+): ", r"failed to join \1: dial tcp \1: ", text
    )
    text = text.replace("Failed to resolve ", "failed to resolve ")
    text = text.replace("Requested key is not in", "requested key is not in")
    return text.replace("Removing the primary key", "removing the primary key")


@attrs.frozen
class AgentAddresses:
    """RPC addresses of three agents; `secret` requires the key `s3cret`."""

    first: str
    second: str
    secret: str

    def ask(self, program: Sequence[str], *words: str, addr: str = "") -> tuple[int, str]:
        """Run a command of a program; return its exit code and output.

        When a query's time is over, a busy Go agent may report acknowledgements and responses
        without a name: it checks the end of the query and the two channels that are closed then in
        any order. Such a query is repeated.
        """
        for _ in range(10):
            done = subprocess.run(
                [*program, *words],
                env={**os.environ, "SERF_RPC_ADDR": addr or self.first},
                capture_output=True,
                timeout=30,
                check=False,
                cwd=ROOT,
            )
            hints = done.stderr.splitlines() if tuple(program) == TRIOSERF else []
            assert all(one.startswith((b"trioserf: ", b'{"error":')) for one in hints)
            assert hints or done.stderr == b""
            text = done.stdout.decode("utf-8", "surrogateescape")
            if words[0] != "query" or not _NAMELESS.search(text):
                break
        return done.returncode, text

    @contextmanager
    def follow(
        self, *words: str, addr: str = "", program: Sequence[str] = TRIOSERF
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a command of a program (default: trioserf); kill it when the block ends."""
        with subprocess.Popen(
            [*program, *words],
            env={**os.environ, "SERF_RPC_ADDR": addr or self.first},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@contextmanager
def agent(host: str, name: str, *options: str, program: Sequence[str] = ()) -> Iterator[str]:
    """Run an agent (default: Serf's); yield its RPC address."""
    rpc = f"{host}:7373"
    command = [*(program or real()), "agent", f"-bind={host}:7946", f"-rpc-addr={rpc}"]
    command += [f"-node={name}", *options]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, cwd=ROOT) as run:
        try:
            yield rpc
        finally:
            run.kill()


def read_to(file: IO[AnyStr], text: AnyStr) -> AnyStr:
    """Read the output of a program up to the first line with this text."""
    read = file.readline()
    while text not in read:
        line = file.readline()
        assert line, f"it ended without {text!r}: {read!r}"
        read += line
    return read


@contextmanager
def repeating(act: Callable[[], object]) -> Iterator[None]:
    """Repeat an action while the block runs.

    The start of a stream cannot be observed, so events are sent until the first is received.
    """
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(0.2):
            act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def real() -> tuple[str]:
    """Return the command line of the real program."""
    assert SERF is not None
    return (SERF,)


def until(
    holds: Callable[[], bool], seconds: float = 20.0, what: Callable[[], str] = lambda: ""
) -> None:
    """Wait in real time until a condition holds; `what` describes the state if it fails."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)  # processes cannot be waited for otherwise


@contextmanager
def serf_cluster(net: str, config: Path, program: Sequence[str] = ()) -> Iterator[AgentAddresses]:
    """Run a cluster of two agents, and a third agent alone with an RPC key.

    The second agent is Serf's; the others are of `program` (default: Serf's, too).
    """
    config.write_text(json.dumps({"rpc_auth": "s3cret"}))
    handlers = [f"-event-handler={one}" for one in HANDLERS]
    seed = f"-retry-join={net}.1"
    with ExitStack() as stack:
        start = stack.enter_context
        first = start(agent(f"{net}.1", "go-a", "-tag=role=web", *handlers, program=program))
        second = start(agent(f"{net}.2", "go-b", seed, "-retry-interval=1s"))
        secret = start(agent(f"{net}.3", "go-c", f"-config-file={config}", program=program))
        cluster = AgentAddresses(first, second, secret)
        until(lambda: _sees_both(cluster, first) and _sees_both(cluster, second))
        knows = "-rpc-auth=s3cret"
        until(lambda: cluster.ask(real(), "members", knows, addr=secret)[0] == 0)
        yield cluster


def _sees_both(cluster: AgentAddresses, addr: str) -> bool:
    """Return whether an agent knows both members alive, and their coordinates."""
    text = cluster.ask(real(), "members", addr=addr)[1]
    if not all(re.search(f"{name} .*alive", text) for name in ("go-a", "go-b")):
        return False
    return cluster.ask(real(), "rtt", "go-a", "go-b", addr=addr)[0] == 0


# --- clusters of both programs ---


class Process:
    """A process of an agent, in a network namespace if one is named."""

    def __init__(
        self,
        program: Sequence[str],
        name: str,
        number: int,
        options: Sequence[str],
        bind: str = "",
        namespace: str = "",
        env: Mapping[str, str] | None = None,
        host: str = "",
    ):
        self.name = name
        self.host = host or f"{NET}.{number}"
        self.rpc = f"{self.host}:7373"
        self._within = ("ip", "netns", "exec", namespace) if namespace else ()
        self.bind = bind or f"{self.host}:7946"
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._process = subprocess.Popen(
            [*self._within, *program, "agent", f"-bind={self.bind}", f"-rpc-addr={self.rpc}",
             f"-node={name}", *options],
            stdout=self.log, stderr=subprocess.STDOUT, cwd=ROOT, env=env,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = 20.0) -> int:
        return self._process.wait(seconds)

    def exit_code(self) -> int | None:
        """Return the exit code; None if the process is running."""
        return self._process.poll()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self.log.close()

    def log_text(self) -> str:
        self.log.seek(0)
        return self.log.read().decode("utf-8", "replace")

    def ask(self, *words: str) -> tuple[int, str]:
        """Run a command of the real program with this agent; return exit code and output."""
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
    """Agents of both programs; those of Serf have names that begin with `go`."""

    def __init__(self, first: int) -> None:
        self.running: dict[str, Process] = {}
        self._first = first
        self._numbers: dict[str, int] = {}

    def start(self, name: str, *options: str, bind: str = "", namespace: str = "") -> Process:
        assert SERF is not None
        program = [SERF] if name.startswith("go") else TRIOSERF
        number = self._numbers.setdefault(name, self._first + len(self._numbers))
        agent = self.running[name] = Process(program, name, number, options, bind, namespace)
        until(lambda: agent.name in agent.members(), STARTED_WITHIN, lambda: agent.log_text())
        return agent

    def host(self, name: str) -> str:
        return self.running[name].host

    def end(self, name: str) -> None:
        self.running.pop(name).end()

    def leave(self, name: str) -> Process:
        """Make an agent leave with SIGINT, and wait for its end."""
        agent = self.running.pop(name)
        agent.signal(signal.SIGINT)
        assert agent.wait() == 0
        agent.end()
        return agent

    def end_all(self) -> None:
        for name in list(self.running):
            self.end(name)

    def all_see(self, status: str, *names: str, seconds: float = CONVERGED_WITHIN) -> float:
        """Wait until all agents see these members in a status; return the seconds it took."""
        began = time.monotonic()

        def seen() -> dict[str, dict[str, str | None]]:
            views = {name: agent.statuses() for name, agent in self.running.items()}
            return {by: {name: view.get(name) for name in names} for by, view in views.items()}

        until(
            lambda: all(set(view.values()) == {status} for view in seen().values()),
            seconds,
            lambda: f"expected {status}, found {seen()}",
        )
        return time.monotonic() - began


@contextmanager
def cluster(first: int) -> Iterator[Cluster]:
    """Make an empty cluster with addresses from `first` on; its processes end with the block."""
    running = Cluster(first)
    try:
        yield running
    finally:
        running.end_all()


@contextmanager
def joined(first: int, seed: str, *others: str) -> Iterator[Cluster]:
    """Start a seed and agents that join it; wait until all see each other."""
    with cluster(first) as running:
        running.start(seed)
        for name in others:
            running.start(name, f"-join={running.host(seed)}")
        running.all_see("alive", seed, *others)
        yield running


@contextmanager
def following(agent: Process, *words: str) -> Iterator[Path]:
    """Write the records of `trioserf stream` with an agent into a file.

    The stream starts soon after the block does: `streams_have_begun` waits for that.
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
    """Return the complete lines of a file of JSON lines."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def streams_have_begun(agent: Process, paths: Collection[Path]) -> None:
    """Send events until every stream has received one."""
    numbers = itertools.count()

    def all_received() -> bool:
        code, text = agent.ask("event", "-coalesce=false", f"begin-{next(numbers)}")
        assert code == 0, text
        return all(map(records, paths))

    until(
        all_received,
        CONVERGED_WITHIN,
        lambda: f"silent: {[str(p) for p in paths if not records(p)]}",
    )


def _connected(pid: int) -> bool:
    """Return whether a process has an open socket; its stream starts a little later."""
    try:
        links = [str(f.readlink()) for f in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(link.startswith("socket:") for link in links)
