"""Shutdown of a node while items are on the way to its owner."""

import trio
import trio.testing

from trioserf.address import Address
from trioserf.node import open_node
from trioserf.node.config import NodeConfig
from trioserf.node.state_owner import Request


async def test_item_put_at_shutdown_does_not_crash() -> None:
    config = NodeConfig(name="a", bind=Address("127.15.0.9", 0))
    async with open_node(config) as node:
        await trio.testing.wait_all_tasks_blocked()
        # This wakes the owner, but the block ends before it runs.
        node._owner._to_inbox.send_nowait(Request(lambda state, now: None))


async def test_packets_received_after_shutdown_do_not_crash() -> None:
    config = NodeConfig(name="a", bind=Address("127.15.0.9", 0))
    async with open_node(config) as node:
        owner = node._owner
    with trio.CancelScope() as scope:
        scope.cancel()
        await owner.receive([])
    assert scope.cancelled_caught
