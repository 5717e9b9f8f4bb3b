"""The failure detector: pings, indirect pings, acks and nacks; it never waits.

It keeps the pending sequence numbers: of our own probes, and of pings on behalf of other members.
The caller decides when to probe and how long to wait (swim/README.md, § Probing).
"""

import logging
import random
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import Final, Literal

import attrs

from trioserf.address import Address, address_of, packed
from trioserf.printable import short_name
from trioserf.swim.events import Reason
from trioserf.swim.memberlist import Memberlist
from trioserf.swim.node_record import NodeRecord
from trioserf.swim.packet_outbox import PacketOutbox, supports_crc
from trioserf.swim.peer_coordinates import PeerCoordinates
from trioserf.swim.reply_limits import ReplyLimits
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import LEFT, SUSPECT, Ack, Dead, IndirectPing, Nack, Ping, Suspect

_log = logging.getLogger("trioserf.memberlist")

_NACKS_FROM_PROTOCOL: Final = 4
_STREAM_PINGS_FROM_PROTOCOL: Final = 3
MAX_INDIRECT_PINGS: Final = 4096
"""Indirect pings pending at once; further requests are ignored, because each takes memory."""
_SEQUENCE_NUMBERS: Final = 1 << 32


StreamReach = Literal["untried", "acked", "refused", "silent"]
"""What a ping on a stream has shown: none was sent; it was acked, refused, or not answered."""
_REASONS: Final[Mapping[StreamReach, Reason]] = {
    "untried": "no ack",
    "refused": "refused",
    "silent": "unreachable",
}


@attrs.define(eq=False, repr=False)
class Probe:
    """One probe of one member.

    Attributes:
        seq_no: the sequence number of its pings.
        record: the probed member.
        incarnation: the member's incarnation at the start.
        address: the pinged address.
        started: the instant of the ping.
        timeout: total duration in seconds, scaled by our health score.
        on_ack: called at the first ack.
        expected_nacks: number of peers that owe a nack.
        nacks: number of received nacks.
        acked: whether an ack arrived, directly or through a peer.
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
        """Whether the member acknowledges pings on TCP streams."""
        return self.record.versions.protocol_max >= _STREAM_PINGS_FROM_PROTOCOL


@attrs.define(eq=False, repr=False)
class _IndirectPing:
    """A ping on behalf of another member, which receives the ack or nack."""

    seq_no: int
    requester: Address
    wants_nack: bool
    nack_at: float
    acked: bool = False


class FailureDetector:
    """The failure detector of one node.

    Args:
        memberlist: the member table.
        address: our advertised address.
        outbox: takes packets to send.
        coordinates: network coordinates.
        replies: limits what is sent to addresses that are not members'.
        rng: source of the first sequence number.
        digest: returns what each ping and ack to a member carries at a time.
        on_digest: receives what a member's ping or ack carried, and the time.
        release: our release, which acks carry.
        on_release: receives the name of a member that acknowledged a probe, and the release in its
            ack; empty if the ack has none, as those of Serf.
    """

    def __init__(
        self,
        memberlist: Memberlist,
        address: Address,
        *,
        outbox: PacketOutbox,
        coordinates: PeerCoordinates,
        replies: ReplyLimits,
        rng: random.Random,
        digest: Callable[[float], bytes],
        on_digest: Callable[[Address, bytes, float], None],
        release: str,
        on_release: Callable[[str, str], None],
    ) -> None:
        self._memberlist = memberlist
        self._digest = digest
        self._on_digest = on_digest
        self._release = release
        self._on_release = on_release
        self._name = memberlist.name
        self._source = packed(address.host), address.port
        self._outbox = outbox
        self._coordinates = coordinates
        self._replies = replies
        self._seq_no = rng.randrange(_SEQUENCE_NUMBERS)
        self._probes: dict[int, Probe] = {}
        self._indirect_pings: dict[int, _IndirectPing] = {}
        self._nack_deadlines: list[tuple[float, int]] = []

    # --- our own probes ---

    def start_probe(self, now: float, on_ack: Callable[[], None]) -> Probe | None:
        """Ping the next member of the round; return None if there is none."""
        record = self._memberlist.members.next_probe(now)
        if record is None:
            return None
        memberlist, timing = self._memberlist, self._memberlist.timing
        probe = Probe(
            self._next_seq_no(),
            record,
            record.incarnation,
            record.address,
            now,
            memberlist.awareness.scale_timeout(timing.probe_interval),
            on_ack,
        )
        self._probes[probe.seq_no] = probe
        ping = self._ping(probe.seq_no, record.name, self._digest(now))
        if record.state is SUSPECT and memberlist.options.buddy:
            suspect = encode(Suspect(record.incarnation, record.name, self._name))
            crc = supports_crc(record)
            self._outbox.send_unfilled([ping, suspect], record.address, crc=crc)
        else:
            self._outbox.send(ping, record.address)
        return probe

    def send_indirect_pings(self, probe: Probe) -> None:
        """Ask random peers to ping the member, with a nack where they support it."""
        record = probe.record
        peers = self._memberlist.members.k_random_nodes(
            self._memberlist.timing.indirect_checks, exclude=(record.name,)
        )
        for peer in peers:
            nack = peer.versions.protocol_max >= _NACKS_FROM_PROTOCOL
            probe.expected_nacks += nack
            addr, port = self._source
            request = IndirectPing(
                probe.seq_no, record.addr, record.port, record.name, nack, addr, port, self._name
            )
            self._outbox.send(encode(request), peer.address)

    def conclude_probe(self, probe: Probe, now: float, reach: StreamReach) -> None:
        """Conclude a probe at its end: suspect the member unless an ack came, or by TCP.

        Args:
            probe: the probe.
            now: the current instant.
            reach: what a stream ping has shown.
        """
        if probe.acked:
            return
        self.drop_probe(probe)
        if reach == "acked":
            _log.warning(
                "'%(member)s' answers on a stream, but not to packets; check that UDP gets"
                " through",
                {"member": short_name(probe.record.name)},
            )
            self._memberlist.probe_succeeded(probe.record)
            return
        self._memberlist.probe_failed(
            probe.record,
            probe.incarnation,
            probe.expected_nacks,
            probe.nacks,
            now,
            _REASONS[reach],
        )

    def drop_probe(self, probe: Probe) -> None:
        """Drop a probe without a conclusion."""
        self._probes.pop(probe.seq_no, None)

    def stream_ping(self, name: str) -> bytes:
        """Return the encoded ping for a TCP stream, whose ack has the sequence number 0."""
        return self._ping(0, name)

    # --- received messages ---

    def handle_ping(self, ping: Ping, source: Address, now: float) -> None:
        """Acknowledge a ping for our name; report to a dead or left sender that it is dead.

        A member that restarts with its old incarnation is still dead to members that recorded its
        death. Send it that Dead message with the ack, so that it refutes at once instead of at
        its next push/pull, as a suspect does (Lifeguard §IV-C).
        """
        if ping.node and ping.node != self._name:
            _log.warning(
                "ping for '%s', but this is '%s'; from %s",
                short_name(ping.node),
                self._name,
                source,
            )
            return
        to = source
        if ping.source_port and ping.source_addr:
            to = address_of(ping.source_addr, ping.source_port)
        if not self._replies.is_member(ping.source_node, to):
            # Its host gets no broadcasts, which members would miss then.
            ack = self._coordinates.ack(ping.seq_no)
            if to == source or self._replies.allows("", to, len(ack), now):
                self._outbox.send_unfilled([ack], to, crc=False)
            return
        if ping.digest:
            self._on_digest(to, ping.digest, now)
        self._outbox.send(self._coordinates.ack(ping.seq_no, self._digest(now), self._release), to)
        memberlist = self._memberlist
        if not memberlist.options.buddy:
            return
        sender = memberlist.records.get(ping.source_node)
        if sender is not None and sender.is_dead_or_left and sender.name != self._name:
            declared_by = sender.name if sender.state is LEFT else self._name
            self._outbox.send(encode(Dead(sender.incarnation, sender.name, declared_by)), to)

    def handle_indirect_ping(self, request: IndirectPing, source: Address, now: float) -> None:
        """Ping a member on behalf of another."""
        if not request.port or len(self._indirect_pings) >= MAX_INDIRECT_PINGS:
            return
        requester = source
        if request.source_port and request.source_addr:
            requester = address_of(request.source_addr, request.source_port)
        seq_no = self._next_seq_no()
        ping = self._ping(seq_no, request.node)
        target = address_of(request.target, request.port)
        if not (
            self._replies.allows(request.node, target, len(ping), now)
            and self._replies.allows(request.source_node, requester, len(ping), now)
        ):
            return
        nack_at = now + self._memberlist.timing.probe_timeout
        self._indirect_pings[seq_no] = _IndirectPing(
            request.seq_no, requester, request.nack, nack_at
        )
        heappush(self._nack_deadlines, (nack_at, seq_no))
        self._outbox.send(ping, target)

    def handle_ack(self, ack: Ack, now: float) -> None:
        """End our own probe with this sequence number, or forward the ack to the requester."""
        probe = self._probes.pop(ack.seq_no, None)
        if probe is not None:
            probe.acked = True
            self._memberlist.probe_succeeded(probe.record)
            if now - probe.started <= self._memberlist.timing.probe_timeout:
                self._coordinates.on_rtt(probe.record.name, ack.payload, now - probe.started)
            if ack.digest:
                self._on_digest(probe.address, ack.digest, now)
            if ack.release or ack.payload:  # not so in an ack that another member forwarded
                self._on_release(probe.record.name, ack.release)
            probe.on_ack()
            return
        pending = self._indirect_pings.get(ack.seq_no)
        if pending is not None and not pending.acked:
            pending.acked = True
            self._outbox.send(encode(Ack(pending.seq_no)), pending.requester)

    def handle_nack(self, nack: Nack) -> None:
        """Count a nack: the peer works, but got no ack from the probed member."""
        probe = self._probes.get(nack.seq_no)
        if probe is not None:
            probe.nacks += 1

    # --- deadlines ---

    @property
    def pending_probes(self) -> int:
        """Number of our own probes without an ack, 0 or 1."""
        return len(self._probes)

    @property
    def pending_indirect_pings(self) -> int:
        """Number of pings on behalf of others, at most `MAX_INDIRECT_PINGS`."""
        return len(self._indirect_pings)

    @property
    def next_deadline(self) -> float | None:
        """The instant of the next `expire`, or None."""
        return self._nack_deadlines[0][0] if self._nack_deadlines else None

    def expire(self, now: float) -> None:
        """Send nacks for pings on behalf of others without an ack, and drop old ones."""
        while self._nack_deadlines and self._nack_deadlines[0][0] <= now:
            at, seq_no = heappop(self._nack_deadlines)
            pending = self._indirect_pings[seq_no]
            if pending.acked or at > pending.nack_at:
                del self._indirect_pings[seq_no]
                continue
            if pending.wants_nack:
                self._outbox.send(encode(Nack(pending.seq_no)), pending.requester)
            # Forward a late ack too: the requester waits for a whole probe interval.
            heappush(self._nack_deadlines, (at + self._memberlist.timing.probe_interval, seq_no))

    def _next_seq_no(self) -> int:
        self._seq_no = (self._seq_no + 1) % _SEQUENCE_NUMBERS
        return self._seq_no

    def _ping(self, seq_no: int, node: str, digest: bytes = b"") -> bytes:
        addr, port = self._source
        return encode(Ping(seq_no, node, addr, port, self._name, digest))
