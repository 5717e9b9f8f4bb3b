"""Members that nobody ever ran, handed to agents of either kind by push/pull."""

import socket
import time
from collections.abc import Iterable

from tests.wire.helpers import take
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import SerfPushPull
from trioserf.wire.serf_payloads import encode_tags
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_messages import Message, NodeState, PushPull, State

CODEC = StreamCodec(keyring=None, compress=False)


def members(count: int, prefix: str = "invented", state: State = State.ALIVE) -> list[NodeState]:
    """Invent members, at addresses where nobody is (in 127/8, so that nothing leaves here)."""
    meta = encode_tags({"role": "invented", "dc": "nowhere"})
    return [
        NodeState(f"{prefix}-{i:04}", bytes((127, 99, i >> 8, i & 255)), 7946, meta, 1, state)
        for i in range(count)
    ]


def hand_over(
    to: tuple[str, int], nodes: Iterable[NodeState], *, join: bool = True
) -> tuple[PushPull, float]:
    """Exchange states; gives the other side's and how long the exchange took, in seconds."""
    nodes = tuple(nodes)
    state = SerfPushPull(10, {node.name: 1 for node in nodes}, (), 1, (), 1)
    data = CODEC.encode_push_pull(PushPull(join, nodes, encode(state)))
    decoder = CODEC.decoder()
    message: Message | None = None
    began = time.monotonic()
    with socket.create_connection(to, timeout=20) as stream:
        stream.sendall(data)
        while message is None:
            got = stream.recv(1 << 20)
            if not got:
                raise decoder.end()
            message, _ = take(decoder, got)
    took = time.monotonic() - began
    assert isinstance(message, PushPull)
    return message, took
