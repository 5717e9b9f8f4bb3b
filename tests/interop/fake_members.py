"""Members without a process, sent to agents by push/pull."""

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


def members(count: int, prefix: str = "fake", state: State = State.ALIVE) -> list[NodeState]:
    """Return members with addresses in 127/8 that no agent has."""
    meta = encode_tags({"role": "fake", "dc": "none"})
    return [
        NodeState(f"{prefix}-{i:04}", bytes((127, 99, i >> 8, i & 255)), 7946, meta, 1, state)
        for i in range(count)
    ]


def exchange(
    to: tuple[str, int], nodes: Iterable[NodeState], *, join: bool = True
) -> tuple[PushPull, float]:
    """Make a push/pull; return the other half and the duration in seconds."""
    nodes = tuple(nodes)
    state = SerfPushPull(10, {node.name: 1 for node in nodes}, (), 1, (), 1)
    request = CODEC.encode_push_pull(PushPull(join, nodes, encode(state)))
    decoder = CODEC.decoder()
    message: Message | None = None
    began = time.monotonic()
    with socket.create_connection(to, timeout=20) as stream:
        stream.sendall(request)
        while message is None:
            data = stream.recv(1 << 20)
            if not data:
                raise decoder.end()
            message, _ = take(decoder, data)
    took = time.monotonic() - began
    assert isinstance(message, PushPull)
    return message, took
