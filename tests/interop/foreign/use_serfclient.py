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


def both(result: Any) -> list[Any]:
    return [result.head, result.body]


def asked(client: Any, command: str, body: dict[str, Any]) -> list[Any]:
    """Call a command for which the library has no method of its own."""
    return both(client.connection.call(command, body, expect_body=False))


def watching(watcher: Any, kinds: str | list[str]) -> Iterator[Any]:
    """Open a stream; a Go agent begins to deliver a little after it said so."""
    records: Iterator[Any] = watcher.stream(kinds).body
    sleep(0.3)
    return records


def answered(watcher: Any, asker: Any) -> list[Any]:
    """Ask and answer: both ends are ours."""
    events = watching(watcher, "query:ask")
    body = {"Name": "ask", "Payload": b"what?", "Timeout": 900_000_000, "RequestAck": False}
    records = asker.connection.call("query", body, stream=True)
    query = next(events).body
    said = asked(watcher, "respond", {"ID": query["ID"], "Payload": b"\xff42"})
    received = [next(records.body).body, next(records.body).body]
    again = asked(watcher, "respond", {"ID": 0, "Payload": b""})
    return [query, said, received, again]


def streamed(watcher: Any, sender: Any) -> list[Any]:
    events = watching(watcher, ["user:a", "member-update"])
    sender.event("b", "not wanted", coalesce=False)
    sender.event("a", "ü", coalesce=False)
    first = both(next(events))
    asked(sender, "tags", {"Tags": {"lib": "serfclient"}, "DeleteTags": []})
    second = both(next(events))
    asked(sender, "tags", {"DeleteTags": ["lib"]})
    return [first, second]


def refused(**auth: Any) -> str:
    client = SerfClient(SECRET, PORT, **auth)
    try:
        return str(client.members().head)
    except SerfConnectionError as error:
        return f"{type(error).__name__}: {error}"


def main() -> dict[str, Any]:
    client = SerfClient(HOST, PORT, timeout=10)
    received: dict[str, Any] = {
        "members": both(client.members()),
        "by name": both(client.members(name="go-(b|x)")),
        "by status": both(client.members(status="failed")),
        "by tag": both(client.members(tags={"role": "w.*"})),
        "by all": both(client.members(name="go-a", status="alive", tags={"role": "web"})),
        "event": both(client.event("deploy", "v1")),
        "event without payload": both(client.event("deploy", coalesce=False)),
        "large event": both(client.event("big", "x" * 1000)),
        "join": both(client.join(PEER)),
        "join nobody": both(client.join(["127.17.250.250:1"])),
        "force leave": both(client.force_leave("nobody")),
        "stats": both(client.stats()),
    }
    received["answer"] = answered(SerfClient(HOST, PORT), SerfClient(HOST, PORT))
    received["stream"] = streamed(SerfClient(HOST, PORT), SerfClient(HOST, PORT))
    received["wrong key"] = refused(rpc_auth="wrong")
    received["right key"] = both(SerfClient(SECRET, PORT, rpc_auth="s3cret").members())
    client.close()
    return received


json.dump(main(), sys.stdout, default=repr)
