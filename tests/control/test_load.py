"""An agent process with clients that stop reading, connect in numbers or disconnect."""

import json
import os
import re
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Thread
from typing import Any

import msgpack
import pytest

from tests.interop.agents import TRIOSERF, Process, until
from trioserf.control.address import split_address

assert sys.platform != "win32"

pytestmark = pytest.mark.interop
EVENTS = 1_500
STREAMS = 8
"""Streams of one connection; together they carry more than the socket buffers hold."""
PAYLOAD = "x" * 400
TIMEOUT = 60.0
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: the connection ends with a reset, as that of a client that was killed."""


class RpcSocket:
    """A client of Serf's RPC that reads only on request."""

    def __init__(self, address: str) -> None:
        self.socket = dial(address)
        self._unpacker = msgpack.Unpacker(raw=False)
        self.ask({"Command": "handshake", "Seq": 0}, {"Version": 1})

    def close(self) -> None:
        self.socket.close()

    def ask(self, *messages: Any) -> Any:
        self.socket.sendall(b"".join(map(msgpack.packb, messages)))
        return self.receive()

    def receive(self) -> Any:
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
        """Return the name of the next event of a stream."""
        assert self.receive()["Error"] == ""
        return str(self.receive()["Name"])


class LinesClient:
    """A client of the JSON lines that reads only on request."""

    def __init__(self, address: str) -> None:
        self.socket = dial(address)
        self._file = self.socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def ask(self, **request: Any) -> Any:
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        return self.receive()

    def receive(self) -> Any:
        line = self._file.readline()
        assert line, "the agent closed the connection"
        return json.loads(line)

    def stream(self, seq: int) -> None:
        assert self.ask(command="stream", types=["user"], seq=seq) == {"seq": seq, "ok": True}

    def monitor(self) -> None:
        assert self.ask(command="monitor", seq=99)["ok"]

    def event(self) -> str:
        """Return the name of the next event of a stream."""
        return str(self.receive()["name"])


def dial(address: str) -> socket.socket:
    connection = socket.create_connection(split_address(address), TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@pytest.fixture(scope="module")
def agent() -> Iterator[Process]:
    process = Process(TRIOSERF, "crowded", 231, ["-log-level=warn"])
    try:
        until(lambda: is_up(process), what=process.log_text)
        yield process
    finally:
        process.end()


def is_up(process: Process) -> bool:
    try:
        RpcSocket(process.rpc).close()
    except ConnectionRefusedError:
        return False
    return True


def send(agent: Process, name: str, count: int = EVENTS) -> tuple[float, float]:
    """Send events, each after the reply to the one before.

    Returns:
        The seconds that it took, and the CPU seconds of the agent.
    """
    with closing(RpcSocket(agent.rpc)) as rpc:
        began, spent = time.perf_counter(), cpu(agent)
        for number in range(count):
            body = {"Coalesce": False, "Name": f"{name}{number}", "Payload": PAYLOAD}
            assert rpc.ask({"Command": "event", "Seq": 2}, body)["Error"] == ""
        return time.perf_counter() - began, cpu(agent) - spent


def cpu(agent: Process) -> float:
    """Return the CPU time of the agent so far, in seconds."""
    stat = Path(f"/proc/{agent._process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


class Reader(Thread):
    """Reads `count` events of one stream."""

    def __init__(self, client: LinesClient | RpcSocket, count: int) -> None:
        super().__init__()
        self.names: list[str] = []
        self._client = client
        self._count = count
        client.stream(1)
        self.start()

    def run(self) -> None:
        while len(self.names) < self._count:
            self.names.append(self._client.event())


def test_stalled_readers_slow_no_other_client_and_receive_dropped_counts(agent: Process) -> None:
    with ExitStack() as stack:
        _, free = send(agent, "free")
        kinds = (LinesClient, RpcSocket)
        stalled = [stack.enter_context(closing(kind(agent.rpc))) for kind in kinds * 2]
        for client in stalled:
            for seq in range(1, STREAMS + 1):
                client.stream(seq)
            client.monitor()
        readers = [
            Reader(stack.enter_context(closing(kind(agent.rpc))), 2 * EVENTS) for kind in kinds
        ]
        send(agent, "filling")
        took, held = send(agent, "held")
        for reader in readers:
            reader.join(TIMEOUT)
            assert reader.names == [f"{name}{n}" for name in ("filling", "held")
                                    for n in range(EVENTS)]  # fmt: skip
        assert took < 25  # seconds, less than the write deadline
        assert held < 5 * free + 0.5
        dropped, seen = read_remaining(stalled[0])
        assert dropped.total() > 0
        assert dropped + seen == dict.fromkeys(range(1, STREAMS + 1), 2 * EVENTS)
        assert " [WARN] agent: Dropping events: a reader has left 512 unread" in agent.log_text()


def read_remaining(client: LinesClient | RpcSocket) -> tuple[Counter[int], Counter[int]]:
    """Read until every stream has delivered its events or reported them as dropped."""
    assert isinstance(client, LinesClient)
    dropped, seen = Counter[int](), Counter[int]()
    while dropped.total() + seen.total() < 2 * EVENTS * STREAMS:
        record = client.receive()
        if record["seq"] == 99:
            continue
        if record["event"] == "dropped":
            dropped[record["seq"]] += record["count"]
        else:
            seen[record["seq"]] += 1
    return dropped, seen


def test_fifty_clients_receive_every_event(agent: Process) -> None:
    with ExitStack() as stack:
        readers = [
            Reader(stack.enter_context(closing((LinesClient, RpcSocket)[n % 2](agent.rpc))), 300)
            for n in range(50)
        ]
        send(agent, "many", 300)
        for reader in readers:
            reader.join(TIMEOUT)
        assert [reader.names for reader in readers] == [[f"many{n}" for n in range(300)]] * 50


def connect_and_leave(agent: Process, number: int) -> None:
    """Connect, open streams or nothing, and disconnect."""
    if number % 3 == 0:
        dial(agent.rpc).close()
        return
    client = (LinesClient, RpcSocket)[number % 2](agent.rpc)
    client.stream(1)
    client.monitor()
    if number % 5 == 0:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


def resources(agent: Process) -> tuple[int, int]:
    """Return the numbers of tasks and file descriptors of the agent."""
    with closing(LinesClient(agent.rpc)) as client:
        info = client.ask(command="info")
        files = len(list(Path(f"/proc/{agent._process.pid}/fd").iterdir()))
    return info["runtime"]["goroutines"], files


def idle_resources(agent: Process) -> tuple[int, int]:
    """Return the same without clients, once two readings in a row are equal."""
    until(lambda: has_no_clients(agent))
    readings = [resources(agent)]

    def is_stable() -> bool:
        readings.append(resources(agent))
        return readings[-1] == readings[-2]

    until(is_stable, what=lambda: str(readings))
    return readings[-1]


def has_no_clients(agent: Process) -> bool:
    """Return whether no client is connected to the agent."""
    port = split_address(agent.rpc)[1]
    host = socket.inet_aton(agent.host)[::-1].hex().upper()
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return not any(row[1] == f"{host}:{port:04X}" and row[3] not in ("0A", "06") for row in rows)


def resident(agent: Process) -> int:
    """Return the resident memory of the agent in KiB."""
    status = Path(f"/proc/{agent._process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found is not None
    return int(found[1])


def test_closed_connections_leak_no_tasks_descriptors_or_memory(agent: Process) -> None:
    # The first connections outlast the tasks of the clients of earlier tests.
    for number in range(400):
        connect_and_leave(agent, number)
    memory, before = resident(agent), idle_resources(agent)
    for number in range(400, 1900):
        connect_and_leave(agent, number)
    until(lambda: resources(agent) == before, what=lambda: f"{before} {resources(agent)}")
    # A connection with its tasks has more than 4 KiB.
    assert resident(agent) - memory < 4096


def test_agent_ends_cleanly_with_clients_that_do_not_read() -> None:
    process = Process(TRIOSERF, "ending", 232, [])
    try:
        until(lambda: is_up(process), what=process.log_text)
        with ExitStack() as stack:
            for kind in (LinesClient, RpcSocket):
                client = stack.enter_context(closing(kind(process.rpc)))
                client.stream(1)
                client.monitor()
            send(process, "last", 100)
            process.signal(signal.SIGINT)
            assert process.wait() == 0
        assert "Traceback" not in process.log_text()
    finally:
        process.end()
