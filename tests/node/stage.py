"""One real node in virtual time, and members that a test plays by hand.

The node is that of `open_node` on the simulated network, where everything takes a millisecond;
the others are an endpoint each and what the test lets them say.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import trio
from trio.abc import HalfCloseableStream

from tests.wire.helpers import take
from trioserf.address import Address, packed
from trioserf.errors import AddressError
from trioserf.net.resolver import Service
from trioserf.node import Node, NodeConfig, open_node
from trioserf.sim.endpoint import SimTransport
from trioserf.sim.network import LinkConditions, Network
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
_POLL = 0.01
OURS = Address("10.0.0.1", 7946)
M = TypeVar("M")


@attrs.frozen
class Heard:
    """A message that a played member got: when, and how many came in the same packet."""

    at: float
    message: Message
    source: tuple[str, int]
    beside: tuple[Message, ...]


class ScriptedPeer:
    """A member that the test plays.

    Attributes:
        heard: every message that came in a packet.
        answers: whether it acknowledges pings for its name.
    """

    def __init__(self, transport: SimTransport, name: str, versions: Versions) -> None:
        self.transport = transport
        self.name = name
        self.address = Address(*transport.address)
        self.versions = versions
        self.heard: list[Heard] = []
        self.answers = True
        self.codec = PacketCodec(keyring=None)
        self._news = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Take down what comes, until cancelled."""
        while True:
            for data, source in await self.transport.receive_packets():
                messages, fault = self.codec.decode(data)
                assert fault is None
                for message in messages:
                    self.heard.append(Heard(trio.current_time(), message, source, tuple(messages)))
                    if self.answers and isinstance(message, Ping) and message.node == self.name:
                        self.send(Ack(message.seq_no))
            self._news.unpark_all()

    def send(self, *messages: Message, to: Address = OURS) -> None:
        """Say something in one packet."""
        for packet in self.codec.pack([encode(one) for one in messages], crc=False):
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

    def got(self, kind: type[M], since: float = 0.0) -> list[M]:
        """Give the messages of one kind that have come."""
        return [one.message for one in self.of(kind, since) if isinstance(one.message, kind)]

    def of(self, kind: type[object], since: float = 0.0) -> list[Heard]:
        """Give the same with the circumstances."""
        return [one for one in self.heard if isinstance(one.message, kind) and one.at >= since]

    async def wait_for(self, kind: type[M], seconds: float = 100.0, skip: int = 0) -> M:
        """Wait for the first message of a kind after `skip` others."""
        with trio.fail_after(seconds):
            while len(self.got(kind)) <= skip:
                await self._news.park()
        return self.got(kind)[skip]

    async def exchange(self, data: bytes, to: Address = OURS) -> Message | None:
        """Send bytes on a stream and read the answer; None if it ends without one."""
        async with await self.transport.dial(to) as stream:
            await stream.send_all(data)
            return await answer(stream)


async def answer(stream: HalfCloseableStream) -> Message | None:
    """Read one message from a stream; None if it ends before."""
    decoder = StreamCodec(keyring=None).decoder()
    while data := await stream.receive_some(65_536):
        message, _ = take(decoder, bytes(data))
        if message is not None:
            return message
    return None


def push_pull(*nodes: NodeState, join: bool = False, user_state: bytes = b"") -> bytes:
    """Give the bytes of half an exchange."""
    return StreamCodec(keyring=None).encode_push_pull(PushPull(join, nodes, user_state))


class FakeResolver:
    """A resolver whose answers the test changes; takes down when it was asked."""

    def __init__(self) -> None:
        self.book: dict[str, list[str]] = {}
        self.asked: list[tuple[float, str]] = []
        self.delay = 0.0
        self.srv_records: dict[str, list[Service]] = {}

    async def services(self, name: str) -> list[Service]:
        self.asked.append((trio.current_time(), name))
        await trio.sleep(self.delay)
        if name not in self.srv_records:
            raise AddressError(f"service {name!r}: nobody said so")
        return self.srv_records[name]

    async def addresses(self, host: str) -> list[str]:
        self.asked.append((trio.current_time(), host))
        await trio.sleep(self.delay)
        if host not in self.book:
            raise AddressError(f"unknown host {host!r}: nobody said so")
        return self.book[host]


@attrs.define
class NodeUnderTest:
    """A node, the network it is on, and its resolver."""

    node: Node
    network: Network
    names: FakeResolver
    nursery: trio.Nursery
    peers: dict[str, ScriptedPeer] = attrs.Factory(dict)

    def peer(
        self, name: str, *, versions: Versions = OUR_VERSIONS, run: bool = True
    ) -> ScriptedPeer:
        """Add a member, whom nobody knows yet."""
        address = (f"10.0.1.{len(self.peers) + 1}", 7946)
        peer = self.peers[name] = ScriptedPeer(self.network.open(address), name, versions)
        if run:
            self.nursery.start_soon(peer.run)
        return peer

    async def add_members(
        self, *names: str, versions: Versions = OUR_VERSIONS
    ) -> list[ScriptedPeer]:
        """Add members and let the node hear of them."""
        peers = [self.peer(name, versions=versions) for name in names]
        for peer in peers:
            peer.send(peer.alive())
        await trio.sleep(2 * LATENCY)
        assert all(name in self.statuses() for name in names)
        return peers

    def statuses(self) -> dict[str, str]:
        return {one.name: one.status_text for one in self.node.members()}

    def state_of(self, name: str) -> State:
        return self.node.memberlist.records[name].state

    async def until(
        self, holds: Callable[[], bool], seconds: float = 1000.0, poll: float = _POLL
    ) -> float:
        """Wait until something holds; give the instant, as exact as `poll` is short."""
        with trio.fail_after(seconds):
            while not holds():  # noqa: ASYNC110 - in virtual time, of anything at all
                await trio.sleep(poll)
        return trio.current_time()


@asynccontextmanager
async def stage(seed: int = 1, **options: Any) -> AsyncIterator[NodeUnderTest]:
    """Set the stage: a node named `us`; needs `autojump_clock`."""
    network = Network(random.Random(seed), LinkConditions(latency=LATENCY, jitter=0))
    config = NodeConfig(**{"name": "us", "bind": OURS, **options})
    names = FakeResolver()
    async with trio.open_nursery() as around:
        around.start_soon(network.run)
        transport = network.open(config.bind)
        async with (
            open_node(
                config, transport=transport, resolver=names, rng=random.Random(seed)
            ) as node,
            trio.open_nursery() as nursery,
        ):
            yield NodeUnderTest(node, network, names, nursery)
            nursery.cancel_scope.cancel()
        around.cancel_scope.cancel()
