"""A node's state without tasks and network, with checks of all that it does."""

import json
import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgpack

from tests.fuzz.costs import operation
from tests.wire import helpers
from trioserf.address import Address
from trioserf.control.server import json_records
from trioserf.control.server.json_lines import encode as encode_json
from trioserf.control.server.msgpack_fields import pack as pack_rpc
from trioserf.control.server.msgpack_handlers import event_record
from trioserf.errors import TrioserfError
from trioserf.node.config import NodeConfig
from trioserf.node.push_pull_merge import StepwiseReader, merge_steps
from trioserf.node.state import ClusterState
from trioserf.serf.events import Event
from trioserf.serf.internal_queries import KeyHandler, no_keyring
from trioserf.serf.snapshot import SnapshotState, parse
from trioserf.swim.protocol_versions import VersionMismatch
from trioserf.wire import serf_codec, serf_payloads, swim_codec
from trioserf.wire.errors import WireError
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_messages import Ack, Alive, Message, PushPull, UserMessage

NOON: Final = datetime(2026, 11, 25, 12, tzinfo=UTC)
PLAIN: Final = StreamCodec(keyring=None, compress=False)

MAX_SENT: Final = 2048
"""Packets that a node sends for one operation."""

PACKET, USER, EXCHANGE, TIME, RESPOND, TURN = range(6)


def nonce(size: int) -> bytes:
    return bytes(size)


def feed(
    codec: StreamCodec, data: bytes, size: int = 65_536, *, is_answer: bool = False
) -> Message | None:
    """Decode a stream; return None if it ends inside its message."""
    decoder = codec.decoder(is_answer=is_answer)
    message, _ = helpers.feed(decoder, data, size)
    assert message is not None or decoder.end().kind == "truncated"
    return message


def local_state(state: ClusterState, *, join: bool) -> PushPull:
    """Return this node's half of a push/pull."""
    nodes = tuple(record.node_state() for record in state.membership.records.values())
    return PushPull(join, nodes, serf_codec.encode(state.serf.local_state()))


class StateDriver:
    """Passes input to the state of a node and checks its output.

    Attributes:
        pending: our numbers of queries without a response.
        codec: of streams, with the label and the keys of the node.
    """

    def __init__(self, config: NodeConfig | None = None, keys: KeyHandler = no_keyring) -> None:
        self.now = 1000.0
        self.config = config = config or NodeConfig(name="us", tags={"role": "web"})
        self.state = ClusterState(
            config,
            Address("127.0.0.1", 7946),
            rng=random.Random(1),
            has_responder=lambda query: query.name != "ignored",
            keys=keys,
            nonce=nonce,
        )
        self.peer = Address("127.0.0.2", 7946)
        self.codec = StreamCodec(
            label=config.label.encode(), compress=False, sealer=self.state.sealer
        )
        self.snapshot = SnapshotState()
        self.pending: list[int] = []
        self.state.start(self.now, None)
        tags = serf_payloads.encode_tags({"a": "b"})
        hello = swim_codec.encode(Alive(1, "peer", bytes((127, 0, 0, 2)), 7946, tags))
        self.packet(self.state.outbox.codec.pack([hello], crc=False)[0], self.peer)
        self.check_effects()

    def do(self, kind: int, data: bytes) -> None:
        state = self.state
        if kind == PACKET:
            self.packet(data, self.peer)
        elif kind == USER:
            with operation("user message"):
                state.handle_user_message(data, self.peer, self.now, sealed=False)
        elif kind == EXCHANGE:
            self.stream(data, ignore_events=bool(len(data) % 2))
        elif kind == TIME:
            self.now += min(int.from_bytes(data[:4], "big") / 1000, 100_000.0)
            self.pass_time()
        elif kind == RESPOND and self.pending:
            with suppress(TrioserfError), operation("respond"):
                state.serf.respond(self.pending.pop(), data, self.now)
        elif kind == TURN:
            self.run_loops(data)
        self.check_effects()

    def packet(self, data: bytes, source: Address, what: str = "packet") -> None:
        with operation(what):
            self.state.handle_packets([(data, source)], self.now)
            self.state.pop_stream_messages()
            self.state.pop_large_broadcasts()
        while self.state.has_waiting:
            with operation(f"further messages of a {what}"):
                self.state.handle_waiting(self.now)
                self.state.pop_stream_messages()
                self.state.pop_large_broadcasts()

    def stream(self, data: bytes, *, ignore_events: bool = False, size: int = 65_536) -> None:
        """Read a stream in steps, as a node does, and handle its message in steps."""
        decoder = self.codec.decoder()
        message: Message | None = None
        try:
            for start in range(0, len(data), size):
                with operation("first step of a stream"):
                    message = decoder.feed(data[start : start + size])
                while message is None and decoder.is_busy:
                    with operation("step of a stream"):
                        message = decoder.work()
                if message is not None:
                    break
            if isinstance(message, PushPull):
                self.merge(message, ignore_events=ignore_events)
            elif isinstance(message, UserMessage):
                with operation("user message of a stream"):
                    self.state.handle_user_message(
                        message.payload, self.peer, self.now, sealed=bool(decoder.nonce)
                    )
        except (WireError, VersionMismatch) as error:
            if isinstance(error, WireError):
                self.state.drops.add(error, self.peer, self.now)

    def merge(self, remote: PushPull, *, ignore_events: bool) -> None:
        with operation("local state"):
            self.codec.encode_push_pull(local_state(self.state, join=remote.join), is_answer=True)
        reader = StepwiseReader(remote.user_state)
        steps = iter(reader)
        while True:
            with operation("step of Serf's state"):
                if next(steps, None) is None:
                    break
        merge = merge_steps(
            self.state.membership,
            self.state.serf,
            remote,
            reader.state,
            ignore_events=ignore_events,
        )
        while True:
            with operation("step of a merge"):
                step = next(merge, None)
                if step is None:
                    break
                step(self.now)
            self.check_effects()

    def pass_time(self) -> None:
        state = self.state
        with operation("expire"):
            state.expire(self.now)
        with operation("expire suspicions"):
            state.expire_suspicions(self.now)
        with operation("reap"):
            state.reap(self.now)
        with operation("check queues"):
            state.check_queues()
        assert state.next_deadline is None or state.next_deadline > self.now
        assert state.next_suspicion is None or state.next_suspicion > self.now

    def run_loops(self, data: bytes) -> None:
        """Do what the loops of a node do: gossip, probe; and send a user event."""
        state, now = self.state, self.now
        with operation("gossip"):
            state.gossip(now)
        with operation("probe"):
            probe = state.detector.start_probe(now, lambda: None)
            if probe is not None:
                state.detector.send_indirect_pings(probe)
                if len(data) % 2:
                    ack = swim_codec.encode(Ack(probe.seq_no, data))
                    [sealed] = state.outbox.codec.pack([ack], crc=False)
                    state.handle_packets([(sealed, self.peer)], now)
                state.detector.conclude_probe(probe, now, tcp_acked=False)
        with suppress(TrioserfError), operation("user event"):
            state.serf.user_event("ours", data[:100])

    def check_effects(self) -> None:
        state = self.state
        serf_state = state.serf
        state.pop_stream_messages()
        state.pop_large_broadcasts()
        assert len(state.outbox.packets) <= MAX_SENT
        for sent, to in state.outbox.packets:
            assert len(sent) <= 65_507
            assert 0 <= to.port < 65_536
        state.outbox.packets.clear()
        for event in serf_state.events:
            self.check_event(event)
        serf_state.events.clear()
        serf_state.shutdown_orders.clear()
        self.check_bounds()

    def check_event(self, event: Event) -> None:
        """Encode an event for clients of both framings, and record it in the snapshot."""
        json.loads(encode_json(json_records.event(event, NOON, self.now)))
        msgpack.unpackb(pack_rpc(event_record(event)), unicode_errors="surrogateescape")
        self.snapshot.record(event)
        if event.kind == "query":
            self.pending.append(event.id)

    def check_bounds(self) -> None:
        """Check the sizes of tables and queues, and our own record."""
        state, options = self.state, self.config.serf
        most = state.membership.options.max_members
        assert len(state.membership.records) <= most
        assert state.serf.stats()["members"] <= most
        for kind, queue in state.serf.queues.items():
            assert len(queue) <= 2 * options.max_queue_depth, kind
        assert len(state.membership.broadcasts) <= 2 * most
        assert state.membership.suspect_count <= len(state.membership.records)
        assert state.detector.pending_indirect_pings <= 4096
        assert len(state.drops.by_peer) <= 1025
        assert len(state.serf._outgoing_queries) <= options.running_queries
        assert len(state.serf._incoming_queries._pending) <= options.pending_queries
        assert len(state.serf._incoming_queries._answered) <= options.pending_queries
        assert len(state.serf._intents._buffer) <= options.intents_kept
        local = state.membership.local
        assert (local.addr, local.port) == (bytes((127, 0, 0, 1)), 7946)
        assert local.is_dead_or_left == state.membership.leaving
        assert 0 < local.incarnation < 2**32

    def finish(self) -> None:
        """Check that the whole state can be encoded."""
        state = self.state
        self.do(TURN, b"")
        local = local_state(state, join=False)
        assert feed(PLAIN, PLAIN.encode_push_pull(local)) == local
        serf_codec.decode(local.user_state)
        for one in state.serf.members():
            encode_json(json_records.member(one))
        assert all(isinstance(value, int | str | float | bool) for value in state.stats().values())
        assert not parse(self.snapshot.compacted()).errors
        alive = [one for one in state.membership.records.values() if not one.is_dead_or_left]
        assert len(alive) == state.membership.alive_count
