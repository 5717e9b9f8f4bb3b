"""Load on a cluster, records of event handlers, and calls of `trioserf`."""

import base64
import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event

import attrs

from tests.interop.agents import (
    CONVERGED_WITHIN,
    ROOT,
    TRIOSERF,
    Cluster,
    following,
    records,
    streams_have_begun,
    until,
)
from trioserf.control.client.rpc_session import RpcSession

PAUSE = 0.05
"""Seconds between two events of one sender."""


def new_key() -> str:
    """Return a random key in base64."""
    return base64.b64encode(os.urandom(32)).decode()


def run_trioserf(*words: str) -> tuple[int, str]:
    """Run a command; return its exit code and output."""
    done = subprocess.run(
        [*TRIOSERF, *words], capture_output=True, cwd=ROOT, timeout=120, check=False
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def fill(file: Path) -> None:
    """Fill the disk of a file with it."""
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


class Load:
    """User events that some agents of a cluster send continuously.

    Attributes:
        sent: name and sender of each event.
        lost: events of members that failed or left meanwhile.
    """

    def __init__(self, agents: Cluster, senders: Sequence[str]) -> None:
        self.sent: list[tuple[str, str]] = []
        self.lost: list[str] = []
        self._agents = agents
        self._stop = Event()
        self._paths: dict[str, Path] = {}
        self._senders = senders

    @contextmanager
    def flowing(self, *receivers: str) -> Iterator["Load"]:
        """Send while the block runs; check that each receiver (none: all) got each event once."""
        with ExitStack() as stack:
            for name in receivers or self._agents.running:
                agent = self._agents.running[name]
                self._paths[name] = stack.enter_context(following(agent))
            first = next(iter(self._agents.running.values()))
            streams_have_begun(first, self._paths.values())
            with ThreadPoolExecutor(len(self._senders)) as pool:
                sending = [pool.submit(self._send, name) for name in self._senders]
                try:
                    yield self
                finally:
                    self._stop.set()
            for one in sending:
                one.result()  # raises the error of a sender
            until(lambda: not self._missing(), CONVERGED_WITHIN, lambda: f"{self._missing()}")
            wanted = dict.fromkeys(self.sent, 1)
            for name in self._paths:
                assert self._received(name) == wanted, name
            self.lost = self._lost_members()

    def _lost_members(self) -> list[str]:
        kinds = ("member-failed", "member-leave", "member-reap")
        return [
            f"{by}: {one['event']} {[member['name'] for member in one['members']]}"
            for by, path in self._paths.items()
            for one in records(path)
            if one["event"] in kinds
        ]

    def _send(self, name: str) -> None:
        number = 0
        with RpcSession.connect(self._agents.running[name].rpc) as session:
            while not self._stop.wait(PAUSE):
                session.event(f"load-{number}", name.encode())
                self.sent.append((f"load-{number}", name))
                number += 1

    def _received(self, name: str) -> Counter[tuple[str, str]]:
        events = [one for one in records(self._paths[name]) if one["event"] == "user"]
        pairs = [(str(one["name"]), str(one["payload"])) for one in events]
        return Counter(pair for pair in pairs if pair[0].startswith("load-"))

    def _missing(self) -> dict[str, int]:
        counts = {name: len(set(self.sent) - set(self._received(name))) for name in self._paths}
        return {name: count for name, count in counts.items() if count}


# --- event handlers ---


@attrs.frozen
class Call:
    """One run of a handler."""

    env: dict[str, str]
    stdin: bytes

    @property
    def event(self) -> str:
        """The event that it ran for."""
        return self.env["SERF_EVENT"]

    @property
    def members(self) -> dict[str, tuple[str, str, frozenset[str]]]:
        """The members in its input, by name: address, role, and tags without order."""
        found = {}
        for line in self.stdin.decode("utf-8", "surrogateescape").splitlines():
            name, address, role, tags = line.split("\t")
            found[name] = (address, role, frozenset(tags.split(",")))
        return found


class Recorder:
    """The calls of one agent's handler.

    Args:
        path: the file of the calls.
        filters: the events that are recorded.
    """

    def __init__(self, path: Path, filters: str = "*") -> None:
        self._path = path
        self.option = f"-event-handler={filters}={self.script}"

    @property
    def script(self) -> str:
        """A script that writes a line of environment and a line of input, each in base64."""
        return (
            f"{{ env -0 | grep -z ^SERF_ | base64 -w0; echo; base64 -w0; echo; }} >>{self._path}"
        )

    def calls(self) -> list[Call]:
        """Return the calls that have ended, in their order."""
        if not self._path.exists():
            return []
        *lines, _ = self._path.read_bytes().split(b"\n")
        pairs = zip(lines[::2], lines[1::2], strict=False)
        return [Call(_env(base64.b64decode(env)), base64.b64decode(text)) for env, text in pairs]

    def of(self, event: str, about: str = "") -> list[Call]:
        """Return the calls for a kind of event, and for a member or a name of events."""
        return [
            call
            for call in self.calls()
            if call.event == event
            and (
                not about
                or about in (call.env.get("SERF_USER_EVENT"), call.env.get("SERF_QUERY_NAME"))
                or (event.startswith("member-") and about in call.members)
            )
        ]

    def wait(self, event: str, about: str, seconds: float = 70.0) -> Call:
        """Wait for a call and return it."""
        until(lambda: bool(self.of(event, about)), seconds, lambda: f"no {event} of {about}")
        return self.of(event, about)[0]


def _env(data: bytes) -> dict[str, str]:
    pairs = data.decode("utf-8", "surrogateescape").split("\0")[:-1]
    return dict(pair.split("=", 1) for pair in pairs)
