"""An agent made of recorded bytes: answers each request as a Go agent once did."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from threading import Thread
from typing import Any

import msgpack

ADDRESS = "127.17.0.200"
NO_BODY = frozenset(("members", "stats", "leave", "list-keys"))

Exchange = Sequence[dict[str, str]]


@contextmanager
def replayed(exchange: Exchange) -> Iterator[tuple[str, list[list[Any]]]]:
    """Serve one connection; gives its address and the requests as they arrive."""
    with closing(socket.create_server((ADDRESS, 0))) as listener:
        listener.settimeout(10)
        requests: list[list[Any]] = []
        server = Thread(target=serve, args=(listener, exchange, requests))
        server.start()
        port = listener.getsockname()[1]
        yield f"{ADDRESS}:{port}", requests
        # A program that never connected would leave the server waiting.
        with closing(socket.socket()) as nudge:
            nudge.connect_ex((ADDRESS, port))
        server.join()


def serve(listener: socket.socket, exchange: Exchange, requests: list[list[Any]]) -> None:
    connection, _ = listener.accept()
    with closing(connection):
        connection.settimeout(10)
        unpacker = msgpack.Unpacker(raw=False)
        for message in exchange:
            if message["from"] == "agent":
                connection.sendall(bytes.fromhex(message["hex"]))
                continue
            request = take_request(connection, unpacker)
            if request is None:
                return
            requests.append(request)


def take_request(connection: socket.socket, unpacker: msgpack.Unpacker) -> list[Any] | None:
    """Read a header, and the body that belongs to it."""
    request: list[Any] = []
    while not request or (len(request) == 1 and request[0]["Command"] not in NO_BODY):
        try:
            request.append(unpacker.unpack())
        except msgpack.OutOfData:
            data = connection.recv(65536)
            if not data:
                return None
            unpacker.feed(data)
    return request


def recorded_requests(exchange: Exchange) -> list[list[Any]]:
    """The requests of the recording."""
    found = []
    for message in exchange:
        if message["from"] == "client":
            unpacker = msgpack.Unpacker(raw=False)
            unpacker.feed(bytes.fromhex(message["hex"]))
            found.append(list(unpacker))
    return found
