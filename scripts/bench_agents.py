"""Agents of the measured programs as processes; used by `bench`.

Each process is ended by the context manager that started it, and each wait has a limit.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import own_python
import msgpack

TRIO = "import trio"
"""The name of the process with which starts and memory are compared."""
RNG = random.Random()
TICKS = 100
"""CPU times of /proc in a second, on each Linux."""
CORES = os.cpu_count() or 1
STARTED_WITHIN = 120.0
LOG_TAIL = 3
"""Lines of a log that are shown when an agent ends by itself."""


class NotMeasured(Exception):
    """A measurement was not possible; the text has the reason."""


class Interrupts:
    """Makes signals that end this program raise KeyboardInterrupt, once and not anywhere."""

    def __init__(self) -> None:
        self._delays = 0
        self._pending: int | None = None

    def install(self) -> None:
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup does
            signal.signal(signal.SIGHUP, self._handle)

    def _handle(self, number: int, _frame: object) -> None:
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_IGN)  # the clean-up is not interrupted
        self._pending = number
        self._raise()

    def _raise(self) -> None:
        if self._pending is not None and not self._delays:
            number, self._pending = self._pending, None
            raise KeyboardInterrupt(f"interrupted by {signal.Signals(number).name}")

    @contextmanager
    def delayed(self) -> Iterator[None]:
        """Raise KeyboardInterrupt only at the end of this block."""
        self._delays += 1
        try:
            yield
        finally:
            self._delays -= 1
            self._raise()


INTERRUPTS = Interrupts()
_running: set[subprocess.Popen] = set()
"""Processes that were started and have not been waited for."""


class Program(NamedTuple):
    """A program to measure.

    Attributes:
        name: its column in the tables.
        commands: the commands of its agents in turn: one, or two for a mixed cluster.
        root: the checkout from which trioserf runs.
        version: shown with the results.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    root: Path
    version: str

    def start(self, words: Iterable[str], index: int = 0, output: Any = None) -> subprocess.Popen:
        """Start a command of the program, apart from the signals of the terminal."""
        command = [*self.commands[index % len(self.commands)], *words]
        return start(command, self.root, output)


def start(command: list[str], root: Path, output: Any = None) -> subprocess.Popen:
    """Start a process whose Python finds trioserf in `root`, and its cached bytecode.

    Raises:
        NotMeasured: a limit of the system was reached.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith(("SERF_", "TRIOSERF_"))
    }
    try:
        with INTERRUPTS.delayed():
            process = subprocess.Popen(
                command, cwd=root, env=kept | {"PYTHONPATH": str(root)}, process_group=0,
                stdin=subprocess.DEVNULL, stdout=output or subprocess.DEVNULL,
                stderr=output or subprocess.DEVNULL,
            )  # fmt: skip
            _running.add(process)
    except OSError as error:  # descriptors, processes or memory
        raise NotMeasured(f"{command[0]} was not started: {error}") from None
    return process


def end(process: subprocess.Popen) -> float:
    """Kill a process if it runs; return the CPU seconds that it used."""
    if process.returncode is None:
        process.kill()
    return finish(process)


def end_all() -> None:
    """Kill each process that still runs because an interrupt came right after its start."""
    for process in list(_running):
        end(process)


def finish(process: subprocess.Popen) -> float:
    """Wait for the end of a process; return the CPU seconds that it used."""
    _running.discard(process)
    if process.returncode is not None:
        return 0.0
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


class Rpc:
    """A connection to a control port, with Serf's RPC.

    Raises:
        OSError: it cannot be established, or was closed.
    """

    def __init__(self, host: str, timeout: float = 60.0) -> None:
        self.socket = socket.create_connection((host, 7373), timeout)
        self._unpacker = msgpack.Unpacker(
            raw=False, unicode_errors="surrogateescape", max_buffer_size=1 << 28
        )
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.ask("handshake", {"Version": 1})
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def ask(self, command: str, body: object = None, *, reply: bool = False) -> Any:
        """Send a request and wait for its end; return the body of the reply if it has one."""
        head = packed({"Command": command, "Seq": 1}, *([] if body is None else [body]))
        self.socket.sendall(head)
        if error := self.receive()["Error"]:
            raise NotMeasured(f"{command}: {error}")
        return self.receive() if reply else None

    def receive(self) -> Any:
        """Return the next object, waiting for it."""
        while (received := next(self._complete(), None)) is None:
            self._feed()
        return received

    def position(self) -> int:
        """Return the number of bytes decoded so far."""
        return self._unpacker.tell()

    def available(self) -> Iterator[Any]:
        """Read once; yield the objects that are complete."""
        self._feed()
        yield from self._complete()

    def _complete(self) -> Iterator[Any]:
        while True:
            try:
                received = self._unpacker.unpack()
            except msgpack.OutOfData:
                return
            yield received

    def _feed(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the agent closed the connection")
        self._unpacker.feed(data)


def packed(*messages: object) -> bytes:
    return b"".join(map(msgpack.packb, messages))


class Agent:
    """A running agent; leaving the context kills it."""

    def __init__(self, program: Program, host: str, *options: str, index: int = 0) -> None:
        self.program, self.host = program, host
        self.name = f"n{index}"
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self.began = time.perf_counter()
        words = ["agent", f"-bind={host}:7946", f"-rpc-addr={host}:7373", f"-node={self.name}"]
        try:
            self.process = program.start([*words, *options], index, self.log)
        except BaseException:
            self.log.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def kill(self) -> None:
        """Kill the process without waiting for its end."""
        if self.process.returncode is None:
            self.process.kill()

    def end(self) -> float:
        """Kill the process and wait; return the CPU seconds that it used."""
        self.log.close()
        return end(self.process)

    def wait_for_port(self) -> None:
        """Wait until the first `members` is answered."""
        wait_until(self._answers, f"start of {self.program.name}", STARTED_WITHIN, 0.001)

    def _answers(self) -> bool:
        try:
            with Rpc(self.host) as rpc:
                rpc.ask("members", reply=True)
                return True
        except OSError:
            self.check_running()
            return False

    def members(self) -> int:
        """Return the number of members; 0 while one is failed or left, or without an answer."""
        try:
            with Rpc(self.host) as rpc:
                counts = rpc.ask("stats", reply=True)["serf"]
        except OSError:
            self.check_running()
            return 0
        if int(counts["failed"]) or int(counts["left"]):
            return 0
        return int(counts["members"])

    def check_running(self) -> None:
        """Raise an error if the agent has ended by itself."""
        code = self.process.poll()
        if code is not None:
            lines = self.logged().decode(errors="replace").split("\n")
            text = " ".join(" ".join(lines[-LOG_TAIL:]).split())
            raise NotMeasured(f"an agent of {self.program.name} ended with {code}: {text}")

    def logged(self) -> bytes:
        """Return the log so far; other than `read`, this leaves the position of the writer."""
        return os.pread(self.log.fileno(), 1 << 20, 0)

    def cpu(self) -> float:
        """Return the CPU seconds used so far, in steps of 10 ms."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> tuple[float, float]:
        return memory(self.process.pid)


def memory(pid: int) -> tuple[float, float]:
    """Return the resident and the proportional memory of a process in MB."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError as error:
        raise NotMeasured(f"smaps_rollup cannot be read: {error}") from None
    sizes = {line.split()[0]: line.split()[1] for line in text.splitlines()[1:]}
    return int(sizes["Rss:"]) / 1024, int(sizes["Pss:"]) / 1024


def wait_until(holds: Callable[[], bool], what: str, seconds: float, pause: float = 0.01) -> None:
    """Wait until a condition holds.

    Raises:
        NotMeasured: it does not in time; the text has the limit of the machine that was reached.
    """
    busy = busy_time()
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise too_long(what, seconds, busy)
        time.sleep(pause)


def too_long(what: str, seconds: float, busy: float) -> NotMeasured:
    """Return the error of a wait that began when the machine's `busy_time()` was `busy`."""
    share = (busy_time() - busy) / (seconds * CORES)
    cause = f"; all {CORES} cores were busy" if share > 0.95 else ""
    return NotMeasured(f"{what}: not within {seconds:g} s{cause}")


def busy_time() -> float:
    """Return the seconds for which the cores of this machine were busy, added up."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    return (user + nice + system + irq + soft + steal) / TICKS


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """Keep cores busy with processes that end with this one, whatever ends it."""
    code = f"import os\nwhile os.getppid() == {os.getpid()}:\n for _ in range(10**6): pass"
    command = [sys.executable, "-c", code]
    spinners: list[subprocess.Popen] = []
    try:
        for _ in range(count):
            spinners.append(start(command, own_python.ROOT))  # noqa: PERF401 - each is ended
        yield
    finally:
        for spinner in spinners:
            end(spinner)
