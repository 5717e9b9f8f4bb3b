#!/usr/bin/env python3
"""A program that is itself a member: it answers the query `load` until the event `stop` arrives.

embed.py NAME HOST:PORT [ADDRESS-TO-JOIN]
"""

import os
import sys

import trio

import trioserf


async def main(name: str, bind: str, seeds: list[str]) -> None:
    """Run a node; join the seeds, if there are any."""
    config = trioserf.NodeConfig(name=name, bind=bind, tags={"role": "embedded"})
    async with trioserf.open_node(config) as node:
        filters = ("member-join", "query:load", "user:stop")
        with node.subscribe(*filters, answers=True) as events:
            if seeds:
                await node.join(seeds)
            print("ready", flush=True)
            async for event in events:
                match event.kind:
                    case "member-join":
                        print("joined", *(member.name for member in event.members), flush=True)
                    case "query":
                        await node.respond(event.id, f"{os.getloadavg()[0]:.2f}".encode())
                    case "user":
                        break
        await node.leave()


trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3:])
