"""Outgoing packets, each filled up with queued broadcasts."""

from collections.abc import Iterable

from trioserf.address import Address
from trioserf.swim.broadcast_queue import FairFiller
from trioserf.swim.node_record import NodeRecord
from trioserf.wire.packet import PART_OVERHEAD, PacketCodec

Packet = tuple[bytes, Address]

_CRC_FROM_PROTOCOL = 5
_FULL = 0.9
"""Share of a full packet that is filled; the next message may not fit the rest."""


def supports_crc(record: NodeRecord | None) -> bool:
    """Return whether a member is known to accept packets with a checksum."""
    return record is not None and record.versions.protocol_max >= _CRC_FROM_PROTOCOL


class PacketOutbox:
    """Packets to send, and the queues from which they are filled.

    Args:
        codec: encodes packets.
        filler: the broadcast queues.

    Attributes:
        packets: the packets to send; the owner drains the list.
    """

    __slots__ = ("codec", "filler", "packets")

    def __init__(self, codec: PacketCodec, filler: FairFiller) -> None:
        self.packets: list[Packet] = []
        self.codec = codec
        self.filler = filler

    def send(self, message: bytes, to: Address) -> None:
        """Send a message in a packet filled up with broadcasts."""
        parts = [message]
        if self.filler:
            budget = self.codec.budget(len(message))
            parts += self.filler.fill(PART_OVERHEAD, budget, to, spare=True)
        self._pack(parts, to, crc=False)

    def send_unfilled(self, parts: list[bytes], to: Address, *, crc: bool) -> None:
        """Send messages in one packet, without broadcasts."""
        self._pack(parts, to, crc=crc)

    def gossip(self, targets: Iterable[NodeRecord], most: int) -> int:
        """Send a packet of broadcasts to each of these members that lacks some.

        Args:
            targets: the members, in a random order.
            most: the maximum number of packets.

        Returns:
            The number of packets that were not full.
        """
        room = self.codec.budget(0)
        not_full = 0
        for record in targets:
            if not self.filler or not most:
                break
            parts = self.filler.fill(PART_OVERHEAD, room, record.address)
            if parts:
                most -= 1
                used = sum(map(len, parts)) + PART_OVERHEAD * len(parts)
                not_full += used < _FULL * room
                self._pack(parts, record.address, crc=supports_crc(record))
        return not_full

    def _pack(self, parts: list[bytes], to: Address, *, crc: bool) -> None:
        for data in self.codec.pack(parts, crc=crc):
            self.packets.append((data, to))
