"""Drives an agent with PyPI's serfio and writes what it received, in JSON.

Arguments: host, port, an address to join (unused: the library cannot), host of an agent with the
key `s3cret`.
"""

import asyncio  # noqa: TID251 - the library is asyncio's
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import serfio
from serfio.errors import SerfError

HOST, PORT, SECRET = sys.argv[1], int(sys.argv[2]), sys.argv[4]


OPEN: list[AsyncIterator[Any]] = []
"""Open streams: the library cannot end one with unread records."""


async def first(records: AsyncIterator[Any]) -> Any:
    OPEN.append(records)
    return await anext(records)


async def query_and_respond() -> list[Any]:
    """Send a query, and respond to it from a second connection."""
    watcher, requester = await serfio.connect(HOST, PORT), await serfio.connect(HOST, PORT)

    async def answer() -> Any:
        query = await first(watcher.stream("query:ask"))
        await watcher.respond(query["ID"], b"42")
        return query

    async def ask() -> list[Any]:
        return [
            one
            async for one in requester.query(
                "ask", b"what?", timeout=900_000_000, request_ack=False
            )
        ]

    answering = asyncio.create_task(answer())
    await asyncio.sleep(0.3)
    replies = await ask()
    return [await answering, replies]


async def receive_events() -> list[Any]:
    watcher, sender = await serfio.connect(HOST, PORT), await serfio.connect(HOST, PORT)
    stop = asyncio.Event()

    async def send() -> None:
        # The library does not report the start of a stream.
        while not stop.is_set():
            await sender.event("a", "ü")
            await asyncio.sleep(0.1)

    sending = asyncio.create_task(send())
    received = await first(watcher.stream("user:a"))
    stop.set()
    await sending
    return [received]


async def main() -> dict[str, Any]:
    received: dict[str, Any] = {}
    async with serfio.Serf(HOST, PORT) as client:
        received["members"] = await client.members()
        received["by name"] = await client.members_filtered(name="go-(b|x)")
        received["by tag"] = await client.members_filtered(tags={"role": "web"}, status="alive")
        received["event"] = await client.event("deploy", b"v1", coalesce=True)
        received["tags"] = await client.tags({"lib": "serfio", "role": "web"})
        received["changed"] = await client.members_filtered(name="go-a")
        received["stats"] = await client.stats()
        try:
            await client.event("big", "x" * 1000)
        except SerfError as error:
            received["large event"] = str(error)
    async with serfio.Serf(HOST, PORT) as client:
        query = client.query("load", b"x", timeout=900_000_000)
        received["query"] = [one async for one in query]
    received["log"] = sorted(await first((await serfio.connect(HOST, PORT)).monitor("INFO")))
    received["answer"] = await query_and_respond()
    received["stream"] = await receive_events()
    async with serfio.Serf(SECRET, PORT, "s3cret") as client:
        received["right key"] = await client.members()
    try:
        await serfio.connect(SECRET, PORT, "wrong")
    except (SerfError, TypeError) as error:
        # The library fails at its own error message.
        received["wrong key"] = str(error)
    return received


async def print_result() -> None:
    json.dump(await main(), sys.stdout, default=repr)
    sys.stdout.flush()
    os._exit(0)


asyncio.run(print_result())
