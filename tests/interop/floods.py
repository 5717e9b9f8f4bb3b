"""Floods against one agent, with measurements; used by `scripts/flood` and a test.

Attackers are processes of their own (`python -m tests.interop.floods KIND HOST PORT AMOUNT`), so
that they do not delay the measurements.
"""

import mmap
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from tests.interop.agents import ROOT
from tests.wire.helpers import load
from trioserf.wire import lzw, serf_codec, swim_codec
from trioserf.wire.msgpack import pack
from trioserf.wire.packet import PacketCodec, make_compound
from trioserf.wire.serf_messages import SerfPushPull
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_messages import Ack, NodeState, Ping, PushPull, State

LARGE: Final = 20 * 1024 * 1024
AT_ONCE: Final = 32
"""Concurrent large exchanges."""

Target = tuple[str, int]


# --- attackers ---


def invalid_packets(rng: random.Random) -> list[bytes]:
    """Return invalid packets: random bytes, damaged messages, and messages that expand a lot."""
    real = [
        bytes.fromhex(one["hex"]) for kind in ("plain", "lzw") for one in load("packets")[kind]
    ]
    packets = [rng.randbytes(rng.choice((1, 40, 400, 1400))) for _ in range(100)]
    for one in real:
        damaged = bytearray(one)
        damaged[rng.randrange(len(one))] = rng.randrange(256)
        packets += [bytes(damaged), one[: rng.randrange(1, len(one))]]
    bomb = b"\x09" + pack({"Algo": 0, "Buf": lzw.compress(bytes(65_000))})
    nested = b"\x08\x04\x81\xa7Filters" + b"\xdd\x00\x00\xff\xff" * 250
    parts = make_compound([b"\x00\x81"] * 255)
    return [*packets, *([bomb, nested, parts, b"\x00" + b"\x81" * 1300] * 5)]


def send_packets(target: Target, seconds: float) -> int:
    """Send invalid packets at full speed; return their number."""
    packets = invalid_packets(random.Random(1))
    count = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect(target)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for packet in packets:
                with suppress(OSError):
                    udp.send(packet)
                    count += 1
    return count


def hold_streams(target: Target, amount: int) -> int:
    """Open silent streams and incomplete push/pulls, and hold them for a while."""
    streams = []
    for number in range(amount):
        with suppress(OSError):
            stream = socket.create_connection(target, 5)
            streams.append(stream)
            if number % 2:
                stream.send(b"\x06" + pack({"Join": False, "Nodes": 1_000_000}))
    time.sleep(min(12.0, amount / 50))
    for stream in streams:
        stream.close()
    return len(streams)


def exchanges(*, compressed: bool) -> list[bytes]:
    """Return streams of 20 MiB, one of each kind; compression takes seconds."""
    codec = StreamCodec(keyring=None, compress=False)
    dead = NodeState("dead", bytes((127, 9, 9, 9)), 7946, bytes(512), 1, State.DEAD)
    rows = PushPull(False, (dead,) * (LARGE // 600))
    # Many intents about unknown members.
    names = {f"unknown-{number}-{'x' * 200}": 1 for number in range(LARGE // 220)}
    state = serf_codec.encode(SerfPushPull(1, names, (), 1, (), 1))
    plain = [
        codec.encode_user_message(b"\x03" + bytes(LARGE - 1)),
        codec.encode_push_pull(rows),
        codec.encode_push_pull(PushPull(False, (), state)),
        codec.encode_push_pull(PushPull(False, (), b"\x02" + bytes(LARGE - 1))),
    ]
    if not compressed:
        return plain
    noise = random.Random(1).randbytes(13 * 1024 * 1024)
    zeros = bytes(39 * 1024 * 1024)
    return [
        *plain,
        b"\x09" + pack({"Algo": 0, "Buf": lzw.compress(b"\x08\xc0" + noise)}),
        b"\x09" + pack({"Algo": 0, "Buf": lzw.compress(b"\x06" + zeros)}),
    ]


def exchange_large(target: Target, amount: int) -> int:
    """Make exchanges, 32 at a time; return how many were completed."""
    kinds = exchanges(compressed=amount >= AT_ONCE)
    todo = list(range(amount))
    sent: Counter[str] = Counter()

    def work() -> None:
        while todo:
            with suppress(IndexError):
                data = kinds[todo.pop() % len(kinds)]
                try:
                    with socket.create_connection(target, 30) as stream:
                        stream.sendall(data)
                        stream.shutdown(socket.SHUT_WR)
                        while stream.recv(1 << 20):
                            pass
                except OSError:
                    sent["refused or cut"] += 1
                sent["made"] += 1

    threads = [threading.Thread(target=work) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sent["made"] - sent["refused or cut"]


ATTACKS: Final[dict[str, Callable[[Target, int], int]]] = {
    "packets": send_packets,
    "streams": hold_streams,
    "exchanges": exchange_large,
}


def attack(kind: str, target: Target, amount: float) -> "subprocess.Popen[str]":
    """Start an attacker."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.interop.floods", kind, target[0], str(target[1]),
         str(amount)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


# --- measurements ---


@attrs.define
class PingCounts:
    """Pings to an agent and their acks, by packet and by stream."""

    packets: int = 0
    packets_answered: int = 0
    streams: int = 0
    streams_answered: int = 0

    def __str__(self) -> str:
        return (
            f"{self.packets_answered} of {self.packets} pings by packet and"
            f" {self.streams_answered} of {self.streams} by stream answered"
        )


@contextmanager
def pinging(target: Target, name: str) -> Iterator[PingCounts]:
    """Ping an agent while the block runs: ten times a second by packet, twice by stream."""
    answers = PingCounts()
    stop = threading.Event()
    threads = [
        threading.Thread(target=_ping_by_packets, args=(target, name, answers, stop)),
        threading.Thread(target=_ping_by_streams, args=(target, name, answers, stop)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _ping_by_packets(
    target: Target, name: str, answers: PingCounts, stop: threading.Event
) -> None:
    codec = PacketCodec(keyring=None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect(target)
        udp.settimeout(0.5)
        while not stop.wait(0.1):
            answers.packets += 1
            with suppress(OSError):
                udp.send(swim_codec.encode(Ping(answers.packets, name)))
                while not any(isinstance(one, Ack) for one in codec.decode(udp.recv(65_536))[0]):
                    pass
                answers.packets_answered += 1


def _ping_by_streams(
    target: Target, name: str, answers: PingCounts, stop: threading.Event
) -> None:
    while not stop.wait(0.5):
        answers.streams += 1
        with suppress(OSError), socket.create_connection(target, 3) as stream:
            stream.settimeout(3)
            stream.sendall(swim_codec.encode(Ping(answers.streams, name)))
            if stream.recv(1):
                answers.streams_answered += 1


@contextmanager
def watching(pid: int) -> Iterator[Callable[[], float]]:
    """Sample a process's memory while the block runs; yield a function for the peak in MB."""
    peak = [memory(pid)]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], memory(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: peak[0]
    finally:
        stop.set()
        thread.join()


def memory(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    with suppress(OSError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * mmap.PAGESIZE / 1e6
    return 0.0


if __name__ == "__main__":
    kind, host, port, amount = sys.argv[1:]
    number = float(amount) if kind == "packets" else int(float(amount))
    sys.stdout.write(f"{ATTACKS[kind]((host, int(port)), number)}\n")  # type: ignore[arg-type]
