"""Measurements of one agent at its control port, and of its start; used by `bench`.

The client of the rates reads replies by their length without decoding them, which costs little.
"""

import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import own_python
from bench_agents import (
    TRIO,
    Agent,
    NotMeasured,
    Program,
    Rpc,
    end,
    finish,
    packed,
    start,
    wait_until,
)
from bench_cluster import Samples
from bench_wire import fake_address, fake_push_pull, send_push_pull

WINDOW = 64
MANY = 1000
QUIET = "-log-level=err"
SNAPSHOT_MEMBERS = 10_000
CLIENTS = 5
"""Client processes of one run."""
MEMBERS = packed({"Command": "members", "Seq": 1})
EVENT = packed({"Command": "event", "Seq": 1}, {"Coalesce": False, "Name": "x", "Payload": b"y"})


def start_agent(program: Program, host: str, _settings: Namespace) -> Samples:
    """Start an agent until its port answers, and beside it a process that imports trio."""
    began = time.perf_counter()
    process = start([sys.executable, "-c", "import trio"], own_python.ROOT)
    trio_cpu = finish(process)
    trio_wall = time.perf_counter() - began
    if process.returncode:
        raise NotMeasured("`import trio` failed")
    with Agent(program, host) as agent:
        agent.wait_for_port()
        wall = time.perf_counter() - agent.began
        cpu = agent.end()
    yield "wall", wall * 1000
    yield "cpu", cpu * 1000
    yield "ratio", wall / trio_wall
    yield "cpu-ratio", cpu / trio_cpu
    yield "wall", trio_wall * 1000, TRIO
    yield "cpu", trio_cpu * 1000, TRIO


def snapshot(program: Program, host: str, _settings: Namespace) -> Samples:
    """Start an agent with a snapshot, until its port answers and until it is read."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "snapshot")
        lines = [
            f"alive: fake-{number:05} {fake_address(number)}:7946"
            for number in range(SNAPSHOT_MEMBERS)
        ]
        file.write_text("\n".join([*lines, "clock: 9", "event-clock: 9", "query-clock: 9", ""]))
        with Agent(program, host, f"-snapshot={file}") as agent:
            agent.wait_for_port()
            yield "port", (time.perf_counter() - agent.began) * 1000
            # The first join of a member in it follows, which is refused.
            wait_until(lambda: b"Attempting re-join" in agent.logged(), "replay", 60, 0.001)
            yield "read", (time.perf_counter() - agent.began) * 1000


def calls(program: Program, host: str, settings: Namespace) -> Samples:
    """Measure the rates of `event` and of `members` with one member, and with many."""
    with Agent(program, host, QUIET) as agent:
        agent.wait_for_port()
        yield "members", rate(host, MEMBERS, 2, 1, settings.seconds)
        yield "members-64", rate(host, MEMBERS, 2, WINDOW, settings.seconds)
        yield "event", rate(host, EVENT, 1, 1, settings.seconds)
        yield "event-64", rate(host, EVENT, 1, WINDOW, settings.seconds)
    with Agent(program, host, QUIET) as agent:
        agent.wait_for_port()
        send_push_pull(agent, fake_push_pull(MANY), MANY)
        yield "many", rate(host, MEMBERS, 2, 1, settings.seconds)


def rate(host: str, request: bytes, messages: int, window: int, seconds: float) -> float:
    """Count requests per second of one connection, `window` of them in flight."""
    with Rpc(host) as rpc:
        length = reply_length(rpc, request, messages)
        batch, wanted = request * window, length * window
        buffer = bytearray(min(wanted, 1 << 20))
        began = time.perf_counter()
        count = 0
        while (elapsed := time.perf_counter() - began) < seconds:
            rpc.socket.sendall(batch)
            left = wanted
            while left:
                received = rpc.socket.recv_into(buffer, min(left, len(buffer)))
                if not received:
                    raise NotMeasured("the agent closed the connection")
                left -= received
            count += window
        if reply_length(rpc, request, messages) != length:
            raise NotMeasured("the replies changed their length")
        return count / elapsed


def reply_length(rpc: Rpc, request: bytes, messages: int) -> int:
    """Return the number of bytes of one reply, which has `messages` messages."""
    rpc.socket.sendall(request)
    before = rpc.position()
    for _ in range(messages):
        rpc.receive()
    return rpc.position() - before


def members_process(program: Program, host: str, _settings: Namespace) -> Samples:
    """Run `members` as a whole process."""
    with Agent(program, host, QUIET) as agent:
        agent.wait_for_port()
        for _ in range(CLIENTS):
            began = time.perf_counter()
            process = program.start(["members", f"-rpc-addr={host}:7373"])
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                raise NotMeasured("`members` did not end within 60 s") from None
            finally:
                end(process)
            if code:
                raise NotMeasured(f"`members` ended with {code}")
            yield "wall", (time.perf_counter() - began) * 1000
