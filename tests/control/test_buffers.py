"""Blocking clients queue a bounded number of records while they wait for a reply."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Thread

import msgpack

from trioserf.control.client.connect import AgentSession
from trioserf.control.client.json_session import JsonSession
from trioserf.control.client.rpc_session import RpcSession

RECORDS = 16_384 + 100
TIMEOUT = 60.0
MEMBERS = 3
"""The seq of the third request, after the handshake and the stream."""


def json_lines() -> bytes:
    event = {"seq": 2, "event": "user", "name": "x", "payload": "", "ltime": 1, "coalesce": False}
    parts = [{"seq": 1, "ok": True}, {"seq": 2, "ok": True}, *[event] * RECORDS]
    parts += [{"seq": MEMBERS, "ok": True, "members": []}, event]
    return b"".join(json.dumps(part).encode() + b"\n" for part in parts)


def rpc() -> bytes:
    event = {"Event": "user", "Name": "x", "Payload": None, "LTime": 1, "Coalesce": False}
    start = {"Error": "", "Seq": 2}
    parts = [{"Error": "", "Seq": 1}, start, *[start, event] * RECORDS]
    parts += [{"Error": "", "Seq": MEMBERS}, {"Members": None}, start, event]
    return b"".join(map(msgpack.packb, parts))


@contextmanager
def serve_data(data: bytes) -> Iterator[str]:
    """Run a server that sends this data to its first client."""

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(TIMEOUT)
        with closing(connection):
            connection.sendall(data)
            while connection.recv(65536):
                pass

    with closing(socket.create_server(("127.15.0.1", 0))) as listener:
        listener.settimeout(TIMEOUT)
        server = Thread(target=serve)
        server.start()
        yield f"127.15.0.1:{listener.getsockname()[1]}"
        server.join()


def test_json_session_reports_dropped_records() -> None:
    with serve_data(json_lines()) as address, JsonSession.connect(address) as session:
        check_drops(session)


def test_rpc_session_reports_dropped_records() -> None:
    with serve_data(rpc()) as address, RpcSession.connect(address) as session:
        check_drops(session)


def check_drops(session: AgentSession) -> None:
    events = session.stream_records()
    assert session.members() == []
    kept = [next(events) for _ in range(RECORDS - 100)]
    assert {record["event"] for record in kept} == {"user"}
    assert next(events) == {"event": "dropped", "count": 100}
    assert next(events)["name"] == "x"
