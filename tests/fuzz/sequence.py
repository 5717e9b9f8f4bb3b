"""The target whose input is a list of operations on a node: packets, streams, time, requests.

The header of an input (see `records`) selects the configuration: keys, label, limits, log level. A
record selects an operation, its envelope and the values of its messages (see `choices`). So each
input is valid, and a mutation of one byte changes one value, also inside of checksums, compression
and encryption.
"""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Final

import attrs

from tests.fuzz import records
from tests.fuzz.choices import (
    CHEAP,
    COUNTS,
    KEYS,
    ROWS,
    Choices,
    coordinate,
    message,
    node_state,
    push_pull_state,
    query,
    serf_message,
)
from tests.fuzz.costs import operation
from tests.fuzz.state_driver import StateDriver
from trioserf.address import Address
from trioserf.errors import TrioserfError
from trioserf.node.config import NodeConfig
from trioserf.serf.config import SerfOptions
from trioserf.serf.internal_queries import KeyAction
from trioserf.serf.keyring import Keyring, KeyringError, format_key
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.swim.config import SwimOptions
from trioserf.swim.failure_detector import StreamReach
from trioserf.wire import serf_codec, swim_codec
from trioserf.wire.encryption import Sealer
from trioserf.wire.label import label_header
from trioserf.wire.packet import MAX_EXPANDED, compress_message, make_compound
from trioserf.wire.serf_messages import KeyResponse
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_messages import Ack, NodeState, PushPull, State

MAX_DATAGRAM: Final = 65_507
MAX_LOG: Final = 65_536
"""Characters of log for one operation, and for each byte that it receives two more."""
_REACHES: Final[Sequence[StreamReach]] = ("untried", "acked", "refused", "silent")
_PASSED: Final = (0.0, 0.001, 0.2, 1.0, 5.0, 16.0, 31.0, 301.0, 86_401.0, 1e6, 1e9)
"""Seconds between operations."""


def sequence(data: bytes) -> None:
    """A node's state survives all operations, each within the limits of costs and log lines.

    All that it accepts can be encoded for other members, for clients of both framings and for its
    snapshot; its tables and queues stay within their bounds.
    """
    header = Choices(data[: records.HEADER])
    with _logged(logging.DEBUG if header.byte() % 2 else logging.INFO) as lines:
        driver = SequenceDriver(header.byte(), lines)
        for record in records.split(data):
            driver.operate(Choices(record, clock=driver.state.serf.clock.time))
        driver.finish()


class _Lines(logging.Handler):
    """Formats and counts what is logged.

    Attributes:
        size: characters.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.size = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.size += len(record.getMessage())


@contextmanager
def _logged(level: int) -> Iterator[_Lines]:
    log, lines = logging.getLogger("trioserf"), _Lines(level)
    before, propagates = log.level, log.propagate
    log.setLevel(level)
    log.propagate = False
    log.addHandler(lines)
    try:
        yield lines
    finally:
        log.removeHandler(lines)
        log.setLevel(before)
        log.propagate = propagates


def _config(flags: int) -> NodeConfig:
    """Return a configuration: bit by bit keys, label, plaintext too, small limits, checks."""
    serf, swim = SerfOptions(), SwimOptions()
    if flags & 8:
        serf = SerfOptions(
            event_buffer=4, query_buffer=4, max_queue_depth=8, intents_kept=8, pending_queries=4,
            running_queries=2, unexpected_responders=2, event_buffer_bytes=4096,
            query_buffer_bytes=4096,
        )  # fmt: skip
        swim = SwimOptions(max_members=16)
    if flags & 16:
        swim = attrs.evolve(swim, dead_node_reclaim_time=10.0)
    return NodeConfig(
        name="us",
        tags={"role": "web"},
        keyring=Keyring([*KEYS[:2]]) if flags & 1 else None,
        label="blue" if flags & 2 else "",
        verify_incoming=not flags & 4,
        validate_node_names=bool(flags & 32),
        allowed_networks=("127.0.0.0/8", "::1/128") if flags & 64 else (),
        disable_coordinates=bool(flags & 128),
        serf=serf,
        swim=swim,
    )


class SequenceDriver(StateDriver):
    """A node that runs the operations of records."""

    def __init__(self, flags: int, lines: _Lines) -> None:
        config = _config(flags)
        self._keyring = config.keyring
        super().__init__(config, self._handle_key)
        self._lines = lines
        nonces = count()  # a node handles each encrypted message once
        self._sealer = Sealer(
            self._keyring or Keyring([KEYS[0]]), lambda size: next(nonces).to_bytes(size, "big")
        )
        self._parts: list[bytes] = []
        self._received = 0

    def _handle_key(self, action: KeyAction, key: bytes) -> KeyResponse:
        ring = self._keyring
        if ring is None:
            return KeyResponse(False, "no keyring")
        try:
            if action != "list":
                {"install": ring.install, "use": ring.use, "remove": ring.remove}[action](key)
        except KeyringError as error:
            return KeyResponse(False, str(error))
        return KeyResponse(True, "", tuple(map(format_key, ring.keys)), format_key(ring.primary))

    def operate(self, c: Choices) -> None:
        """Run the operation of a record."""
        c.queries = list(self.state.serf._outgoing_queries._running)[-8:]
        before, self._received = self._lines.size, 0
        _OPERATIONS[c.byte() % len(_OPERATIONS)](self, c)
        self.check_effects()
        assert self._lines.size - before <= MAX_LOG + 2 * self._received, "logs too much"

    # --- packets ---

    def send_packet(self, c: Choices) -> None:
        """Receive a packet of one or many messages, perhaps with those of the last records."""
        self._add_parts(c, message)

    def send_query(self, c: Choices) -> None:
        self._add_parts(c, lambda c: b"\x08" + serf_codec.encode(query(c)))

    def _add_parts(self, c: Choices, make: Callable[[Choices], bytes]) -> None:
        source = Address(c.of(("127.0.0.2", "127.0.0.3", "::1", "127.0.0.1", "10.0.0.1")), 7946)
        layers, changes = c.of(_LAYERS), c.again(0)
        _skip(c, 4)
        count, waits = c.of(COUNTS), c.byte() % 8 == 7
        size = sum(map(len, self._parts))
        for index in range(count):
            part = make(c.again(index))
            size += len(part) + 2
            if size > 65_000 or len(self._parts) == 255:
                break
            self._parts.append(part)
        if waits or not self._parts:
            return
        parts, self._parts = self._parts, []
        data = parts[0] if len(parts) == 1 else make_compound(parts)
        self._received += len(data)
        data = self._wrap(_changed(data, changes), layers)
        if len(data) <= MAX_DATAGRAM:
            self.packet(data, source, f"packet of {_kinds(parts)}")

    def _wrap(self, data: bytes, layers: str) -> bytes:
        """Put envelopes around a message, the innermost first."""
        label = self.config.label.encode()
        for layer in layers:
            match layer:
                case "n":  # as the node expects it
                    data = self.state.outbox.codec.pack([data], crc=False)[0]
                case "s":
                    data = self._sealer.seal(data, label)
                case "l":
                    data = label_header(label or b"red") + data
                case "c":
                    data = self.state.outbox.codec.pack([data], crc=True)[0]
                case "z" if len(data) <= MAX_EXPANDED:
                    data = compress_message(data)
                case "m":
                    data = make_compound([data[:65_535]] * 2)
                case "x":
                    data = data[:-1]
        return data

    # --- streams ---

    def exchange(self, c: Choices) -> None:
        """Receive a push/pull, with changed rows and a changed state of Serf's layer."""
        mode, size, changes = c.byte(), c.of((65_536, 1400, 65_536, 100)), c.again(0)
        _skip(c, 4)
        nodes = [node_state(c.again(0))] * min(count := c.of(ROWS), 1)
        if len(nodes) and len(nodes[0].name) <= 1024:
            nodes += [node_state(c.again(index)) for index in range(1, count)]
        state = b"" if mode & 1 else serf_codec.encode(push_pull_state(c.again(0)))
        codec = StreamCodec(compress=False)
        plain = codec.encode_push_pull(PushPull(bool(mode & 2), tuple(nodes), state))
        self._send_stream(_changed(plain, changes), mode, size)

    def join(self, c: Choices) -> None:
        """Receive the state of a valid member, with some others, as at a join."""
        address = bytes((127, 0, 0, 2))
        names = ["peer", *(f"n{number}" for number in range(c.byte() % 9))]
        rows = tuple(
            NodeState(name, address, 7946, b"", 1 + c.byte() % 3, State.ALIVE) for name in names
        )
        plain = StreamCodec(compress=False).encode_push_pull(PushPull(True, rows))
        self._send_stream(plain, c.byte(), 65_536)

    def send_stream(self, c: Choices) -> None:
        """Receive a user message or another message on a stream."""
        mode, changes = c.byte(), c.again(0)
        _skip(c, 4)
        codec = StreamCodec(compress=False)
        payload = serf_message(c) if mode & 1 else b""
        plain = codec.encode_user_message(payload) if mode & 1 else codec.encode(message(c))
        self._send_stream(_changed(plain, changes), mode, 65_536)

    def _send_stream(self, plain: bytes, mode: int, size: int) -> None:
        self._received += len(plain)
        if mode & 4 and len(plain) <= 100_000:
            plain = compress_message(plain)
        sent = self.codec.encode(plain) if mode & 24 < 24 else plain
        size = max(size, len(sent) // 50)
        self.stream(sent, ignore_events=bool(mode & 32), size=size)

    # --- time and loops ---

    def let_time_pass(self, c: Choices) -> None:
        self.now += c.of(_PASSED)
        self.pass_time()

    def gossip(self, c: Choices) -> None:
        for _ in range(1 + c.byte() % 4):
            with operation("gossip"):
                self.state.gossip(self.now)

    def probe(self, c: Choices) -> None:
        """Probe a member, perhaps with an ack that has a coordinate, or with nacks."""
        state, now, mode = self.state, self.now, c.byte()
        for _ in range(1 + c.byte() % 4):
            with operation("probe"):
                probe = state.detector.start_probe(now, lambda: None)
            if probe is None:
                return
            if mode & 1:
                ack = swim_codec.encode(Ack(probe.seq_no, coordinate(c)))
                self.packet(self._wrap(ack, "n"), self.peer)
            elif mode & 2:
                state.detector.send_indirect_pings(probe)
                self.now = now = now + 0.5
            with operation("end of a probe"):
                state.detector.conclude_probe(probe, now, _REACHES[mode >> 2 & 3])

    # --- requests of this node ---

    def respond(self, c: Choices) -> None:
        while self.pending:
            with suppress(TrioserfError), operation("respond"):
                self.state.serf.respond(self.pending.pop(), c.octets(), self.now)

    def ask(self, c: Choices) -> None:
        name = c.of(("load", "_serf_ping", "", "ignored", "q" * 1000))
        with suppress(TrioserfError), operation("query"):
            params = QueryParams(
                name=name,
                nodes=(c.name(),) * c.of((0, 0, 1, 30)),
                tags={"role": c.of(CHEAP)} if c.byte() % 4 == 3 else {},
                timeout=c.of((None, 0, 1e-9, 5.0, 1e30, float("inf"), float("nan"))),
                ack=c.byte() % 2 == 0,
                relay_factor=c.of((0, 5, 255)),
                first=c.of((None, 1, 2**31)),
            )
            self.state.serf.ask(params, lambda _: None, self.now)

    def change(self, c: Choices) -> None:
        """Change something by a request of a user."""
        state, now = self.state, self.now
        with suppress(TrioserfError), operation("request"):
            match c.byte() % 6:
                case 0:
                    state.set_tags({c.name(): c.name()}, (c.name(),), now)
                case 1:
                    state.serf.force_leave(c.name(), prune=c.byte() % 2 == 1, now=now)
                case 2:
                    state.serf.user_event(c.name(), c.octets(), coalesce=True)
                case 3:
                    state.serf.announce_join(now)
                case 4 if c.byte() % 4 == 0:
                    state.serf.announce_leave(now)
                    state.leave(now, lambda: None)
                case _:
                    state.serf.reconnect_candidate()


def _kinds(parts: Sequence[bytes]) -> str:
    """Return the first type in a packet, by which costs are reported; for a user message both."""
    first = ".".join(map(str, parts[0][: 2 if parts[0][:1] == b"\x08" else 1]))
    return first if len(parts) == 1 else f"{first} and others"


def _skip(c: Choices, count: int) -> None:
    for _ in range(count):
        c.byte()


def _changed(data: bytes, c: Choices) -> bytes:
    """Change bytes of a message before it is encrypted: most of the time none."""
    kind, place, value = c.byte(), c.byte() << 8 | c.byte(), c.byte()
    if kind < 160 or not data:
        return data
    at = place % len(data)
    match kind % 5:
        case 0:
            return data[:at] + bytes((value,)) + data[at + 1 :]
        case 1:
            return data[:at] + bytes((value,)) + data[at:]
        case 2:
            return data[:at] + data[at + 1 + value :]
        case 3:
            return data[:at]
    return data[:at] + bytes((data[at] ^ (1 << value % 8),)) + data[at + 1 :]


_LAYERS: Final = (
    *("n",) * 12,
    *("cn", "zn", "zcn", "mn", "zmn", "mzn"),
    *("", "s", "l", "ln", "nn", "sn", "nl", "zzn", "ccn", "cnz", "mmn", "sl", "sls", "nx", "zxn"),
)
"""Envelopes of a packet, the innermost first (see `SequenceDriver._wrap`)."""

_OPERATIONS: Final[Sequence[Callable[[SequenceDriver, Choices], None]]] = (
    SequenceDriver.join,
    SequenceDriver.send_packet,
    SequenceDriver.exchange,
    SequenceDriver.let_time_pass,
    SequenceDriver.send_packet,
    SequenceDriver.send_query,
    SequenceDriver.gossip,
    SequenceDriver.send_packet,
    SequenceDriver.probe,
    SequenceDriver.send_stream,
    SequenceDriver.let_time_pass,
    SequenceDriver.ask,
    SequenceDriver.send_packet,
    SequenceDriver.change,
    SequenceDriver.respond,
    SequenceDriver.exchange,
)


def seeds() -> Iterator[bytes]:
    """Return inputs: each operation after a join in several configurations; known scenarios."""
    for flags in (0, 1, 11):
        header = bytes((1, flags))
        yield from (records.join(header, *scenario) for scenario in _scenarios())
    rng = random.Random(1)
    for flags in (0, 1, 3, 8, 9, 11, 75):
        for kind in range(1, len(_OPERATIONS)):
            first, second = (bytes((kind,)) + rng.randbytes(records.RECORD - 1) for _ in range(2))
            passed = bytes((3, rng.randrange(11)))
            yield records.join(bytes((1, flags)), _JOIN, first, passed, second)


_JOIN: Final = bytes((0, 5))


def _packet(*choices: int, many: bool = False) -> bytes:
    """Return the record of a packet with a message, or with 255."""
    return bytes((1, 0, 0, 0, 0, 0, 0, 15 if many else 0, 0, *choices))


def _query(name: int, *choices: int, flags: int = 1, relays: int = 0, many: bool = False) -> bytes:
    """Return the record of a query of `peer`; the choices are its payload."""
    query = (160, name, 128, 0, flags, relays, 0, *(choices or (0, 0, 0)), 0, 0, 1)
    return bytes((5, *_packet(*query, many=many)[1:]))


def _scenarios() -> Iterator[Sequence[bytes]]:
    """Return records of what needs several messages; the numbers select from `choices`."""
    us, peer, n0, n1, n2 = range(5)
    passed = [bytes((3, number)) for number in range(11)]
    alive, suspect, dead, user = (0, 2, 3, 9)
    # 255 new members, then as many queries of a member, for acks with 255 relays.
    many = _packet(alive, 129, 160, 129, many=True)
    yield many, _query(1, relays=4, many=True), _query(1, relays=4, many=True)
    # A claim of our name, and a vote of a member that has answered us.
    claim, probe = _packet(alive, 130, us, 2), bytes((8, 1))
    vote = [_packet(user, 3, 0, 0, 1, 0, 0, peer, 1, 0, address) for address in (1, 2)]
    for one in vote:
        yield probe, claim, one, passed[5], claim, passed[5], claim
    # A member fails, is forced to leave and returns, or is erased.
    fails = _packet(suspect, 1, peer, n0)
    leave, prune = (_packet(user, 5, 160, peer, flag) for flag in (0, 1))
    yield _JOIN, fails, passed[6], leave, _packet(alive, 130, peer, 0), passed[4], prune
    yield _JOIN, fails, passed[6], prune, _JOIN, leave, _packet(dead, 1, peer, peer), passed[8]
    yield _JOIN, fails, passed[6], passed[8], _JOIN, leave, passed[6], prune, passed[5]
    # Suspicions with confirmations, and a refutation.
    confirmed = [_packet(suspect, 1, n0, source) for source in (peer, n1, n2, 5, 6)]
    yield _JOIN, *confirmed, passed[3], passed[4], passed[5], passed[6]
    yield _JOIN, *confirmed[:3], _packet(alive, 130, n0, 0), passed[4]
    # Key queries, which must be encrypted.
    for name in (5, 6, 7, 8):
        yield [_query(name, 2, key, flags=0) for key in range(6)]
    # Our own query with responses, duplicates and the end of a member; then we leave.
    ask, respond = bytes((11,)), _packet(user, 3, 0, 0, 1, 0, peer, 0, 65, 3)
    yield _JOIN, ask, respond, respond, _packet(dead, 1, peer, peer), passed[5], bytes((13, 4))
