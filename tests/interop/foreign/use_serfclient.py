"""Drives an agent with PyPI's serfclient and writes what it received, in JSON.

Arguments: host, port, an address to join, host of an agent with the key `s3cret`.
"""

import json
import sys
from collections.abc import Iterator
from time import sleep
from typing import Any

from serfclient import SerfClient
from serfclient.connection import SerfConnectionError

HOST, PORT, PEER, SECRET = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]


def head_and_body(result: Any) -> list[Any]:
    return [result.head, result.body]


def call(client: Any, command: str, body: dict[str, Any]) -> list[Any]:
    """Call a command for which the library has no method of its own."""
    return head_and_body(client.connection.call(command, body, expect_body=False))


def open_stream(watcher: Any, kinds: str | list[str]) -> Iterator[Any]:
    """Open a stream; an agent of Serf starts to deliver a little after its reply."""
    records: Iterator[Any] = watcher.stream(kinds).body
    sleep(0.3)
    return records


def query_and_respond(watcher: Any, requester: Any) -> list[Any]:
    """Send a query, and respond to it from a second connection."""
    events = open_stream(watcher, "query:ask")
    body = {"Name": "ask", "Payload": b"what?", "Timeout": 900_000_000, "RequestAck": False}
    records = requester.connection.call("query", body, stream=True)
    query = next(events).body
    reply = call(watcher, "respond", {"ID": query["ID"], "Payload": b"\xff42"})
    received = [next(records.body).body, next(records.body).body]
    again = call(watcher, "respond", {"ID": 0, "Payload": b""})
    return [query, reply, received, again]


def receive_events(watcher: Any, sender: Any) -> list[Any]:
    events = open_stream(watcher, ["user:a", "member-update"])
    sender.event("b", "not wanted", coalesce=False)
    sender.event("a", "ü", coalesce=False)
    first = head_and_body(next(events))
    call(sender, "tags", {"Tags": {"lib": "serfclient"}, "DeleteTags": []})
    second = head_and_body(next(events))
    call(sender, "tags", {"DeleteTags": ["lib"]})
    return [first, second]


def try_key(**auth: Any) -> str:
    client = SerfClient(SECRET, PORT, **auth)
    try:
        return str(client.members().head)
    except SerfConnectionError as error:
        return f"{type(error).__name__}: {error}"


def main() -> dict[str, Any]:
    client = SerfClient(HOST, PORT, timeout=10)
    received: dict[str, Any] = {
        "members": head_and_body(client.members()),
        "by name": head_and_body(client.members(name="go-(b|x)")),
        "by status": head_and_body(client.members(status="failed")),
        "by tag": head_and_body(client.members(tags={"role": "w.*"})),
        "by all": head_and_body(client.members(name="go-a", status="alive", tags={"role": "web"})),
        "event": head_and_body(client.event("deploy", "v1")),
        "event without payload": head_and_body(client.event("deploy", coalesce=False)),
        "large event": head_and_body(client.event("big", "x" * 1000)),
        "join": head_and_body(client.join(PEER)),
        "join fails": head_and_body(client.join(["127.17.250.250:1"])),
        "force leave": head_and_body(client.force_leave("no-such-node")),
        "stats": head_and_body(client.stats()),
    }
    received["answer"] = query_and_respond(SerfClient(HOST, PORT), SerfClient(HOST, PORT))
    received["stream"] = receive_events(SerfClient(HOST, PORT), SerfClient(HOST, PORT))
    received["wrong key"] = try_key(rpc_auth="wrong")
    received["right key"] = head_and_body(SerfClient(SECRET, PORT, rpc_auth="s3cret").members())
    client.close()
    return received


json.dump(main(), sys.stdout, default=repr)
