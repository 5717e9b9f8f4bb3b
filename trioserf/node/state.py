"""The state of a node: membership, Serf's layer and failure detector as one object.

`StateOwner` owns it; it has no task, socket or clock of its own. The owner calls it with messages
and the current time, and finds the effects afterwards: in `pop_stream_messages`,
`pop_large_broadcasts` and `outbox.packets`, in the lists of `serf`, and in `next_suspicion` and
`next_deadline`.
"""

import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from trioserf._version import __version__
from trioserf.address import Address, address_of, packed
from trioserf.errors import TooLarge
from trioserf.node.config import NodeConfig, swim_options
from trioserf.node.drop_counts import DropCounts
from trioserf.node.push_pull_merge import merge_steps, read_state
from trioserf.node.seen_nonces import SeenNonces
from trioserf.serf.effects import DirectMessage
from trioserf.serf.events import QueryReceived
from trioserf.serf.internal_queries import KeyHandler, no_keyring
from trioserf.serf.serf import Serf, earlier
from trioserf.serf.snapshot import LamportTimes
from trioserf.swim.broadcast_queue import FairFiller
from trioserf.swim.events import (
    Conflicted,
    Joined,
    Left,
    MembershipEvent,
    Recovered,
    Refused,
    Suspected,
    Updated,
)
from trioserf.swim.failure_detector import FailureDetector
from trioserf.swim.gossip_pace import GossipPace
from trioserf.swim.memberlist import Memberlist
from trioserf.swim.members import MAX_COVER
from trioserf.swim.packet_outbox import PacketOutbox, supports_crc
from trioserf.swim.peer_coordinates import PeerCoordinates
from trioserf.swim.precedence import is_at_least
from trioserf.swim.reply_limits import MAX_PINGS, ReplyLimits
from trioserf.value_objects import ValueObject
from trioserf.wire.errors import WireError
from trioserf.wire.packet import PacketCodec
from trioserf.wire.serf_payloads import encode_tags
from trioserf.wire.swim_codec import USER, encode
from trioserf.wire.swim_messages import (
    MAX_META,
    OUR_VERSIONS,
    Ack,
    Alive,
    Dead,
    IndirectPing,
    Message,
    Nack,
    Ping,
    PushPull,
    Suspect,
    UserMessage,
)

_USER = bytes((USER,))
_AT_ONCE: Final = 32
"""Messages of a packet handled at once: 3 ms of work; members seldom put more into one."""
_MAX_WAITING: Final = 16
"""Packets whose further messages wait: a megabyte, and a second of a host's longest packets."""


@attrs.frozen(eq=False, repr=False)
class RefusalCheck(ValueObject):
    """A suspect to connect to: its name, address and incarnation."""

    name: str
    address: Address
    incarnation: int


def check_tags(tags: Mapping[str, str]) -> bytes:
    """Return the encoded tags.

    Raises:
        TooLarge: they exceed 512 bytes.
    """
    meta = encode_tags(tags)
    if len(meta) > MAX_META:
        raise TooLarge(f"Encoded length of tags exceeds limit of {MAX_META} bytes")
    return meta


@attrs.define(eq=False, repr=False)
class _Packet:
    """Messages of one packet that are not handled yet.

    Attributes:
        messages: the messages in order.
        source: the sender's address.
        sealed: whether it arrived encrypted.
        is_refuted: whether a suspicion in it has been refuted.
    """

    messages: list[Message]
    source: Address
    sealed: bool
    is_refuted: bool = False


class ClusterState:
    """The whole state of a node.

    Args:
        config: the node's configuration.
        address: the advertised address.
        rng: all randomness.
        has_responder: whether a subscription of this node may respond to a query.
        keys: handles key queries.
        nonce: returns that many unpredictable bytes.

    Attributes:
        membership: the member table of swim.
        serf: Serf's layer.
        detector: the failure detector.
        filler: all broadcast queues.
        outbox: packets to send.
        pace: the pace of gossip.
        coordinates: network coordinates.
        counters: counters for metrics.
        drops: counts of malformed and rejected messages.
        nonces: the nonces of received messages.
        sealer: encrypts and decrypts all gossip.
        tags: our own tags.
        counts_refusals: whether refused connections are evidence of a crash.
        refusal_checks: suspects to which this node must connect.
    """

    def __init__(
        self,
        config: NodeConfig,
        address: Address,
        *,
        rng: random.Random,
        has_responder: Callable[[QueryReceived], bool],
        keys: KeyHandler = no_keyring,
        nonce: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.config = config
        self.address = address
        self.drops = DropCounts()
        self.nonces = SeenNonces()
        self.tags = dict(config.tags)
        self.counts_refusals = config.tcp_pings and config.swim.refusal_timeout > 0
        self.refusal_checks: list[RefusalCheck] = []
        self._rng = rng
        self._admits = config.admits
        codec = PacketCodec(
            keyring=config.keyring,
            label=config.label.encode("utf-8", "surrogateescape"),
            verify_incoming=config.verify_incoming,
            verify_outgoing=config.verify_outgoing,
            nonce=nonce,
            size=config.packet_size,
        )
        self.sealer = codec.sealer
        # Encryption may be turned on while broadcasts wait; they must still fit then.
        options = swim_options(config, codec.largest)
        self.membership = membership = Memberlist(
            config.name,
            packed(address.host),
            address.port,
            timing=config.timing,
            rng=rng,
            on_event=self._apply_membership_event,
            options=options,
        )
        self.counters = membership.counters
        self._received_bytes = self.counters.counter("memberlist.udp.received")
        self._queued = self.counters.values("memberlist.queue.broadcasts")
        self.serf = Serf(
            config.name,
            address,
            rng=rng,
            options=config.serf,
            timing=config.timing,
            swim=options,
            has_responder=has_responder,
            keys=keys,
            may_carry_keys=self._may_carry_keys,
            may_vote=self._may_vote,
            counters=self.counters,
        )
        self.filler = FairFiller((membership.broadcasts, *self.serf.queues.values()))
        self.outbox = PacketOutbox(codec, self.filler)
        self.pace = GossipPace(config.timing)
        self.coordinates = PeerCoordinates(
            config.name, rng, enabled=not config.disable_coordinates, counters=self.counters
        )
        self._replies = ReplyLimits(self._member_address, options.allowed)
        self._waiting: deque[_Packet] = deque()
        self.detector = FailureDetector(
            membership,
            address,
            outbox=self.outbox,
            coordinates=self.coordinates,
            replies=self._replies,
            rng=rng,
            digest=self.serf.repair.digest,
            on_digest=self._observe_digest,
            release=__version__,
            on_release=self.serf.member_acknowledged,
        )

    def start(self, now: float, restore: LamportTimes | None) -> None:
        """Add ourselves to the table; events older than `restore` will be ignored.

        Raises:
            TooLarge: our tags exceed their limit.
        """
        meta = check_tags(self.tags)
        if restore is not None:
            self.serf.restore(restore)
        versions = OUR_VERSIONS._replace(delegate_cur=self.config.protocol)
        self.membership.bootstrap(meta, versions, now)

    # --- packets ---

    def handle_packets(self, packets: Iterable[tuple[bytes, tuple[str, int]]], now: float) -> None:
        """Handle packets of any bytes from the network.

        A packet may have 255 messages, some of which are expensive. Those after the first 32 wait
        for `handle_waiting`, so that other packets are handled in between; packets may arrive in
        any order.
        """
        codec = self.outbox.codec
        decode = codec.decode
        count = self._received_bytes.add
        for data, (host, port) in packets:
            count(len(data))
            source = Address(host, port)
            if self._admits is not None and not self._is_admitted(source, now):
                continue
            messages, error = decode(data)
            if codec.nonce:
                try:
                    self.nonces.add(codec.nonce, now)
                except WireError as replayed:
                    self.drops.add(replayed, source, now)
                    continue
            if len(messages) > MAX_PINGS:
                messages = self._without_excess_pings(messages, source, now)
            if error is not None:
                self.drops.add(error, source, now)
            packet = _Packet(messages, source, bool(codec.nonce))
            if not self._handle_next(packet, now):
                self._waiting.append(packet)
        while len(self._waiting) > _MAX_WAITING:
            self.handle_waiting(now)

    @property
    def has_waiting(self) -> bool:
        """Whether messages wait for `handle_waiting`."""
        return bool(self._waiting)

    def handle_waiting(self, now: float) -> None:
        """Handle the next messages of the packet that has waited longest, if there is one."""
        if self._waiting and self._handle_next(self._waiting[0], now):
            self._waiting.popleft()

    def _handle_next(self, packet: _Packet, now: float) -> bool:
        """Handle the next messages of a packet; return whether they were the last."""
        for message in packet.messages[:_AT_ONCE]:
            self._handle(message, packet, now)
        del packet.messages[:_AT_ONCE]
        return not packet.messages

    def admits(self, source: Address) -> bool:
        """Return whether this address is in the allowed networks."""
        return self._admits is None or self._admits(packed(source.host))

    def _is_admitted(self, source: Address, now: float) -> bool:
        if self.admits(source):
            return True
        error = WireError("not-allowed", "its address is not in the allowed networks")
        self.drops.add(error, source, now)
        return False

    def _without_excess_pings(
        self, messages: list[Message], source: Address, now: float
    ) -> list[Message]:
        """Drop pings over the limit of a packet, each of which would send at least one packet."""
        pings = [one for one in messages if isinstance(one, Ping | IndirectPing)]
        if len(pings) <= MAX_PINGS:
            return messages
        text = f"{len(pings)} pings in one packet, expected at most {MAX_PINGS}"
        self.drops.add(WireError("budget", text), source, now)
        return [one for one in messages if not isinstance(one, Ping | IndirectPing)]

    def _may_vote(self, name: str) -> bool:
        """Return whether a member counts in a name conflict: forged members never answer us."""
        record = self.membership.records.get(name)
        return record is not None and record.is_reached

    def _may_carry_keys(self, sealed: bool) -> bool:
        """Return whether messages about keys may be sent, and handled if they arrived so."""
        return not self.sealer.enabled or (sealed and self.sealer.seals)

    def _member_address(self, name: str) -> Address | None:
        record = self.membership.records.get(name)
        return None if record is None else record.address

    def _observe_digest(self, peer: Address, digest: bytes, now: float) -> None:
        try:
            self.serf.repair.observe(peer, digest, now)
        except WireError as error:
            self.drops.add(error, peer, now)

    def _handle(self, message: Message, packet: _Packet, now: float) -> None:
        source = packet.source
        match message:
            case Ping():
                self.detector.handle_ping(message, source, now)
            case Ack():
                self.detector.handle_ack(message, now)
            case UserMessage():
                self.handle_user_message(message.payload, source, now, sealed=packet.sealed)
            case Alive():
                self.membership.alive(message, now)
            case Suspect():
                self.membership.suspect(message, now)
                if message.node == self.config.name:
                    self._resend_refutation(message, packet, now)
            case Dead():
                self.membership.dead(message, now)
            case IndirectPing():
                self.detector.handle_indirect_ping(message, source, now)
            case Nack():
                self.detector.handle_nack(message)

    def _resend_refutation(self, suspect: Suspect, packet: _Packet, now: float) -> None:
        """Send our Alive message to a member that suspects us in an old incarnation.

        This member has missed our refutation, which is no longer gossiped. Acks do not end its
        suspicion; only the refutation does. One packet gets one refutation, however many
        suspicions it contains.
        """
        local = self.membership.local
        if self.membership.leaving or is_at_least(suspect.incarnation, local.incarnation):
            return
        if packet.is_refuted:
            return
        packet.is_refuted = True
        alive = encode(local.to_alive())
        if self._replies.allows(suspect.source, packet.source, len(alive), now):
            self.outbox.send_unfilled([alive], packet.source, crc=False)

    def handle_user_message(
        self, payload: bytes, source: Address, now: float, *, sealed: bool
    ) -> None:
        """Handle a message of Serf's layer; `sealed` means that it arrived encrypted."""
        try:
            self.serf.handle(payload, now, source, sealed=sealed)
        except WireError as error:
            self.drops.add(error, source, now)
        if self.serf.drops:
            for dropped in self.serf.drops:
                self.drops.add(dropped, source, now)
            self.serf.drops.clear()

    # --- exchanges of states ---

    def merge(self, remote: PushPull, now: float, *, ignore_events: bool = False) -> None:
        """Merge the remote half of a push/pull at once (see `merge_steps`).

        Raises:
            ValueError: the versions are incompatible, or the state is malformed (`WireError`).
        """
        serf_state = read_state(remote.user_state)
        steps = merge_steps(
            self.membership, self.serf, remote, serf_state, ignore_events=ignore_events
        )
        for step in steps:
            step(now)

    # --- requests of users ---

    def set_tags(
        self, changed: Mapping[str, str], delete: Iterable[str], now: float
    ) -> Mapping[str, str]:
        """Change our tags and return the new ones.

        Raises:
            TooLarge: they exceed their limit; nothing has changed.
        """
        tags = {**self.tags}
        for key in delete:
            tags.pop(key, None)
        tags.update(changed)
        meta = check_tags(tags)
        self.tags = tags
        self.membership.update_meta(meta, now)
        return dict(tags)

    def leave(self, now: float, on_done: Callable[[], None]) -> None:
        """Mark ourselves as left and broadcast that."""
        self.membership.leave(now, on_done)

    # --- time ---

    @property
    def has_gossip(self) -> bool:
        """Whether there are broadcasts, and other members."""
        return len(self.membership.records) > 1 and self.filler.has_gossip

    def wants_early_gossip(self, now: float) -> bool:
        """Return whether a round of gossip is due before its interval has passed.

        Messages of the first two rounds do not wait, unless too many packets were sent early. Then
        only messages that fill a packet do not wait: it would be sent in any case.
        """
        filler = self.filler
        # The number of members that one round reaches, which is the transmits it counts.
        fanout = min(self.config.timing.gossip_nodes, self.membership.alive_count - 1)
        if not (filler.has_sent_at_most(fanout) or filler.has_uncovered):
            return False
        if self.pace.allows_early(now):
            return True
        if filler.has_uncovered and self.pace.allows_cover(now):
            return True
        return filler.unsent_bytes() >= self.outbox.codec.budget(0)

    def gossip(self, now: float) -> None:
        """Send one round of broadcasts."""
        members, filler = self.membership.members, self.filler
        if filler.has_uncovered:
            if self.pace.allows_cover(now):
                if targets := members.cover_targets():
                    self.pace.add(self.outbox.gossip(targets, MAX_COVER), now)
                    return
            else:
                filler.drop_cover()
        targets = members.gossip_targets(now)
        self.pace.add(self.outbox.gossip(targets, self.config.timing.gossip_nodes), now)

    def expire_suspicions(self, now: float) -> None:
        """Mark suspects dead that have not refuted in time."""
        self.membership.expire_suspicions(now)

    @property
    def next_suspicion(self) -> float | None:
        """The time at which `expire_suspicions` has work to do, or None."""
        return self.membership.next_suspicion_deadline

    @property
    def next_deadline(self) -> float | None:
        """The time at which `expire` has work to do, or None."""
        return earlier(self.serf.next_deadline, self.detector.next_deadline)

    def expire(self, now: float) -> None:
        """Handle deadlines: end queries, erase leaving members, send nacks."""
        self.serf.expire(now)
        self.detector.expire(now)

    def reap(self, now: float) -> None:
        """Erase members that failed or left too long ago, and their coordinates."""
        self.serf.reap(now)
        self.coordinates.forget_missing(self.serf.member)

    def check_queues(self) -> None:
        """Sample the lengths of the queues, prune those of Serf; call this every 30 seconds."""
        self._queued.append(len(self.membership.broadcasts))
        self.serf.check_queues()

    def stats(self) -> dict[str, object]:
        """Return the group `serf` of `info`."""
        return {
            **self.serf.stats(),
            "health_score": self.membership.awareness.score,
            "encrypted": self.sealer.enabled,
            "coordinate_resets": self.coordinates.resets,
        }

    # --- effects ---

    def pop_stream_messages(self) -> list[DirectMessage]:
        """Send the messages of Serf's layer to single members as packets.

        Returns:
            The messages that need a stream of their own.
        """
        if not self.serf.direct_messages:
            return []
        streams = []
        for direct in self.serf.direct_messages:
            if direct.stream:
                streams.append(direct)
                continue
            crc = supports_crc(self.membership.records.get(direct.node))
            self.outbox.send_unfilled([_USER + direct.data], direct.address, crc=crc)
        self.serf.direct_messages.clear()
        return streams

    def pop_large_broadcasts(self) -> list[DirectMessage]:
        """Return broadcasts too large for a packet, as one stream message for each target.

        Suspects come last, as their streams may time out.
        """
        if not self.serf.large_broadcasts:
            return []
        streams = []
        for broadcast in self.serf.large_broadcasts:
            if broadcast.to_all:
                records = self.membership.records.values()
                targets = [record for record in records if not record.is_dead_or_left]
                self._rng.shuffle(targets)
                targets.sort(key=lambda record: record.state)
            else:
                targets = self.membership.members.k_random_nodes(self.config.timing.gossip_nodes)
            streams += [
                DirectMessage(record.address, record.name, broadcast.data, stream=True)
                for record in targets
                if record.name != self.config.name
            ]
        self.serf.large_broadcasts.clear()
        return streams

    def is_present(self, name: str, address: Address) -> bool:
        """Return whether a member with this address is alive or suspect."""
        record = self.membership.records.get(name)
        return record is not None and not record.is_dead_or_left and record.address == address

    def _apply_membership_event(self, event: MembershipEvent, now: float) -> None:
        """Pass an event of the member table to Serf's layer."""
        match event:
            case Joined(record):
                self.serf.member_joined(
                    record.name, record.address, record.meta, record.versions, now
                )
            case Left(record, _, cause):
                self.serf.member_left(record.name, now, cause)
            case Updated(record):
                self.serf.member_updated(record.name, record.address, record.meta, record.versions)
            case Suspected(record):
                self.serf.member_suspected(record.name)
                if self.counts_refusals and self.membership.must_connect(record):
                    self.refusal_checks.append(
                        RefusalCheck(record.name, record.address, record.incarnation)
                    )
            case Recovered(record):
                self.serf.member_recovered(record.name)
            case Conflicted(record, addr, port):
                self.serf.member_conflicted(record.name, address_of(addr, port), now)
            case Refused():  # logged by the member table
                pass
