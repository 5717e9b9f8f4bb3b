#!/usr/bin/env python3
"""Measure the control port of both programs side by side: one agent each, driven over Serf's RPC.

Requests per second over one connection, one at a time and in windows of 64, with 1 member and with
1,000; and the time of `members` as a whole process. The client reads replies by their length
without decoding them, so that it costs little.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import closing, suppress

import own_python  # noqa: F401 - first
import msgpack
from bench_wire import PROGRAMS, fake_push_pull, one_agent, send_push_pull

WINDOW = 64
QUIET = "-log-level=err"
MEMBERS = {"Command": "members", "Seq": 1}
EVENT = {"Command": "event", "Seq": 1}, {"Coalesce": False, "Name": "x", "Payload": b"y"}


def connected(host):
    """Connect and send the handshake; return the socket."""
    connection = socket.create_connection((host, 7373), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(packed({"Command": "handshake", "Seq": 0}, {"Version": 1}))
    connection.recv(1000)
    return connection


def packed(*messages):
    return b"".join(map(msgpack.packb, messages))


def rate(host, request, messages, window, seconds):
    """Count requests per second of one connection, `window` of them in flight."""
    with closing(connected(host)) as connection:
        length = reply_length(connection, request, messages)
        batch, wanted = request * window, length * window
        buffer = bytearray(min(wanted, 1 << 20))
        began = time.perf_counter()
        count = 0
        while time.perf_counter() - began < seconds:
            connection.sendall(batch)
            left = wanted
            while left:
                left -= connection.recv_into(buffer, min(left, len(buffer)))
            count += window
        elapsed = time.perf_counter() - began
        if reply_length(connection, request, messages) != length:
            sys.exit("replies have changed their length, so the numbers are not valid")
        return count / elapsed


def reply_length(connection, request, messages):
    """Return the number of bytes of one reply, which has `messages` messages."""
    connection.sendall(request)
    unpacker = msgpack.Unpacker(raw=True, max_buffer_size=1 << 28)
    while messages:
        unpacker.feed(connection.recv(65536))
        with suppress(msgpack.OutOfData):
            while messages:
                unpacker.skip()
                messages -= 1
    return unpacker.tell()


def whole_process(program, host, runs):
    """Return the median time of `members` as a process, in milliseconds."""
    command = [*PROGRAMS[program], "members", f"-rpc-addr={host}:7373"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    took = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took[1:])  # the first may have compiled the modules


def median_rate(host, request, messages, window, seconds):
    return statistics.median(rate(host, request, messages, window, seconds / 3) for _ in range(3))


def measure(program, host, seconds=3.0, runs=15, many=1000):
    """Measure one program at this address; return the numbers by name."""
    members, event = packed(MEMBERS), packed(*EVENT)
    found = {}
    with one_agent(PROGRAMS[program], host, QUIET):
        for window, how in ((1, "one at a time"), (WINDOW, f"{WINDOW} at a time")):
            took = median_rate(host, members, 2, window, seconds)
            found[f"members calls per s, 1 member, {how}"] = took
        for window, how in ((1, "one at a time"), (WINDOW, f"{WINDOW} at a time")):
            found[f"event calls per s, {how}"] = median_rate(host, event, 1, window, seconds)
    with one_agent(PROGRAMS[program], host, QUIET):
        send_push_pull(host, fake_push_pull(many), many)
        for window, how in ((1, "one at a time"), (8, "8 at a time")):
            took = median_rate(host, members, 2, window, seconds)
            found[f"members calls per s, {many + 1} members, {how}"] = took
        found[f"members as a process, {many + 1} members (ms)"] = whole_process(
            program, host, runs
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3, help="time for each rate")
    args = parser.parse_args()
    found = {
        program: measure(program, f"127.3.{number}.1", args.seconds)
        for number, program in enumerate(PROGRAMS, start=1)
    }
    print(f"{'':50} {'serf':>10} {'trioserf':>10} {'ratio':>7}")
    for what, theirs in found["serf"].items():
        ours = found["trioserf"][what]
        print(f"{what:50} {theirs:10.0f} {ours:10.0f} {ours / theirs:7.2f}")


if __name__ == "__main__":
    main()
