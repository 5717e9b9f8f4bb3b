"""Fuzz targets: functions of any bytes that return, or raise if a guarantee is broken.

`scripts/fuzz` runs them guided by coverage, `test_replay` replays its inputs. The docstring of a
target states its guarantees. A `WireError` is a valid outcome; any other exception is a finding.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import trio
import trio.testing

from tests.control.helpers import FakeAgent, wall
from tests.fuzz import records
from tests.fuzz.costs import operation
from tests.fuzz.requests import conversation
from tests.fuzz.sequence import sequence
from tests.fuzz.state_driver import StateDriver, feed, nonce
from trioserf.address import Address
from trioserf.agent.mdns import Instance, MdnsError, parse_answer, service_name
from trioserf.control.server.admission import Limits
from trioserf.control.server.connection import ServerContext
from trioserf.control.server.listener import Server
from trioserf.serf.keyring import Keyring
from trioserf.serf.snapshot import SnapshotState, parse
from trioserf.sim.virtual_time import repeatable
from trioserf.wire import serf_codec, serf_payloads, swim_codec
from trioserf.wire.encryption import Sealer
from trioserf.wire.errors import WireError
from trioserf.wire.packet import PacketCodec
from trioserf.wire.serf_messages import Query, Relay, SerfMessage
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_messages import Ack, Alive, Message, PushPull, UserMessage

KEYS: Final = Keyring([bytes(range(16)), bytes(32)])
LABEL: Final = b"blue"


# ------------------------------------------------------------------------------------------- wire


def packet(data: bytes) -> None:
    """Any datagram decodes to messages and perhaps an error; messages survive a round trip.

    The first byte selects keys and label, and whether the rest is first encrypted or labelled
    correctly, so that it is decoded further.
    """
    mode, data = data[0] if data else 0, data[1:]
    label = LABEL if mode & 1 else b""
    keyring = KEYS if mode & 2 else None
    if mode & 4 and keyring is not None:
        data = Sealer(keyring, nonce).seal(data, label)
    if mode & 8:
        data = bytes((swim_codec.LABEL, len(LABEL))) + LABEL + data
    codec = PacketCodec(keyring=keyring, label=label, verify_incoming=not mode & 16, nonce=nonce)
    messages, error = codec.decode(data)
    assert error is None or error.kind
    for message in messages:
        check_message(message)


def check_message(message: Message) -> None:
    """Check the round trip of a message, and decode its payload."""
    if isinstance(message, PushPull):
        codec = StreamCodec(keyring=None, compress=False)
        assert feed(codec, codec.encode_push_pull(message)) == message
        with suppress(WireError):
            check_serf_message(serf_codec.decode(message.user_state))
        return
    assert swim_codec.decode(swim_codec.encode(message)) == message
    with suppress(WireError):
        if isinstance(message, Ack):
            at = serf_payloads.decode_coordinate(message.payload)
            assert serf_payloads.decode_coordinate(serf_payloads.encode_coordinate(at)) == at
        elif isinstance(message, Alive):
            tags = serf_payloads.decode_tags(message.meta)
            assert serf_payloads.decode_tags(serf_payloads.encode_tags(tags)) == tags
        elif isinstance(message, UserMessage):
            check_serf_message(serf_codec.decode(message.payload))


def check_serf_message(message: SerfMessage) -> None:
    """Check the round trip of a Serf message, and decode what it contains."""
    assert serf_codec.decode(serf_codec.encode(message)) == message
    if isinstance(message, Query):
        for one in message.filters:
            with suppress(WireError):
                filter_ = serf_payloads.decode_filter(one)
                assert serf_payloads.decode_filter(serf_payloads.encode_filter(filter_)) == filter_
    elif isinstance(message, Relay):
        with suppress(WireError):
            serf_codec.decode(message.inner)


def stream(data: bytes) -> None:
    """Any stream or answer, in any chunks, decodes to a message, nothing yet or an error."""
    if len(data) < 2:
        return
    mode, size, data = data[0], data[1] or 65_536, data[2:]
    label = LABEL if mode & 1 else b""
    keyring = KEYS if mode & 2 else None
    codec = StreamCodec(
        keyring=keyring, label=label, verify_incoming=not mode & 16, compress=False, nonce=nonce
    )
    is_answer = bool(mode & 8)
    if mode & 4:
        data = codec.encode(data, is_answer=is_answer)
    message = None
    with suppress(WireError):
        message = feed(codec, data, size, is_answer=is_answer)
    if message is not None:
        check_message(message)


def messages(data: bytes) -> None:
    """Any bytes decode to a Serf message, filter, tags or coordinate, or raise `WireError`."""
    with suppress(WireError):
        check_serf_message(serf_codec.decode(data))
    for decode in (
        serf_payloads.decode_filter,
        serf_payloads.decode_tags,
        serf_payloads.decode_coordinate,
    ):
        with suppress(WireError):
            decode(data)


# ------------------------------------------------------------------------------------------ state


def steps(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split bytes into steps: a kind (one byte), a length (two bytes) and so many bytes."""
    at = 0
    while at + 3 <= len(data):
        kind, length = struct.unpack_from(">BH", data, at)
        at += 3
        yield kind, data[at : at + length]
        at += length


def step(kind: int, data: bytes) -> bytes:
    return struct.pack(">BH", kind, len(data)) + data


def state(data: bytes) -> None:
    """A node's state survives all messages, within its bounds.

    All that it accepts can be encoded for other members, for clients of both framings and for its
    snapshot. No message ends the node, except the vote that it has lost its name.
    """
    driver = StateDriver()
    for kind, body in steps(data):
        driver.do(kind % 6, body)
    driver.finish()


# ---------------------------------------------------------------------------------------- control


def control(data: bytes) -> None:
    """Any bytes on the control port are answered or end the connection; no resource leaks.

    The first byte is the size of chunks, the second selects whether a key is required.
    """
    if len(data) < 3:
        return
    size, locked, data = data[0] or 65_536, data[1] % 4 == 1, data[2:]
    _run_server(size, locked, data)


def requests(data: bytes) -> None:
    """Any requests with any values are answered or end the connection; no resource leaks."""
    _run_server(*conversation(data))


def _run_server(size: int, locked: bool, data: bytes) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    with repeatable(1):
        trio.run(_converse, size, locked, data, clock=clock, instruments=[_Steps()])


class _Steps(trio.abc.Instrument):
    """Measures each step of a task, during which the others wait."""

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._step = operation("step of a task")
        self._step.__enter__()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._step.__exit__(None, None, None)


async def _converse(size: int, locked: bool, data: bytes) -> None:
    agent = FakeAgent()
    async with trio.open_nursery() as nursery:
        service = ServerContext(agent, "sesame" if locked else "", wall, Limits())
        server = Server(service, nursery)
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(server.handle, far)
        nursery.start_soon(_send, near, data, size)
        while await near.receive_some(65_536):
            pass
        await trio.testing.wait_all_tasks_blocked()
        left = server.connections + server.unauthenticated + agent.node.subscriptions
        assert left + agent.logs.subscriptions == 0
        assert not any("internal error" in line.message for line in agent.logs.remembered())
        nursery.cancel_scope.cancel()


async def _send(stream: trio.abc.HalfCloseableStream, data: bytes, size: int) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        for start in range(0, len(data), size):
            await stream.send_all(data[start : start + size])
        await stream.send_eof()


# ------------------------------------------------------------------------------------------ mDNS

SERVICE: Final = service_name("demo")
INSTANCE: Final = Instance(SERVICE, "ours", Address("10.0.0.1", 7946), "Serf 'demo' cluster")


def mdns(data: bytes) -> None:
    """Any multicast DNS message, query or answer, is answered or ignored."""
    for port in (40_000, 5353):
        with suppress(MdnsError):
            answer = INSTANCE.answer(data, port)
            assert answer is None or len(answer.data) <= 9000
    with suppress(MdnsError):
        assert all(0 < address.port < 65_536 for address in parse_answer(SERVICE, data))


# ------------------------------------------------------------------------------------------ files


def snapshot(data: bytes) -> None:
    """Any bytes parse as a snapshot; what is compacted of it parses to the same."""
    for rejoin in (False, True):
        replayed = parse(data, rejoin=rejoin)
        assert replayed.size == len(data)
        written = SnapshotState(replayed).compacted()
        again = parse(written)
        assert not again.errors
        assert again.alive == replayed.alive
        assert again.clocks == replayed.clocks


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "packet": packet,
    "stream": stream,
    "messages": messages,
    "state": state,
    "sequence": sequence,
    "control": control,
    "requests": requests,
    "mdns": mdns,
    "snapshot": snapshot,
}

STRUCTURED: Final = frozenset({"sequence", "requests"})
"""Targets whose inputs are records."""
LONGEST: Final = {
    "state": 4096,
    "control": 2048,
    **dict.fromkeys(STRUCTURED, records.MAX_INPUT),
}
"""Bytes of an input; 1,024 for the others."""
