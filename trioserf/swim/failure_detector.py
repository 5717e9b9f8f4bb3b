"""Pings, acks and nacks: the messages of the failure detector, without any waiting.

Who is probed when, and for how long an answer is waited for, is the probe task's business
(`probe`). Here are the answers to others' pings, the pings made for others, and the book in which
each sequence number of ours stands with whoever waits for its ack.
"""

import logging
import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

import attrs

from trioserf.address import Address, address_of, packed
from trioserf.swim.memberlist import Memberlist
from trioserf.swim.node_record import NodeRecord
from trioserf.swim.packet_outbox import PacketOutbox, supports_crc
from trioserf.swim.peer_coordinates import PeerCoordinates
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import LEFT, SUSPECT, Ack, Dead, IndirectPing, Nack, Ping, Suspect

_log = logging.getLogger("trioserf.memberlist")

_NACKS_FROM_PROTOCOL: Final = 4
_STREAM_PINGS_FROM_PROTOCOL: Final = 3
MAX_RELAYS: Final = 4096
"""Indirect pings served at once; more are not worth the memory somebody asks for."""
_SEQUENCE_NUMBERS: Final = 1 << 32


@attrs.define(eq=False)
class Probe:
    """One probe of one member.

    Attributes:
        seq_no: its sequence number.
        record: whom it probes.
        incarnation: the incarnation it had at the start.
        address: where it was pinged.
        started: the instant of the ping.
        patience: how long the probe may take altogether, in seconds, scaled by our health.
        expected_nacks: peers that owe a nack.
        nacks: nacks that came.
        acked: whether an ack came, from anywhere.
        on_ack: called with the first ack.
    """

    seq_no: int
    record: NodeRecord
    incarnation: int
    address: Address
    started: float
    timeout: float
    on_ack: Callable[[], None]
    expected_nacks: int = 0
    nacks: int = 0
    acked: bool = False

    @property
    def may_use_stream(self) -> bool:
        """Whether the member answers pings on streams."""
        return self.record.versions.protocol_max >= _STREAM_PINGS_FROM_PROTOCOL


@attrs.define(eq=False)
class _IndirectPing:
    """A ping for somebody else, whose ack or nack is handed on."""

    seq_no: int
    requester: Address
    wants_nack: bool
    nack_at: float
    answered: bool = False


class FailureDetector:
    """The messages of the failure detector.

    Args:
        membership: the member table.
        address: where others reach us.
        outgoing: takes what is to be sent.
        places: network coordinates.
        rng: gives the first sequence number.
    """

    def __init__(
        self,
        membership: Memberlist,
        address: Address,
        *,
        outgoing: PacketOutbox,
        places: PeerCoordinates,
        rng: random.Random,
    ) -> None:
        self._membership = membership
        self._name = membership.name
        self._source = packed(address.host), address.port
        self._outgoing = outgoing
        self._places = places
        self._seq_no = rng.randrange(_SEQUENCE_NUMBERS)
        self._probes: dict[int, Probe] = {}
        self._relays: dict[int, _IndirectPing] = {}
        self._nack_deadlines: list[tuple[float, int]] = []

    # --- our own probes ---

    def start_probe(self, now: float, on_ack: Callable[[], None]) -> Probe | None:
        """Ping the next member of the round; None if there is nobody to probe."""
        record = self._membership.members.next_probe(now)
        if record is None:
            return None
        membership, timing = self._membership, self._membership.timing
        probe = Probe(
            self._next_seq_no(),
            record,
            record.incarnation,
            record.address,
            now,
            membership.awareness.scale_timeout(timing.probe_interval),
            on_ack,
        )
        self._probes[probe.seq_no] = probe
        ping = self._ping(probe.seq_no, record.name)
        if record.state is SUSPECT and membership.options.buddy:
            suspicion = encode(Suspect(record.incarnation, record.name, self._name))
            crc = supports_crc(record)
            self._outgoing.send_unfilled([ping, suspicion], record.address, crc=crc)
        else:
            self._outgoing.send(ping, record.address)
        return probe

    def send_indirect_pings(self, probe: Probe) -> None:
        """Ask random peers to ping the member too, and to say so if it does not answer."""
        record = probe.record
        peers = self._membership.members.k_random_nodes(
            self._membership.timing.indirect_checks, exclude=(record.name,)
        )
        for peer in peers:
            nack = peer.versions.protocol_max >= _NACKS_FROM_PROTOCOL
            probe.expected_nacks += nack
            addr, port = self._source
            request = IndirectPing(
                probe.seq_no, record.addr, record.port, record.name, nack, addr, port, self._name
            )
            self._outgoing.send(encode(request), peer.address)

    def conclude_probe(self, probe: Probe, now: float, *, tcp_acked: bool) -> None:
        """Draw the conclusion of a probe for which no ack came, unless one came just now."""
        if probe.acked:
            return
        self.drop_probe(probe)
        if tcp_acked:
            _log.warning(
                "%r answers on a stream, but not to packets; check that UDP gets through",
                probe.record.name,
            )
            self._membership.probe_succeeded()
        else:
            self._membership.probe_failed(
                probe.record, probe.incarnation, probe.expected_nacks, probe.nacks, now
            )

    def drop_probe(self, probe: Probe) -> None:
        """Give a probe up without any conclusion."""
        self._probes.pop(probe.seq_no, None)

    def stream_ping(self, probe: Probe) -> bytes:
        """Give the ping that is sent on a stream."""
        return self._ping(probe.seq_no, probe.record.name)

    # --- what comes in ---

    def handle_ping(self, ping: Ping, source: Address) -> None:
        """Answer a ping, if it is for us; tell who pings us if we take it for gone.

        Who comes back at its old incarnation is not believed by those who know of its end. It
        would learn of that with some push/pull, and be taken for failed where such news comes
        first; told at once, it refutes (as a suspect does that is told with the ping: Lifeguard,
        section IV-C).
        """
        if ping.node and ping.node != self._name:
            _log.warning("ping for %r, but this is %r; from %s", ping.node, self._name, source)
            return
        to = source
        if ping.source_port and ping.source_addr:
            to = address_of(ping.source_addr, ping.source_port)
        self._outgoing.send(self._places.ack(ping.seq_no), to)
        membership = self._membership
        if not membership.options.buddy:
            return
        pinger = membership.records.get(ping.source_node)
        if pinger is not None and pinger.is_dead_or_left and pinger.name != self._name:
            declared_by = pinger.name if pinger.state is LEFT else self._name
            self._outgoing.send(encode(Dead(pinger.incarnation, pinger.name, declared_by)), to)

    def handle_indirect_ping(self, request: IndirectPing, source: Address, now: float) -> None:
        """Ping a member for somebody else."""
        if not request.port or len(self._relays) >= MAX_RELAYS:
            return
        asker = source
        if request.source_port and request.source_addr:
            asker = address_of(request.source_addr, request.source_port)
        seq_no = self._next_seq_no()
        nack_at = now + self._membership.timing.probe_timeout
        self._relays[seq_no] = _IndirectPing(request.seq_no, asker, request.nack, nack_at)
        heappush(self._nack_deadlines, (nack_at, seq_no))
        self._outgoing.send(
            self._ping(seq_no, request.node), address_of(request.target, request.port)
        )

    def handle_ack(self, ack: Ack, now: float) -> None:
        """Tell whoever waits for an ack that it has come; for a probe of ours that ends it."""
        probe = self._probes.pop(ack.seq_no, None)
        if probe is not None:
            probe.acked = True
            self._membership.probe_succeeded()
            if now - probe.started <= self._membership.timing.probe_timeout:
                self._places.on_rtt(probe.record.name, ack.payload, now - probe.started)
            probe.on_ack()
            return
        relay = self._relays.get(ack.seq_no)
        if relay is not None and not relay.answered:
            relay.answered = True
            self._outgoing.send(encode(Ack(relay.seq_no)), relay.requester)

    def handle_nack(self, nack: Nack) -> None:
        """Count a peer's word that it works, though the probed member did not answer it."""
        probe = self._probes.get(nack.seq_no)
        if probe is not None:
            probe.nacks += 1

    # --- the passing of time ---

    @property
    def pending_probes(self) -> int:
        """How many probes of ours wait for their acks: one, or none."""
        return len(self._probes)

    @property
    def pending_indirect_pings(self) -> int:
        """How many pings for others are remembered, at most 4,096."""
        return len(self._relays)

    @property
    def next_deadline(self) -> float | None:
        """The instant at which `expire` has something to do, or None."""
        return self._nack_deadlines[0][0] if self._nack_deadlines else None

    def expire(self, now: float) -> None:
        """Send nacks for relayed pings that nobody answered, and forget old ones."""
        while self._nack_deadlines and self._nack_deadlines[0][0] <= now:
            at, seq_no = heappop(self._nack_deadlines)
            relay = self._relays[seq_no]
            if relay.answered or at > relay.nack_at:
                del self._relays[seq_no]
                continue
            if relay.wants_nack:
                self._outgoing.send(encode(Nack(relay.seq_no)), relay.requester)
            # A late ack is still of use to the asker, who waits for a whole probe interval.
            heappush(self._nack_deadlines, (at + self._membership.timing.probe_interval, seq_no))

    def _next_seq_no(self) -> int:
        self._seq_no = (self._seq_no + 1) % _SEQUENCE_NUMBERS
        return self._seq_no

    def _ping(self, seq_no: int, node: str) -> bytes:
        addr, port = self._source
        return encode(Ping(seq_no, node, addr, port, self._name))
