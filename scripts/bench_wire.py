"""Measurements of one agent under load on the gossip port; used by `bench`.

Both programs are measured in the same way, with packets, streams and RPC.
"""

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import own_python  # noqa: F401 - first

from trioserf.control.client.rpc_session import RpcSession
from trioserf.control.errors import ControlError
from trioserf.wire import serf_codec
from trioserf.wire.serf_messages import SerfPushPull
from trioserf.wire.serf_payloads import encode_tags
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import OUR_VERSIONS, NodeState, Ping, PushPull, State

PROGRAMS = {
    "serf": [shutil.which("serf") or "serf"],
    "trioserf": [sys.executable, "-m", "trioserf"],
}
WINDOW = 64
"""Pings in flight."""
NAME = "measured"


@contextlib.contextmanager
def one_agent(program: Sequence[str], host: str, *options: str) -> Iterator[int]:
    """Run a single agent on an address; yield its process id."""
    command = [*program, "agent", f"-bind={host}:7946", f"-rpc-addr={host}:7373"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        [*command, f"-node={NAME}", *options], stdout=quiet, stderr=quiet
    ) as process:
        try:
            wait_until(lambda: known(host) == 1)
            yield process.pid
        finally:
            process.kill()


def wait_until(holds, seconds: float = 90.0, pause: float = 0.01) -> None:
    """Wait until a condition holds; end the program if it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit("the agent was not ready in time")
        time.sleep(pause)


def known(host: str) -> int:
    """Return the number of members that the agent knows; 0 if it does not answer."""
    try:
        with RpcSession.connect(f"{host}:7373", None) as session:
            return int(session.info()["serf"]["members"])
    except ControlError:
        return 0


def resident(pid: int) -> float:
    """Return the resident memory of a process in kB."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", text)
    assert found is not None
    return float(found[1])


def pings_per_second(host: str, seconds: float = 5.0) -> float:
    """Return the rate of answered pings, with `WINDOW` of them in flight."""
    ping = encode(Ping(7, NAME))
    to = (host, 7946)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(0.5)
        for _ in range(WINDOW):
            udp.sendto(ping, to)
        answered = 0
        began = time.monotonic()
        deadline = began + seconds
        while (now := time.monotonic()) < deadline:
            try:
                for _ in range(WINDOW):
                    udp.recv(2048)
                    udp.sendto(ping, to)
                    answered += 1
            except TimeoutError:
                for _ in range(WINDOW):  # the window was lost
                    udp.sendto(ping, to)
        return answered / (now - began)


def fake_push_pull(count: int) -> bytes:
    """Encode a push/pull with members without a process."""
    meta = encode_tags({"role": "web"})
    nodes = tuple(
        NodeState(
            f"fake-{number:05}",
            bytes((127, 2, number >> 8, number & 255)),
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


def send_push_pull(host: str, message: bytes, count: int) -> float:
    """Send a push/pull; return the seconds until the agent knows its members."""
    began = time.monotonic()
    with socket.create_connection((host, 7946)) as stream:
        stream.sendall(message)
        while stream.recv(65_536):
            pass
    wait_until(lambda: known(host) > count, pause=0.001)
    return time.monotonic() - began
