"""Agents under load and disturbances; `scripts/chaos` runs them, and a test runs that.

The caller has namespaces of its own (network, mounts, processes): see `scripts/chaos`.
"""

import os
import random
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Final

import attrs

from tests.interop.agents import SERF, TRIOSERF, Process, until
from tests.interop.chaos_report import (
    QUERY_TIMEOUT,
    SPREAD_WITHIN,
    TRIOSERF_PREFIX,
    Asked,
    Disturbance,
    Journal,
    Run,
    Sample,
    Sent,
    find_lost,
)
from tests.interop.floods import memory
from tests.interop.helpers import fill
from tests.interop.namespaces import Router
from trioserf.control.client.rpc_session import RpcSession
from trioserf.control.errors import ControlError
from trioserf.results import QueryAnswer

FAKETIME: Final = "libfaketimeMT.so.1"
GOSSIP_PORT: Final = 7946
RPC_PORT: Final = 7373
HEALED_WITHIN: Final = 240.0
"""Seconds until all agents see each other. Each tries one of its failed members every 30 s at
most, and an agent that starts while it is cut off waits for that."""
SAMPLED_AT_END: Final = 6.0
"""Seconds of quiet in which the last samples are made."""
DISK_SIZE: Final = "1m"
"""Enough for a snapshot (compacted at 128 KiB) and its successor."""


# --- the plan ---


@attrs.frozen
class Step:
    """A disturbance to come.

    Attributes:
        at: seconds after the beginning.
        agent: the victim; empty for all.
        seconds: how long it lasts.
        amount: percent of loss, or seconds of a clock step.
    """

    at: float
    kind: str
    agent: str
    seconds: float
    amount: int = 0


LANES: Final = (("kill", "stop", "dns", "descriptors"), ("loss", "cut", "disk", "clock"))
"""Kinds that do not overlap; the lanes do."""
KINDS: Final = LANES[0] + LANES[1]
SECONDS: Final[Mapping[str, tuple[float, float]]] = {
    "kill": (0.2, 12.0),
    "stop": (1.0, 12.0),
    "dns": (0.2, 3.0),
    "descriptors": (4.0, 10.0),
    "loss": (5.0, 15.0),
    "cut": (3.0, 20.0),
    "disk": (3.0, 15.0),
    "clock": (2.0, 6.0),
}
PAUSE: Final = (1.0, 5.0)
"""Seconds between two disturbances of a lane."""
CLOCK_STEPS: Final = (-30 * 86_400, -3600, 3600, 400 * 86_400)


def plan(
    seed: int, seconds: float, kinds: Sequence[str], agents: Sequence[str]
) -> list[list[Step]]:
    """Return the disturbances of each lane; the first agent is never killed.

    Each kind of a lane comes once before one is repeated. No step begins that would end late.
    """
    lanes = []
    for number, lane in enumerate(LANES):
        rng = random.Random(f"{seed} {number}")
        steps: list[Step] = []
        chosen = [kind for kind in lane if kind in kinds]
        queued: list[str] = []
        at = 0.0
        while chosen:
            queued = queued or rng.sample(chosen, len(chosen))
            step = _step(rng, at + rng.uniform(*PAUSE), queued.pop(), agents)
            at = step.at + step.seconds
            if at > seconds:
                break
            steps.append(step)
        lanes.append(steps)
    return lanes


def _step(rng: random.Random, at: float, kind: str, agents: Sequence[str]) -> Step:
    ours = [name for name in agents if name.startswith(TRIOSERF_PREFIX)]
    victims: Mapping[str, Sequence[str]] = {
        "kill": agents[1:], "dns": agents[1:], "loss": ("",), "clock": ours,
    }  # fmt: skip
    amounts: Mapping[str, Sequence[int]] = {"loss": range(5, 31), "clock": CLOCK_STEPS}
    return Step(
        at,
        kind,
        rng.choice(victims.get(kind, agents)),
        rng.uniform(*SECONDS[kind]),
        rng.choice(amounts.get(kind, (0,))),
    )


# --- the agents ---


@attrs.define
class Agent:
    """An agent over all its runs.

    Attributes:
        folder: the files of its handler, its clock and its logs.
        disk: the small disk for its snapshot.
        disturbed: it is stopped or lacks descriptors, and so gets no requests.
    """

    name: str
    host: str
    folder: Path
    disk: Path
    environment: Mapping[str, str]
    process: Process | None = None
    run: Run | None = None
    disturbed: bool = False
    lock: threading.Lock = attrs.field(factory=threading.Lock)

    @property
    def is_ours(self) -> bool:
        return self.name.startswith(TRIOSERF_PREFIX)

    @property
    def rpc(self) -> str:
        return f"{self.host}:{RPC_PORT}"

    @property
    def is_available(self) -> bool:
        run = self.run
        return not self.disturbed and run is not None and run.ready < inf and run.ended == inf

    @property
    def handled(self) -> Path:
        return self.folder / f"{self.name}.handled"

    @property
    def clock(self) -> Path:
        return self.folder / f"{self.name}.clock"

    def command(self) -> list[str]:
        return list(TRIOSERF) if self.is_ours else [SERF or "serf"]

    def members(self) -> dict[str, str]:
        """Return the status of each member that it knows; nothing if it does not answer."""
        with suppress(ControlError), RpcSession.connect(self.rpc, timeout=5.0) as session:
            return {one.name: one.status for one in session.members()}
        return {}


class Chaos:
    """Agents around a router, with load, observers and disturbances.

    Args:
        names: the agents; names of trioserf's begin with `py`, those of Serf's with `go`.
        folder: for files and logs; its file system is not filled.
        kinds: the disturbances; those that are impossible here are moved to `skipped`.
        seed: of the load and of the disturbances.
        rate: user events per second of all agents together; a quarter of that are queries.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        kinds: Sequence[str],
        seed: int,
        rate: float,
        log: Callable[[str], None],
    ) -> None:
        self.journal = Journal()
        self.router = Router(names)
        self.skipped: dict[str, str] = {}
        self._began = time.monotonic()
        self._log = log
        self._seed = seed
        self._pause = len(names) / rate
        self._kinds = self._possible(kinds, names)
        self._load_is_over = threading.Event()
        self._is_over = threading.Event()
        self._threads = ThreadPoolExecutor(256)
        self._tasks: list[Future[None]] = []
        if "clock" in self._kinds:
            # libfaketime leaves two files there for each process: 8 KB for each run of a handler.
            _mount_memory(Path("/dev/shm"), "1g")
        self._agents = {name: self._agent(name, folder) for name in names}

    def now(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self._began

    def run(self, seconds: float) -> None:
        """Run everything: start, disturb for this time, heal, end.

        Raises:
            AssertionError: an agent did not start.
        """
        steps = plan(self._seed, seconds, self._kinds, list(self._agents))
        with ExitStack() as stack:
            stack.callback(self._end)
            if "dns" in self._kinds:
                stack.enter_context(self._silent_resolver())
            seed = f"-join={next(iter(self._agents.values())).host}"
            for number, agent in enumerate(self._agents.values()):
                started = self._start(agent, *([seed] if number else []))
                assert started, f"{agent.name} did not start: {self.journal.troubles}"
            self._tasks.append(self._threads.submit(self._watch))
            for agent in self._agents.values():
                self._tasks.append(self._threads.submit(self._send_events, agent))
                self._tasks.append(self._threads.submit(self._send_queries, agent))
            self._log(f"{len(self._agents)} agents have started")
            begin = self.now()
            lanes = [self._threads.submit(self._disturb, begin, lane, seconds) for lane in steps]
            for lane in lanes:
                lane.result()
            self._is_over.wait(max(0.0, begin + seconds - self.now()))
            self._load_is_over.set()
            self._heal()
            self._is_over.wait(SAMPLED_AT_END)
        for task in self._tasks:
            task.result()  # raises its error
        self._read_handled()

    # --- preparations ---

    def _possible(self, kinds: Sequence[str], names: Sequence[str]) -> list[str]:
        """Return the kinds that are possible here; note what is skipped, and why."""
        if "loss" in kinds and not self.router.loss:
            self.skipped["loss"] = (
                "the kernel lacks netem, and the program nft (nftables) is missing"
            )
        elif "loss" in kinds and not self.router.delay:
            self.skipped["delay"] = "the kernel has neither netem nor tbf; packets are lost only"
        elif "loss" in kinds and self.router.delay == "tbf":
            self.skipped["netem"] = (
                "missing in this kernel; loss by nft, delay by a narrow link (tbf)"
            )
        if "clock" in kinds:
            ours = [name for name in names if name.startswith(TRIOSERF_PREFIX)]
            if not ours:
                self.skipped["clock"] = "programs in Go do not use libc's clock"
            elif not _faketime():
                self.skipped["clock"] = "libfaketime is missing: apt-get install faketime"
            elif len(ours) < len(names):
                self.skipped["clock of Serf"] = "programs in Go do not use libc's clock"
        return [kind for kind in kinds if kind not in self.skipped]

    def _agent(self, name: str, folder: Path) -> Agent:
        environment = dict(os.environ)
        disk = folder / f"{name}.disk"
        disk.mkdir()
        _mount_memory(disk, DISK_SIZE)
        agent = Agent(name, self.router.address(name), folder, disk, environment)
        if "clock" in self._kinds and agent.is_ours:
            agent.clock.write_text("+0\n")
            environment |= {
                "LD_PRELOAD": _faketime(),
                "FAKETIME_TIMESTAMP_FILE": str(agent.clock),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        return agent

    @contextmanager
    def _silent_resolver(self) -> Iterator[None]:
        """Point resolv.conf of this mount namespace to a name server that does not answer."""
        address = "10.78.250.53"
        self.router.add_address(address)
        folder = next(iter(self._agents.values())).folder
        file = folder / "resolv.conf"
        file.write_text(f"nameserver {address}\n")
        subprocess.run(["mount", "--bind", str(file), "/etc/resolv.conf"], check=True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind((address, 53))
            yield

    # --- starts and ends ---

    def _start(self, agent: Agent, *options: str) -> bool:
        """Start an agent; return whether it became a ready member."""
        number = len(self.journal.runs_of(agent.name)) + 1
        run = Run(agent.name, number, self.now())
        agent.process = Process(
            agent.command(), agent.name, 0,
            [f"-snapshot={agent.disk / 'snapshot'}", "-log-level=debug",
             f"-event-handler=user=echo $SERF_USER_EVENT {number} >>{agent.handled}",
             "-event-handler=query=echo $SERF_SELF_NAME", *options],
            namespace=agent.name, host=agent.host, env=agent.environment,
        )  # fmt: skip
        agent.run = run
        self.journal.runs.append(run)
        followed = threading.Event()
        self._tasks.append(self._threads.submit(self._follow, agent, run, followed))
        process = agent.process

        def is_ready() -> bool:
            if process.exit_code() is not None:
                return True
            alive = list(agent.members().values()).count("alive")
            return followed.is_set() and alive >= min(2, len(self.journal.runs))

        try:
            until(is_ready, HEALED_WITHIN)
        except AssertionError:
            self.journal.troubles.append(
                f"{agent.name}, run {number}, did not join within {HEALED_WITHIN:g} s"
            )
            return False
        if process.exit_code() is not None:
            self._record_end(agent)
            return False
        run.ready = self.now()
        return True

    def _kill(self, agent: Agent) -> None:
        """End an agent, and keep its log."""
        process, run = agent.process, agent.run
        if process is None or run is None:
            return
        run.ended = min(run.ended, self.now())
        agent.process = None
        process.signal(signal.SIGKILL)
        process.wait()
        text = process.log_text()
        process.end()
        run.tracebacks = text.count("Traceback") + text.count("panic:")
        (agent.folder / f"{agent.name}-{run.number}.log").write_text(text)

    def _record_end(self, agent: Agent) -> None:
        """Record that an agent ended by itself, and keep its log."""
        assert agent.process is not None
        assert agent.run is not None
        code, text = agent.process.exit_code(), agent.process.log_text()
        agent.run.by_itself = f"exit code {code}: {' | '.join(text.splitlines()[-3:])}"
        self._log(f"{agent.name} died by itself: {agent.run.by_itself}")
        self._kill(agent)

    def _heal(self) -> None:
        """Wait until all agents see each other alive, and have received all events."""
        names = set(self._agents)

        def is_whole() -> bool:
            alive = {*names}
            for agent in self._agents.values():
                alive &= {name for name, status in agent.members().items() if status == "alive"}
            return alive == names

        try:
            until(is_whole, HEALED_WITHIN)
        except AssertionError:
            views = {name: agent.members() for name, agent in self._agents.items()}
            self.journal.troubles.append(f"the cluster did not heal: {views}")
        self._log(f"all members are alive after {self.now():.1f} s")
        with suppress(AssertionError):  # lost events are reported
            until(self._all_arrived, SPREAD_WITHIN)

    def _all_arrived(self) -> bool:
        self._read_handled()
        self._is_over.wait(1.0)
        return not find_lost(self.journal)

    def _end(self) -> None:
        self._load_is_over.set()
        self._is_over.set()
        # All at once, before any declares another one failed.
        for agent in self._agents.values():
            with agent.lock:
                # A run that was up to the end has no end.
                ended = agent.run.ended if agent.run else inf
                self._kill(agent)
                if agent.run:
                    agent.run.ended = ended
        for agent in self._agents.values():
            subprocess.run(["umount", "-l", str(agent.disk)], check=False)
        self._threads.shutdown()

    def _read_handled(self) -> None:
        """Pass the records of the handlers to the runs."""
        for name, agent in self._agents.items():
            runs = {run.number: run for run in self.journal.runs_of(name)}
            for run in runs.values():
                run.handled.clear()
            if agent.handled.exists():
                for line in agent.handled.read_text().splitlines():
                    event, number = line.split()
                    runs[int(number)].handled.append(event)

    # --- load and observers ---

    def _follow(self, agent: Agent, run: Run, followed: threading.Event) -> None:
        """Record the events of a run until it ends."""
        while run.ended == inf and not self._is_over.is_set():
            with suppress(ControlError), RpcSession.connect(agent.rpc, timeout=5.0) as session:
                stream = session.stream_records(("user", "member-failed"))
                followed.set()
                for record in stream:
                    if record["event"] == "user":
                        run.streamed.append((self.now(), record["name"]))
                    elif record["event"] == "member-failed":
                        members = [one["name"] for one in record["members"]]
                        run.failed += [(self.now(), name) for name in members]
            self._is_over.wait(0.1)

    def _watch(self) -> None:
        """Sample memory and descriptors each second; restart agents that died by themselves."""
        while not self._is_over.wait(1.0):
            for agent in self._agents.values():
                if not agent.lock.acquire(blocking=False):
                    continue  # it is being restarted
                try:
                    self._look_at(agent)
                finally:
                    agent.lock.release()

    def _look_at(self, agent: Agent) -> None:
        process, run = agent.process, agent.run
        if process is not None and process.exit_code() is not None:
            self._record_end(agent)
            process = None
        if process is None:
            self._start(agent)
        elif run is not None:
            with suppress(OSError):
                count = descriptors(process.pid)
                run.samples.append(Sample(self.now(), memory(process.pid), count))

    def _send_events(self, agent: Agent) -> None:
        numbers = iter(range(10**9))

        def send(session: RpcSession) -> None:
            event = f"{agent.name}-{next(numbers)}"
            at = self.now()
            session.event(event, b"chaos")
            self.journal.sent.append(Sent(event, agent.name, at))

        self._repeat(agent, self._pause, send)

    def _send_queries(self, agent: Agent) -> None:
        def ask(session: RpcSession) -> None:
            at = self.now()
            query = session.query("who", timeout=QUERY_TIMEOUT)
            responders = [one.source for one in query if isinstance(one, QueryAnswer)]
            self.journal.asked.append(Asked(agent.name, at, frozenset(responders)))

        self._repeat(agent, 4 * self._pause, ask)

    def _repeat(self, agent: Agent, pause: float, act: Callable[[RpcSession], None]) -> None:
        """Repeat an act at a steady rate while the agent accepts it, with one connection."""
        rng = random.Random(f"{self._seed} {agent.name} {pause}")
        session: RpcSession | None = None
        wait = rng.uniform(0, pause)
        while not self._load_is_over.wait(wait):
            due = time.monotonic() + pause * rng.uniform(0.5, 1.5)
            if agent.is_available:
                try:
                    session = session or RpcSession.connect(agent.rpc, timeout=5.0)
                    act(session)
                except ControlError:
                    # Killed, stopped or without descriptors at this moment.
                    self.journal.refused += 1
                    if session is not None:
                        session.close()
                    session = None
            wait = max(0.0, due - time.monotonic())
        if session is not None:
            session.close()

    # --- disturbances ---

    def _disturb(self, begin: float, steps: Sequence[Step], seconds: float) -> None:
        """Make the disturbances of a lane; drop the last ones if restarts took too long."""
        for step in steps:
            if self._is_over.wait(max(0.0, begin + step.at - self.now())):
                return
            if self.now() > begin + seconds:
                return
            began = self.now()
            amount = f", {step.amount}" if step.amount else ""
            self._log(f"{step.kind} {step.agent}, {step.seconds:.1f} s{amount}")
            try:
                _DISTURB[step.kind](self, step)
            finally:
                one = Disturbance(step.kind, step.agent, began, self.now())
                self.journal.disturbances.append(one)

    def _kill_and_restart(self, step: Step, *options: str) -> None:
        agent = self._agents[step.agent]
        with agent.lock:
            if agent.process is not None and agent.process.exit_code() is not None:
                self._record_end(agent)
            self._kill(agent)
            self._is_over.wait(step.seconds)
            self._start(agent, *options)

    def _restart_without_dns(self, step: Step) -> None:
        self._kill_and_restart(step, "-retry-join=seed.chaos.test", "-retry-interval=1s")

    def _stop_and_continue(self, step: Step) -> None:
        agent = self._agents[step.agent]
        with agent.lock:
            process = agent.process
            if process is None:
                return
            agent.disturbed = True
            process.signal(signal.SIGSTOP)
            self._is_over.wait(step.seconds)
            process.signal(signal.SIGCONT)
            agent.disturbed = False

    def _exhaust_descriptors(self, step: Step) -> None:
        """Leave an agent three descriptors, and open many connections to it."""
        agent = self._agents[step.agent]
        process = agent.process
        if process is None:
            return
        agent.disturbed = True
        with suppress(OSError), ExitStack() as held:
            limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
            low = descriptors(process.pid) + 3, limits[1]
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, low)
            for port in [GOSSIP_PORT, RPC_PORT] * 40:
                with suppress(OSError):
                    connection = socket.create_connection((agent.host, port), 1.0)
                    held.enter_context(connection)
            self._is_over.wait(step.seconds)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
        agent.disturbed = False

    def _lose_packets(self, step: Step) -> None:
        self.router.disturb(step.amount)
        self._is_over.wait(step.seconds)
        self.router.calm()

    def _cut_off(self, step: Step) -> None:
        self.router.cut(step.agent)
        self._is_over.wait(step.seconds)
        self.router.restore(step.agent)

    def _fill_disk(self, step: Step) -> None:
        filler = self._agents[step.agent].disk / "filler"
        fill(filler)
        self._is_over.wait(step.seconds)
        filler.unlink()

    def _step_clock(self, step: Step) -> None:
        """Step the clock of an agent; it stays there until its next step."""
        clock = self._agents[step.agent].clock
        new = clock.with_suffix(".new")
        new.write_text(f"{step.amount:+}\n")
        new.replace(clock)
        self._is_over.wait(step.seconds)


_DISTURB: Final[Mapping[str, Callable[[Chaos, Step], None]]] = {
    "kill": Chaos._kill_and_restart,
    "stop": Chaos._stop_and_continue,
    "dns": Chaos._restart_without_dns,
    "descriptors": Chaos._exhaust_descriptors,
    "loss": Chaos._lose_packets,
    "cut": Chaos._cut_off,
    "disk": Chaos._fill_disk,
    "clock": Chaos._step_clock,
}


def descriptors(pid: int) -> int:
    """Return the number of open descriptors of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _mount_memory(folder: Path, size: str) -> None:
    """Mount a disk of this size, in memory, in the caller's namespace of mounts."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)


def _faketime() -> str:
    """Return the path of libfaketime, or nothing."""
    return next(map(str, sorted(Path("/usr/lib").glob(f"*/faketime/{FAKETIME}"))), "")
