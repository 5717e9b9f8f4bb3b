"""Measurements of a cluster of N agents, which begin when all members see all; used by `bench`."""

import base64
import os
import selectors
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import own_python
from bench_agents import (
    RNG,
    TRIO,
    Agent,
    NotMeasured,
    Program,
    Rpc,
    busy_time,
    end,
    memory,
    start,
    too_long,
    wait_until,
)

JOIN, RETRY_JOIN, KEYS = "join", "retry-join", "keys"
"""Kinds of clusters: agents join a running one; all start at once; with keys of gossip."""
ANSWERING = "-event-handler=query:load=echo 1"
FORMED_WITHIN = 600.0
SEEN_WITHIN = 100.0
"""Seconds: Serf's small clusters leave events to a push/pull up to half a minute later."""
FAILED_WITHIN = 60.0
QUIET_AFTER = 5.0
"""Seconds until the gossip of the joins has ended."""
PAUSE = 0.7
"""Seconds between two events."""
ROTATIONS = 3

Samples = Iterator[tuple[str, float] | tuple[str, float, str]]
"""Row, value, and the program if it is not the measured one."""


class Cluster:
    """N agents of a program on addresses of one net; `wall` and `cpu` (an agent's) formed it."""

    def __init__(
        self,
        program: Program,
        size: int,
        kind: str,
        net: str,
        stack: ExitStack,
        agents: list[Agent],
    ) -> None:
        self.program, self.kind, self.net = program, kind, net
        self.key = new_key()
        self.agents, self._stack = agents, stack
        if kind != RETRY_JOIN:
            self._start_next()
            self.agents[0].wait_for_port()
        began = time.perf_counter()
        while len(self.agents) < size:
            self._start_next()
        self.until_all_see_all()
        self.wall = time.perf_counter() - began
        self.cpu = self.cpu_of_agent()
        self._quiet_at = time.monotonic() + QUIET_AFTER

    def _start_next(self) -> None:
        self.agents.append(self._stack.enter_context(self._agent(len(self.agents))))

    def _agent(self, index: int) -> Agent:
        host, first = (f"{self.net}.{number + 1}" for number in (index, 0))
        options = [ANSWERING] if index % 2 else []
        if self.kind == RETRY_JOIN:
            options += [f"-retry-join={first}", "-retry-interval=1s"]
        elif index:
            options.append(f"-join={first}")
        if self.kind == KEYS:
            options.append(f"-encrypt={self.key}")
        return Agent(self.program, host, *options, index=index)

    def restart(self, index: int) -> None:
        """Start an agent again, and wait until all members see it."""
        self.agents[index] = self._stack.enter_context(self._agent(index))
        self.until_all_see_all()

    def until_all_see_all(self) -> None:
        """Wait until each agent sees all; raise NotMeasured at once if any agent ends."""
        deadline = time.monotonic() + FORMED_WITHIN
        for agent in self.agents:
            left = max(1.0, deadline - time.monotonic())
            what = f"{len(self.agents)} agents that see each other"
            wait_until(lambda agent=agent: self._is_complete(agent), what, left, 0.05)

    def _is_complete(self, agent: Agent) -> bool:
        for each in self.agents:
            each.check_running()
        return agent.members() == len(self.agents)

    def settle(self) -> None:
        time.sleep(max(0.0, self._quiet_at - time.monotonic()))

    def cpu_of_agent(self) -> float:
        return sum(agent.cpu() for agent in self.agents) / len(self.agents)


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@contextmanager
def cluster(program: Program, size: int, kind: str, net: str) -> Iterator[Cluster]:
    """Run a cluster until the context is left."""
    agents: list[Agent] = []
    with ExitStack() as stack:
        try:
            yield Cluster(program, size, kind, net, stack, agents)
        finally:
            for agent in agents:  # all at once: a large cluster ends slowly on a busy machine
                agent.kill()


class Watch:
    """Streams of events from many agents, read by one task, so that times are those of arrival."""

    def __init__(self, agents: list[Agent], kind: str) -> None:
        self._agents, self._kind = agents, kind
        self._selector = selectors.DefaultSelector()
        self._open: list[Rpc] = []

    def __enter__(self) -> "Watch":
        try:
            for agent in self._agents:
                rpc = Rpc(agent.host)
                self._open.append(rpc)
                rpc.ask("stream", {"Type": self._kind})
                self._selector.register(rpc.socket, selectors.EVENT_READ, rpc)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for rpc in self._open:
            rpc.socket.close()
        self._selector.close()

    def arrivals(self, wanted: Callable[[dict[str, Any]], bool], seconds: float) -> list[float]:
        """Return when a wanted event arrived at each agent, by `time.perf_counter()`, sorted."""
        seen: dict[Rpc, float] = {}
        busy, deadline = busy_time(), time.perf_counter() + seconds
        while len(seen) < len(self._open):
            left = deadline - time.perf_counter()
            if left <= 0:
                what = f"{self._kind} event at all {len(self._open)} members"
                raise too_long(f"{what} ({len(seen)} had it)", seconds, busy)
            for key, _ in self._selector.select(left):
                now = time.perf_counter()
                if any(wanted(one) for one in key.data.available() if "Event" in one):
                    seen.setdefault(key.data, now)
        return sorted(seen.values())


def boot(cluster: Cluster, _settings: Namespace) -> Samples:
    """Report how the cluster was formed."""
    yield "wall", cluster.wall
    yield "cpu", cluster.cpu


def memory_of_agents(cluster: Cluster, _settings: Namespace) -> Samples:
    """Measure the memory of the agents, and of as many processes that only import trio."""
    cluster.settle()
    sizes = [agent.memory() for agent in cluster.agents]
    yield "rss", statistics.median(rss for rss, _ in sizes)
    yield "pss", statistics.median(pss for _, pss in sizes)
    sizes = memory_of_trio(len(cluster.agents))
    yield "rss", statistics.median(rss for rss, _ in sizes), TRIO
    yield "pss", statistics.median(pss for _, pss in sizes), TRIO


def memory_of_trio(count: int) -> list[tuple[float, float]]:
    """Return the memory of processes that import trio and wait."""
    command = [
        sys.executable,
        "-c",
        "import time, trio; print(end='.', flush=True); time.sleep(99)",
    ]
    with ExitStack() as stack:
        processes = []
        for _ in range(count):
            read, write = os.pipe()
            stack.callback(os.close, read)
            try:
                process = start(command, own_python.ROOT, write)
            finally:
                os.close(write)
            stack.callback(end, process)
            processes.append((process, read))
        for _, read in processes:
            if os.read(read, 1) != b".":
                raise NotMeasured("`import trio` failed")
        return [memory(process.pid) for process, _ in processes]


def idle(cluster: Cluster, settings: Namespace) -> Samples:
    """Measure the CPU of an agent without load, in percent of a core."""
    cluster.settle()
    cpu, began = cluster.cpu_of_agent(), time.perf_counter()
    time.sleep(settings.idle)
    yield "cpu", (cluster.cpu_of_agent() - cpu) / (time.perf_counter() - began) * 100


def event(cluster: Cluster, settings: Namespace) -> Samples:
    """Measure how long user events take to the last member."""
    cluster.settle()
    with Watch(cluster.agents, "user") as watch, Rpc(cluster.agents[0].host) as rpc:
        for number in range(settings.events):
            name = f"e{number}"
            time.sleep(PAUSE)
            began = time.perf_counter()
            rpc.ask("event", {"Name": name, "Payload": b"", "Coalesce": False})
            arrivals = watch.arrivals(lambda one, name=name: one["Name"] == name, SEEN_WITHIN)
            yield "seen", (arrivals[-1] - began) * 1000


def query(cluster: Cluster, settings: Namespace) -> Samples:
    """Measure a query that half of the members answer, until it is done."""
    cluster.settle()
    with Rpc(cluster.agents[0].host) as rpc:
        for _ in range(settings.queries):
            began = time.perf_counter()
            rpc.ask("query", {"Name": "load", "Payload": b"", "RequestAck": True, "Timeout": 0})
            while rpc.receive().get("Type") != "done":
                pass
            yield "done", time.perf_counter() - began


def crash(cluster: Cluster, settings: Namespace) -> Samples:
    """Kill one agent after the other, until the first and all members report it failed."""
    for number in range(settings.crashes):
        cluster.settle()
        index = 1 + number % (len(cluster.agents) - 1)
        victim = cluster.agents[index]

        def failed(one: dict[str, Any], name: str = victim.name) -> bool:
            return any(member["Name"] == name for member in one["Members"])

        others = [agent for agent in cluster.agents if agent is not victim]
        with Watch(others, "member-failed") as watch:
            time.sleep(RNG.random())  # at any phase of the probes
            killed = time.perf_counter()
            victim.end()
            arrivals = watch.arrivals(failed, FAILED_WITHIN)
        yield "first", arrivals[0] - killed
        yield "all", arrivals[-1] - killed
        cluster.restart(index)


def keys(cluster: Cluster, _settings: Namespace) -> Samples:
    """Install a new key and use it, until all members have done both."""
    cluster.settle()
    size = len(cluster.agents)
    with Rpc(cluster.agents[0].host) as rpc:
        for _ in range(ROTATIONS):
            key = {"Key": new_key()}
            began = time.perf_counter()
            done = [rpc.ask(step, key, reply=True) for step in ("install-key", "use-key")]
            took = time.perf_counter() - began
            for counts in done:
                if counts["NumErr"] or counts["NumResp"] != size:
                    raise NotMeasured(f"{counts['NumResp']} of {size} members changed their key")
            yield "rotation", took * 1000
            time.sleep(PAUSE)
