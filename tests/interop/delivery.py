"""Measure how agents deliver events and queries; `scripts/delivery` runs this.

The caller has namespaces of its own (network, mounts, processes): see `namespaces.py`.
"""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import attrs

from tests.interop.agents import SERF, TRIOSERF, Process, until
from tests.interop.chaos_report import TRIOSERF_PREFIX
from tests.interop.namespaces import Router
from trioserf.control.client.rpc_session import RpcSession
from trioserf.control.errors import ControlError
from trioserf.results import QueryAck

LATE: Final = (1.0, 3.0)
"""Seconds after which a delivery counts as late."""
STARTED_WITHIN: Final = 240.0
IDLE: Final = 10.0
"""Seconds in which the packets of an idle cluster are counted."""
ENDED_WITHIN: Final = 45.0
"""Seconds after the last event: a push/pull of each member takes place in them."""


@attrs.define
class Counts:
    """Pairs of an event and a member other than its sender.

    Attributes:
        late: those later than each of `LATE`, or never.
    """

    pairs: int = 0
    late: list[int] = attrs.Factory(lambda: [0] * len(LATE))
    never: int = 0
    doubled: int = 0


@attrs.define
class Result:
    """What was measured; `ours` counts the pairs of trioserf's agents among each other."""

    all: Counts = attrs.Factory(Counts)
    ours: Counts = attrs.Factory(Counts)
    expected: int = 0
    acked: int = 0
    events: int = 0
    packets: float = 0.0

    def text(self) -> str:
        """Format the result as a table."""
        lines = [
            f"{'':<9} {'pairs':>7} {'late > 1 s':>16} {'late > 3 s':>16} {'never':>6} doubled"
        ]
        for name, counts in (("all", self.all), ("trioserf", self.ours)):
            late = " ".join(f"{n:>6} {share(n, counts.pairs):>9}" for n in counts.late)
            lines.append(
                f"{name:<9} {counts.pairs:>7} {late} {counts.never:>6} {counts.doubled:>7}"
            )
        lines.append(
            f"acks in time: {self.acked} of {self.expected}"
            f" ({share(self.acked, self.expected)}); packets per event:"
            f" {self.packets / max(1, self.events):.1f}"
        )
        return "\n".join(lines)


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3f} %" if whole else "-"


class Measurement:
    """Agents in hosts of their own, an observer of each, and events and queries.

    Args:
        names: the agents; names of trioserf's begin with `py`, those of Serf's with `go`.
        profile: the timing profile of all.
        loss: percent of the packets between agents that are lost.
        pause: seconds between two events.
        seed: of senders and times.
    """

    def __init__(
        self, names: Sequence[str], profile: str, loss: int, pause: float, seed: int
    ) -> None:
        self._names = list(names)
        self._options = [f"-profile={profile}", "-log-level=err"]
        self._loss = loss
        self._pause = pause
        self._rng = random.Random(seed)
        self.router = Router(names)
        self._agents: dict[str, Process] = {}
        self._arrived: dict[str, list[tuple[float, str]]] = {name: [] for name in names}
        self._sent: dict[str, tuple[float, str]] = {}
        self._threads = ThreadPoolExecutor(len(names) + 64)

    def run(self, events: int, queries: int) -> Result:
        """Run everything.

        Raises:
            AssertionError: an agent did not start or join.
        """
        result = Result(events=events)
        followers: list[Future[None]] = []
        try:
            for name in self._names:
                self._start(name)
            until(self._is_formed, STARTED_WITHIN, lambda: "the cluster has not formed")
            followers = [self._threads.submit(self._follow, name) for name in self._names]
            if self._loss:
                self.router.lose(self._loss)
            time.sleep(3)
            before = self._packets()
            time.sleep(IDLE)
            idle = (self._packets() - before) / IDLE
            before, began = self._packets(), time.monotonic()
            self._send_events(events)
            time.sleep(3)
            result.packets = self._packets() - before - idle * (time.monotonic() - began)
            self._ask(queries, result)
            with suppress(AssertionError):  # what has not arrived is reported
                until(lambda: self._count().all.never == 0, ENDED_WITHIN)
            counted = self._count()
            result.all, result.ours = counted.all, counted.ours
        finally:
            for agent in self._agents.values():
                agent.end()
        for follower in followers:
            follower.result()
        return result

    def _start(self, name: str) -> None:
        program = TRIOSERF if name.startswith(TRIOSERF_PREFIX) else [SERF or "serf"]
        host = self.router.address(name)
        options = list(self._options)
        if self._agents:
            first = self.router.address(self._names[0])
            options += [f"-retry-join={first}", "-retry-interval=1s"]
        self._agents[name] = Process(program, name, 0, options, namespace=name, host=host)

    def _is_formed(self) -> bool:
        for agent in self._agents.values():
            with suppress(ControlError), RpcSession.connect(agent.rpc, timeout=5.0) as session:
                if sum(one.status == "alive" for one in session.members()) == len(self._names):
                    continue
            return False
        return True

    def _follow(self, name: str) -> None:
        """Record the arrival of each event at one agent."""
        with suppress(ControlError), RpcSession.connect(self._agents[name].rpc) as session:
            for record in session.stream_records(("user",)):
                self._arrived[name].append((time.monotonic(), record["name"]))

    def _send_events(self, count: int) -> None:
        sessions = {
            name: RpcSession.connect(agent.rpc, timeout=20.0)
            for name, agent in self._agents.items()
        }
        for number in range(count):
            sender, event = self._rng.choice(self._names), f"e{number}"
            self._sent[event] = time.monotonic(), sender
            sessions[sender].event(event, b"delivery", coalesce=False)
            time.sleep(self._rng.uniform(0, 2 * self._pause))
        for session in sessions.values():
            session.close()

    def _ask(self, count: int, result: Result) -> None:
        """Send queries without waiting for the end of those before; count the acks of all."""

        def ask(sender: str) -> int:
            with RpcSession.connect(self._agents[sender].rpc, timeout=60.0) as session:
                records = session.query("delivery", timeout=None)
                return len({one.source for one in records if isinstance(one, QueryAck)} - {sender})

        asked = []
        for _ in range(count):
            asked.append(self._threads.submit(ask, self._rng.choice(self._names)))
            time.sleep(self._rng.uniform(0, 2 * self._pause))
        result.acked = sum(one.result() for one in asked)
        result.expected = count * (len(self._names) - 1)

    def _count(self) -> Result:
        result = Result()
        for name in self._names:
            arrivals: dict[str, float] = {}
            times: Counter[str] = Counter()
            for at, event in list(self._arrived[name]):
                times[event] += 1
                arrivals.setdefault(event, at)
            for event, (sent_at, sender) in self._sent.items():
                if sender == name:
                    continue
                took = arrivals[event] - sent_at if event in arrivals else None
                is_ours = {sender[:2], name[:2]} == {TRIOSERF_PREFIX}
                for counts in (result.all, *([result.ours] if is_ours else [])):
                    counts.pairs += 1
                    counts.never += took is None
                    counts.doubled += times[event] > 1
                    for number, limit in enumerate(LATE):
                        counts.late[number] += took is None or took > limit
        return result

    def _packets(self) -> int:
        """Return the number of datagrams that all agents have sent."""
        return sum(map(_datagrams, self._names))


def _datagrams(namespace: str) -> int:
    command = ["ip", "netns", "exec", namespace, "cat", "/proc/net/snmp"]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    names, values = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
    return int(values[names.index("OutDatagrams")])
