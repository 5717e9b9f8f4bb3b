"""Measurements of one agent at its gossip port; used by `bench`."""

import socket
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

import own_python  # noqa: F401 - first
from bench_agents import Agent, NotMeasured, Program, Rpc, wait_until
from bench_cluster import Samples

from trioserf.wire import serf_codec
from trioserf.wire.serf_messages import SerfPushPull
from trioserf.wire.serf_payloads import encode_tags
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import OUR_VERSIONS, NodeState, Ping, PushPull, State

WINDOW = 64
"""Pings in flight."""
NAME = "n0"
FAKE_MEMBERS = 10_000
"""Members in the push/pull to an agent."""
JOINED_MEMBERS = 2_000
"""Members of the cluster that an agent joins."""
LIMIT = 60.0
SETTLED = 1.0
"""Seconds until memory is measured."""


def pings(program: Program, host: str, settings: Namespace) -> Samples:
    """Measure the rate of answered pings, with `WINDOW` of them in flight."""
    ping = encode(Ping(7, NAME))
    with Agent(program, host) as agent, socket.socket(type=socket.SOCK_DGRAM) as udp:
        agent.wait_for_port()
        udp.settimeout(0.5)
        udp.connect((host, 7946))
        began = time.perf_counter()
        answered = in_flight = 0
        while (elapsed := time.perf_counter() - began) < settings.seconds:
            while in_flight < WINDOW:
                udp.send(ping)
                in_flight += 1
            try:
                for _ in range(WINDOW):
                    udp.recv(2048)
                    udp.send(ping)
                answered += WINDOW
            except TimeoutError:  # the window was lost
                in_flight = 0
        if not answered:
            raise NotMeasured("no ping was answered")
        yield "rate", answered / elapsed


def push_pull(program: Program, host: str, _settings: Namespace) -> Samples:
    """Measure a push/pull with many members, and the memory that they take."""
    with Agent(program, host) as agent:
        agent.wait_for_port()
        message = fake_push_pull(FAKE_MEMBERS)
        before, _ = agent.memory()
        yield "time", send_push_pull(agent, message, FAKE_MEMBERS) * 1000
        time.sleep(SETTLED)
        yield "memory", (agent.memory()[0] - before) * 1024 / FAKE_MEMBERS


def join(program: Program, host: str, _settings: Namespace) -> Samples:
    """Measure the join of a large cluster, of which one member is simulated."""
    message = fake_push_pull(JOINED_MEMBERS)
    peer = host.rpartition(".")[0] + ".2"
    with Agent(program, host) as agent, fake_peer(peer, message):
        agent.wait_for_port()
        began = time.perf_counter()
        with Rpc(host) as rpc:
            joined = rpc.ask("join", {"Existing": [peer], "Replay": False}, reply=True)
        if joined["Num"] != 1:
            raise NotMeasured("the join failed")
        until_known(agent, JOINED_MEMBERS + 1)
        yield "time", (time.perf_counter() - began) * 1000


@contextmanager
def fake_peer(host: str, message: bytes) -> Iterator[None]:
    """Answer push/pulls on an address with this message, one at a time."""
    with socket.create_server((host, 7946)) as server:
        server.settimeout(LIMIT)

        def serve() -> None:
            while True:
                try:
                    stream, _ = server.accept()
                except OSError:  # closed
                    return
                with stream:
                    stream.settimeout(LIMIT)
                    try:
                        stream.recv(1 << 16)
                        stream.sendall(message)
                        while stream.recv(1 << 16):
                            pass
                    except OSError:  # the agent ended
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)  # ends accept()
            thread.join()


def fake_address(number: int) -> str:
    """Return an address at which no member listens."""
    return f"127.2.{number >> 8}.{number & 255}"


def fake_push_pull(count: int) -> bytes:
    """Encode a push/pull with members without a process."""
    meta = encode_tags({"role": "web"})
    nodes = tuple(
        NodeState(
            f"fake-{number:05}",
            socket.inet_aton(fake_address(number)),
            7946,
            meta,
            1,
            State.ALIVE,
            OUR_VERSIONS,
        )
        for number in range(count)
    )
    times = {node.name: 1 for node in nodes}
    state = serf_codec.encode(SerfPushPull(1, times, (), 1, (), 1))
    return StreamCodec(keyring=None, compress=False).encode_push_pull(
        PushPull(False, nodes, state)
    )


def send_push_pull(agent: Agent, message: bytes, count: int) -> float:
    """Send a push/pull; return the seconds until the agent knows its members."""
    began = time.perf_counter()
    try:
        with socket.create_connection((agent.host, 7946), LIMIT) as stream:
            stream.sendall(message)
            while stream.recv(65_536):
                pass
    except OSError as error:
        raise NotMeasured(f"push/pull: {error}") from None
    until_known(agent, count + 1)
    return time.perf_counter() - began


def until_known(agent: Agent, count: int) -> None:
    """Wait until an agent knows this number of members, also failed ones."""
    with Rpc(agent.host) as rpc:

        def known() -> bool:
            return int(rpc.ask("stats", reply=True)["serf"]["members"]) >= count

        wait_until(known, f"{count} members", LIMIT, 0.001)
