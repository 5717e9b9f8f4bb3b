"""A running agent, as a process, under clients that stop reading, crowd it or break off."""

import json
import os
import re
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Thread
from typing import Any

import msgpack
import pytest

from tests.interop.agents import Process, until
from tests.interop.go_agents import OURS
from trioserf.control.address import split_address

EVENTS = 1_500
STREAMS = 8
"""Streams of one connection; together they carry more than the system keeps for it."""
PAYLOAD = "x" * 400
PATIENCE = 60.0
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: the connection ends with a reset, as that of a client that was killed."""


class Rpc:
    """A client of Serf's RPC that reads only when it is told to."""

    def __init__(self, address: str) -> None:
        self.socket = dial(address)
        self._unpacker = msgpack.Unpacker(raw=False)
        self.ask({"Command": "handshake", "Seq": 0}, {"Version": 1})

    def close(self) -> None:
        self.socket.close()

    def ask(self, *messages: Any) -> Any:
        self.socket.sendall(b"".join(map(msgpack.packb, messages)))
        return self.hear()

    def hear(self) -> Any:
        while True:
            for message in self._unpacker:
                return message
            data = self.socket.recv(65536)
            assert data, "the agent closed the connection"
            self._unpacker.feed(data)

    def stream(self, seq: int) -> None:
        begun = self.ask({"Command": "stream", "Seq": seq}, {"Type": "user"})
        assert begun == {"Error": "", "Seq": seq}

    def monitor(self) -> None:
        assert self.ask({"Command": "monitor", "Seq": 99}, {"LogLevel": "INFO"})["Error"] == ""

    def event(self) -> str:
        """The name of the next event of a stream."""
        assert self.hear()["Error"] == ""
        return str(self.hear()["Name"])


class Lines:
    """A client of the JSON lines that reads only when it is told to."""

    def __init__(self, address: str) -> None:
        self.socket = dial(address)
        self._file = self.socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def ask(self, **request: Any) -> Any:
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        return self.hear()

    def hear(self) -> Any:
        line = self._file.readline()
        assert line, "the agent closed the connection"
        return json.loads(line)

    def stream(self, seq: int) -> None:
        assert self.ask(command="stream", types=["user"], seq=seq) == {"seq": seq, "ok": True}

    def monitor(self) -> None:
        assert self.ask(command="monitor", seq=99)["ok"]

    def event(self) -> str:
        """The name of the next event of a stream."""
        return str(self.hear()["name"])


def dial(address: str) -> socket.socket:
    connection = socket.create_connection(split_address(address), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@pytest.fixture(scope="module")
def agent() -> Iterator[Process]:
    process = Process(OURS, "crowded", 231, ["-log-level=warn"])
    try:
        until(lambda: is_up(process), what=process.said)
        yield process
    finally:
        process.end()


def is_up(process: Process) -> bool:
    try:
        Rpc(process.rpc).close()
    except ConnectionRefusedError:
        return False
    return True


def send(agent: Process, name: str, count: int = EVENTS) -> tuple[float, float]:
    """Send events, each after the reply to the one before.

    Gives the seconds that it took, and those that the agent spent on it.
    """
    with closing(Rpc(agent.rpc)) as rpc:
        began, spent = time.perf_counter(), cpu(agent)
        for number in range(count):
            body = {"Coalesce": False, "Name": f"{name}{number}", "Payload": PAYLOAD}
            assert rpc.ask({"Command": "event", "Seq": 2}, body)["Error"] == ""
        return time.perf_counter() - began, cpu(agent) - spent


def cpu(agent: Process) -> float:
    """CPU time of the agent so far, in seconds."""
    stat = Path(f"/proc/{agent._process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


class Reader(Thread):
    """Reads the events of one stream until it has so many."""

    def __init__(self, client: Lines | Rpc, count: int) -> None:
        super().__init__()
        self.names: list[str] = []
        self._client = client
        self._count = count
        client.stream(1)
        self.start()

    def run(self) -> None:
        while len(self.names) < self._count:
            self.names.append(self._client.event())


def test_readers_that_stop_reading_slow_nobody_and_are_told(agent: Process) -> None:
    with ExitStack() as stack:
        _, free = send(agent, "free")
        stuck = [stack.enter_context(closing(kind(agent.rpc))) for kind in (Lines, Rpc) * 2]
        for client in stuck:
            for seq in range(1, STREAMS + 1):
                client.stream(seq)
            client.monitor()
        readers = [
            Reader(stack.enter_context(closing(kind(agent.rpc))), 2 * EVENTS)
            for kind in (Lines, Rpc)
        ]
        send(agent, "filling")
        took, held = send(agent, "held")
        for reader in readers:
            reader.join(PATIENCE)
            assert reader.names == [f"{name}{n}" for name in ("filling", "held")
                                    for n in range(EVENTS)]  # fmt: skip
        assert took < 25  # seconds, after which nobody would have been cut off yet
        assert held < 5 * free + 0.5
        dropped, seen = read_what_is_left(stuck[0])
        assert dropped.total() > 0
        assert dropped + seen == dict.fromkeys(range(1, STREAMS + 1), 2 * EVENTS)
        assert " [WARN] agent: Dropping events: a reader has left 512 unread" in agent.said()


def read_what_is_left(client: Lines | Rpc) -> tuple[Counter[int], Counter[int]]:
    """Read on until every stream has brought its events or told how many are missing."""
    assert isinstance(client, Lines)
    dropped, seen = Counter[int](), Counter[int]()
    while dropped.total() + seen.total() < 2 * EVENTS * STREAMS:
        record = client.hear()
        if record["seq"] == 99:
            continue
        if record["event"] == "dropped":
            dropped[record["seq"]] += record["count"]
        else:
            seen[record["seq"]] += 1
    return dropped, seen


def test_fifty_clients_hear_every_event(agent: Process) -> None:
    with ExitStack() as stack:
        readers = [
            Reader(stack.enter_context(closing((Lines, Rpc)[n % 2](agent.rpc))), 300)
            for n in range(50)
        ]
        send(agent, "crowd", 300)
        for reader in readers:
            reader.join(PATIENCE)
        assert [one.names for one in readers] == [[f"crowd{n}" for n in range(300)]] * 50


def visit(agent: Process, number: int) -> None:
    """Come, ask for something that never ends or for nothing, and go without a word."""
    if number % 3 == 0:
        dial(agent.rpc).close()
        return
    client = (Lines, Rpc)[number % 2](agent.rpc)
    client.stream(1)
    client.monitor()
    if number % 5 == 0:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


def belongings(agent: Process) -> tuple[int, int]:
    """How many tasks and file descriptors the agent has."""
    with closing(Lines(agent.rpc)) as client:
        info = client.ask(command="info")
        files = len(list(Path(f"/proc/{agent._process.pid}/fd").iterdir()))
    return info["runtime"]["goroutines"], files


def is_alone(agent: Process) -> bool:
    """Tell whether the one who asks is the agent's only client."""
    port = split_address(agent.rpc)[1]
    host = socket.inet_aton(agent.host)[::-1].hex().upper()
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return not any(row[1] == f"{host}:{port:04X}" and row[3] not in ("0A", "06") for row in rows)


def resident(agent: Process) -> int:
    """Memory of the agent in KiB."""
    status = Path(f"/proc/{agent._process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found is not None
    return int(found[1])


def test_many_visits_leave_no_task_no_descriptor_and_no_memory(agent: Process) -> None:
    until(lambda: is_alone(agent))
    before = belongings(agent)
    memory = 0
    for number in range(1900):
        visit(agent, number)
        if number == 400:
            memory = resident(agent)
    until(lambda: belongings(agent) == before, what=lambda: f"{before} {belongings(agent)}")
    assert resident(agent) - memory < 2048


def test_it_ends_in_good_order_with_clients_that_do_not_read() -> None:
    process = Process(OURS, "ending", 232, [])
    try:
        until(lambda: is_up(process), what=process.said)
        with ExitStack() as stack:
            for kind in (Lines, Rpc):
                client = stack.enter_context(closing(kind(process.rpc)))
                client.stream(1)
                client.monitor()
            send(process, "last", 100)
            process.signal(signal.SIGINT)
            assert process.wait() == 0
        assert "Traceback" not in process.said()
    finally:
        process.end()
