"""Two agents of the real serf, and both programs to drive them with."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, AnyStr

import attrs

SERF = shutil.which("serf")
ROOT = Path(__file__).parent.parent.parent
OURS = (sys.executable, "-m", "trioserf")
HANDLERS = ("query:load=echo 0.42", r"query:raw=printf '\377\001<b>\n\n'")


def net(number: int) -> str:
    """Give the first three numbers of addresses (`number` 0 to 7) that no other test run uses."""
    return f"127.17.{100 + os.getpid() % 19 * 8 + number}"


@attrs.frozen
class Cluster:
    """Where the agents listen for clients; `secret` asks for the key `s3cret`."""

    first: str
    second: str
    secret: str

    def ask(self, program: Sequence[str], *words: str, addr: str = "") -> tuple[int, str]:
        """Run a program to its end; gives its exit code and what it printed."""
        done = subprocess.run(
            [*program, *words],
            env={**os.environ, "SERF_RPC_ADDR": addr or self.first},
            capture_output=True,
            timeout=30,
            check=False,
            cwd=ROOT,
        )
        assert done.stderr == b""
        return done.returncode, done.stdout.decode("utf-8", "surrogateescape")

    @contextmanager
    def follow(
        self, *words: str, addr: str = "", program: Sequence[str] = OURS
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a program, ours unless it is named, for as long as the block lasts at the most."""
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
    """Run an agent, of the real serf unless `program` is given; gives its RPC address."""
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
    """Read what a program says up to the first line with this text."""
    read = file.readline()
    while text not in read:
        line = file.readline()
        assert line, f"it ended without {text!r}: {read!r}"
        read += line
    return read


@contextmanager
def repeating(act: Callable[[], object]) -> Iterator[None]:
    """Do something again and again while the block lasts.

    A follower begins at an instant that nobody tells: what it shall hear is sent until it hears.
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
    """The real serf as a command line."""
    assert SERF is not None
    return (SERF,)


def until(
    holds: Callable[[], bool], seconds: float = 20.0, what: Callable[[], str] = lambda: ""
) -> None:
    """Wait until something holds, in the real world; `what` says what holds in its place."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)  # processes cannot be waited for otherwise


@contextmanager
def go_cluster(net: str, config: Path, program: Sequence[str] = ()) -> Iterator[Cluster]:
    """Run two agents that know each other and a third one, alone, with an RPC key.

    The second is the real serf's; the others are of `program`, or of the real serf as well.
    """
    config.write_text(json.dumps({"rpc_auth": "s3cret"}))
    handlers = [f"-event-handler={one}" for one in HANDLERS]
    seed = f"-retry-join={net}.1"
    with ExitStack() as stack:
        start = stack.enter_context
        first = start(agent(f"{net}.1", "go-a", "-tag=role=web", *handlers, program=program))
        second = start(agent(f"{net}.2", "go-b", seed, "-retry-interval=1s"))
        secret = start(agent(f"{net}.3", "go-c", f"-config-file={config}", program=program))
        cluster = Cluster(first, second, secret)
        until(lambda: _sees_both(cluster, first) and _sees_both(cluster, second))
        knows = "-rpc-auth=s3cret"
        until(lambda: cluster.ask(real(), "members", knows, addr=secret)[0] == 0)
        yield cluster


def _sees_both(cluster: Cluster, addr: str) -> bool:
    """Return whether an agent knows both members alive, and their coordinates."""
    text = cluster.ask(real(), "members", addr=addr)[1]
    if not all(re.search(f"{name} .*alive", text) for name in ("go-a", "go-b")):
        return False
    return cluster.ask(real(), "rtt", "go-a", "go-b", addr=addr)[0] == 0
