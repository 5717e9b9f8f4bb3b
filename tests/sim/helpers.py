"""Messages from an address that no member has."""

from typing import Final

from trioserf.sim.cluster import SimCluster
from trioserf.wire.packet import PacketCodec
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import Message

UNKNOWN_ADDRESS: Final = ("10.9.9.9", 7946)


def inject(cluster: SimCluster, *messages: Message, to: str = "n1") -> None:
    """Send messages to a member, each in its own packet, from `UNKNOWN_ADDRESS`."""
    sender = cluster.network.open(UNKNOWN_ADDRESS)
    for message in messages:
        for packet in PacketCodec(keyring=None).pack([encode(message)], crc=False):
            sender.send_packet(packet, cluster.members[to].address)
