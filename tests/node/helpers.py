"""Nodes in virtual time: one real node among scripted peers, or a few real nodes.

The real nodes are those of `open_node` on the simulated network with a latency of a millisecond. A
scripted peer is an endpoint that sends what the test makes it send.
"""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import pytest
import trio
from trio.abc import HalfCloseableStream
from trio.testing import wait_all_tasks_blocked

from tests.wire.helpers import take
from trioserf.address import Address, packed
from trioserf.errors import AddressError
from trioserf.net.services import Service
from trioserf.net.transport import SocketAddress
from trioserf.node import Node, NodeConfig, open_node
from trioserf.node.key_handler import SaveKeyring
from trioserf.sim.network import LinkConditions, Network
from trioserf.sim.transport import SimTransport
from trioserf.wire.packet import PacketCodec
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import (
    OUR_VERSIONS,
    Ack,
    Alive,
    Message,
    NodeState,
    Ping,
    PushPull,
    State,
    Versions,
)

LATENCY = 0.001
OURS = Address("10.0.0.1", 7946)
M = TypeVar("M")


@attrs.frozen
class Received:
    """A message that a scripted peer received, and all messages of its packet."""

    at: float
    message: Message
    source: tuple[str, int]
    same_packet: tuple[Message, ...]


class ScriptedPeer:
    """A member that the test controls.

    Attributes:
        received: every message that came in a packet.
        acks_pings: whether it acknowledges pings for its name.
        ack: what these acks contain, except the sequence number.
    """

    def __init__(self, transport: SimTransport, name: str, versions: Versions) -> None:
        self.transport = transport
        self.name = name
        self.address = Address(*transport.address)
        self.versions = versions
        self.received: list[Received] = []
        self.acks_pings = True
        self.ack = Ack(0)
        self.codec = PacketCodec(keyring=None)
        self._arrivals = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Record all packets until cancelled."""
        while True:
            for data, source in await self.transport.receive_packets():
                messages, error = self.codec.decode(data)
                assert error is None
                for message in messages:
                    self.received.append(
                        Received(trio.current_time(), message, source, tuple(messages))
                    )
                    if self.acks_pings and isinstance(message, Ping) and message.node == self.name:
                        self.send(attrs.evolve(self.ack, seq_no=message.seq_no))
            self._arrivals.unpark_all()

    def send(self, *messages: Message, to: Address = OURS) -> None:
        """Send messages in one packet."""
        for packet in self.codec.pack([encode(message) for message in messages], crc=False):
            assert self.transport.send_packet(packet, to)

    def alive(self, incarnation: int = 1, meta: bytes = b"") -> Alive:
        return Alive(
            incarnation, self.name, packed(self.address.host), self.address.port, meta,
            self.versions,
        )  # fmt: skip

    def node_state(self, state: State = State.ALIVE, incarnation: int = 1) -> NodeState:
        return NodeState(
            self.name, packed(self.address.host), self.address.port, b"", incarnation, state,
            self.versions,
        )  # fmt: skip

    def messages(self, kind: type[M], since: float = 0.0) -> list[M]:
        """Return the received messages of one kind."""
        found = [received.message for received in self.received_of(kind, since)]
        return [message for message in found if isinstance(message, kind)]

    def received_of(self, kind: type[object], since: float = 0.0) -> list[Received]:
        """Return the same with time, source and packet."""
        return [r for r in self.received if isinstance(r.message, kind) and r.at >= since]

    async def wait_for(self, kind: type[M], seconds: float = 100.0, skip: int = 0) -> M:
        """Wait for the first message of a kind after `skip` others."""
        with trio.fail_after(seconds):
            while len(self.messages(kind)) <= skip:
                await self._arrivals.park()
        return self.messages(kind)[skip]

    async def answer_streams(self, *responses: bytes) -> None:
        """Accept a stream for each response, read its request, and respond.

        A join opens two: on the first it looks at the names only.
        """
        for response in responses:
            stream, _ = await self.transport.accept()
            async with stream:
                await read_response(stream)
                await stream.send_all(response)

    async def exchange(self, data: bytes, to: Address = OURS) -> Message | None:
        """Send bytes on a stream and return the response; None if it ends without one."""
        async with await self.transport.dial(to) as stream:
            await stream.send_all(data)
            return await read_response(stream)


async def read_response(stream: HalfCloseableStream) -> Message | None:
    """Return one message from a stream; None if it ends before."""
    decoder = StreamCodec(keyring=None).decoder()
    while data := await stream.receive_some(65_536):
        message, _ = take(decoder, bytes(data))
        if message is not None:
            return message
    return None


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return the log lines of one level."""
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def push_pull(*nodes: NodeState, join: bool = False, user_state: bytes = b"") -> bytes:
    """Return the bytes of half a push/pull."""
    return StreamCodec(keyring=None).encode_push_pull(PushPull(join, nodes, user_state))


class FakeResolver:
    """A resolver with hosts and services of the test; records its look-ups."""

    def __init__(self) -> None:
        self.hosts: dict[str, list[str]] = {}
        self.lookups: list[tuple[float, str]] = []
        self.delay = 0.0
        self.srv_records: dict[str, list[Service]] = {}

    async def services(self, name: str) -> list[Service]:
        self.lookups.append((trio.current_time(), name))
        await trio.sleep(self.delay)
        if name not in self.srv_records:
            raise AddressError(f"service {name!r}: not in this test")
        return self.srv_records[name]

    async def addresses(self, host: str) -> list[str]:
        self.lookups.append((trio.current_time(), host))
        await trio.sleep(self.delay)
        if host not in self.hosts:
            raise AddressError(f"unknown host {host!r}: not in this test")
        return self.hosts[host]


@attrs.define
class NodeUnderTest:
    """A node, the network it is on, and its resolver."""

    node: Node
    network: Network
    resolver: FakeResolver
    nursery: trio.Nursery
    peers: dict[str, ScriptedPeer] = attrs.Factory(dict)

    def peer(
        self, name: str, *, versions: Versions = OUR_VERSIONS, run: bool = True
    ) -> ScriptedPeer:
        """Add a scripted peer that the node does not know yet."""
        address = (f"10.0.1.{len(self.peers) + 1}", 7946)
        peer = self.peers[name] = ScriptedPeer(self.network.open(address), name, versions)
        if run:
            self.nursery.start_soon(peer.run)
        return peer

    async def add_members(
        self, *names: str, versions: Versions = OUR_VERSIONS
    ) -> list[ScriptedPeer]:
        """Add scripted peers and make them members."""
        peers = [self.peer(name, versions=versions) for name in names]
        for peer in peers:
            peer.send(peer.alive())
        await trio.sleep(2 * LATENCY)
        assert all(name in self.statuses() for name in names)
        return peers

    def statuses(self) -> dict[str, str]:
        return {member.name: member.status for member in self.node.members()}

    def state_of(self, name: str) -> State:
        return self.node.memberlist.records[name].state

    async def until(self, holds: Callable[[], bool], seconds: float = 1000.0) -> float:
        """Wait until a condition holds; return the time.

        In virtual time nothing changes while all tasks are blocked, until the next deadline.
        """
        with trio.fail_after(seconds):
            while True:
                await wait_all_tasks_blocked()
                if holds():
                    return trio.current_time()
                await trio.sleep(trio.lowlevel.current_statistics().seconds_to_next_deadline)


@asynccontextmanager
async def node_under_test(seed: int = 1, **options: Any) -> AsyncIterator[NodeUnderTest]:
    """Run a node named `us`; needs `autojump_clock`."""
    network = Network(random.Random(seed), LinkConditions(latency=LATENCY, jitter=0))
    config = NodeConfig(**{"name": "us", "bind": OURS, **options})
    resolver = FakeResolver()
    async with trio.open_nursery() as around:
        around.start_soon(network.run)
        transport = network.open(config.bind)
        async with (
            open_node(
                config, transport=transport, resolver=resolver, rng=random.Random(seed)
            ) as node,
            trio.open_nursery() as nursery,
        ):
            yield NodeUnderTest(node, network, resolver, nursery)
            nursery.cancel_scope.cancel()
        around.cancel_scope.cancel()


class RecordingNetwork(Network):
    """A network that records its packets: time, source and bytes."""

    def __init__(self, rng: random.Random, link: LinkConditions) -> None:
        super().__init__(rng, link)
        self.sent: list[tuple[float, SocketAddress, bytes]] = []

    def send(self, source: SimTransport, data: bytes, to: SocketAddress) -> None:
        self.sent.append((trio.current_time(), source.address, data))
        super().send(source, data, to)


@asynccontextmanager
async def open_nodes(
    *names: str,
    save_keyring: Mapping[str, SaveKeyring] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    network: Network | None = None,
    **common: Any,
) -> AsyncIterator[dict[str, Node]]:
    """Run nodes that have joined the first of them; needs `autojump_clock`.

    Args:
        names: their names.
        save_keyring: writes the keyring, by node.
        options: fields of `NodeConfig`, by node.
        network: the network; default: a new one.
        common: fields of `NodeConfig` of all nodes.
    """
    network = network or Network(random.Random(1), LinkConditions())
    nodes: dict[str, Node] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.run)

        async def run(name: str, address: Address, task_status: trio.TaskStatus[Node]) -> None:
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
            nodes[name] = await nursery.start(run, name, address)
            if number > 1:
                await nodes[name].join(["10.0.0.1"])
        with trio.fail_after(60):
            # There is no event for complete tables.
            while any(len(node.members()) < len(names) for node in nodes.values()):  # noqa: ASYNC110
                await trio.sleep(0.1)
        yield nodes
        nursery.cancel_scope.cancel()
