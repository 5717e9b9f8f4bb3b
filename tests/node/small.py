"""A few whole nodes in virtual time, with what the simulator's world has no use for."""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from trioserf.address import Address
from trioserf.net.transport import SocketAddress
from trioserf.node import Node, open_node
from trioserf.node.config import NodeConfig
from trioserf.node.key_handler import SaveKeyring
from trioserf.sim.endpoint import SimTransport
from trioserf.sim.network import LinkConditions, Network


class Tapped(Network):
    """A network that takes down which packets are sent on it, when, and by whom."""

    def __init__(self, rng: random.Random, link: LinkConditions | None = None) -> None:
        super().__init__(rng, link)
        self.tapped: list[tuple[float, SocketAddress, bytes]] = []

    def send(self, source: SimTransport, data: bytes, to: SocketAddress) -> None:
        self.tapped.append((trio.current_time(), source.address, data))
        super().send(source, data, to)


@asynccontextmanager
async def open_nodes(
    *names: str,
    save_keyring: Mapping[str, SaveKeyring] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    network: Network | None = None,
    **common: Any,
) -> AsyncIterator[dict[str, Node]]:
    """Run nodes that have joined the first of them; name `autojump_clock` in the test.

    Args:
        names: their names.
        save_keyring: keeps the keys of a node.
        options: fields of `NodeConfig` of single nodes.
        network: what joins them.
        common: fields of `NodeConfig` of all.
    """
    network = network or Network(random.Random(1), LinkConditions())
    nodes: dict[str, Node] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.run)

        async def live(name: str, address: Address, task_status: trio.TaskStatus[Node]) -> None:
            config = NodeConfig(
                name=name, bind=address, **{**common, **(options or {}).get(name, {})}
            )
            transport = network.open(address)
            try:
                async with open_node(
                    config,
                    transport=transport,
                    rng=random.Random(name),
                    save_keyring=(save_keyring or {}).get(name),
                ) as node:
                    task_status.started(node)
                    await trio.sleep_forever()
            finally:
                transport.kill()

        for number, name in enumerate(names, start=1):
            address = Address(f"10.0.0.{number}", 7946)
            nodes[name] = await nursery.start(live, name, address)
            if number > 1:
                await nodes[name].join(["10.0.0.1"])
        with trio.fail_after(60):
            # Seen from outside: nobody announces that all tables are complete.
            while any(len(node.members()) < len(names) for node in nodes.values()):  # noqa: ASYNC110
                await trio.sleep(0.1)
        yield nodes
        nursery.cancel_scope.cancel()
