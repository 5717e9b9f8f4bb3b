"""Events from some agents of a cluster, and who hears them."""

import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

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


def ours(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [*TRIOSERF, *words], capture_output=True, cwd=ROOT, timeout=120, check=False
    )
    return done.returncode, (done.stdout + done.stderr).decode()


class Load:
    """Events from some agents, and who hears them.

    Attributes:
        sent: name and sender of each.
        lost: what was seen of members that failed or left meanwhile.
    """

    def __init__(self, agents: Cluster, senders: Sequence[str]) -> None:
        self.sent: list[tuple[str, str]] = []
        self.lost: list[str] = []
        self._agents = agents
        self._stop = Event()
        self._paths: dict[str, Path] = {}
        self._senders = senders

    @contextmanager
    def flowing(self, *hearers: str) -> Iterator["Load"]:
        """Send while the block lasts; every event is told once by each hearer: all, if none."""
        with ExitStack() as stack:
            for name in hearers or self._agents.running:
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
                one.result()  # raises what has ended a sender
            until(lambda: not self._missing(), CONVERGED_WITHIN, lambda: f"{self._missing()}")
            wanted = dict.fromkeys(self.sent, 1)
            for name in self._paths:
                assert self._heard(name) == wanted, name
            self.lost = self._gone()

    def _gone(self) -> list[str]:
        gone = ("member-failed", "member-leave", "member-reap")
        return [
            f"{by}: {one['event']} {[member['name'] for member in one['members']]}"
            for by, path in self._paths.items()
            for one in records(path)
            if one["event"] in gone
        ]

    def _send(self, name: str) -> None:
        number = 0
        with RpcSession.connect(self._agents.running[name].rpc) as session:
            while not self._stop.wait(PAUSE):
                session.event(f"load-{number}", name.encode())
                self.sent.append((f"load-{number}", name))
                number += 1

    def _heard(self, name: str) -> Counter[tuple[str, str]]:
        told = [one for one in records(self._paths[name]) if one["event"] == "user"]
        pairs = [(str(one["name"]), str(one["payload"])) for one in told]
        return Counter(pair for pair in pairs if pair[0].startswith("load-"))

    def _missing(self) -> dict[str, int]:
        counts = {name: len(set(self.sent) - set(self._heard(name))) for name in self._paths}
        return {name: count for name, count in counts.items() if count}
