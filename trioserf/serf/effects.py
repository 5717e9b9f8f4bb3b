"""What the Serf layer wants done; its owner drains these lists after every call."""

import attrs

from trioserf.address import Address
from trioserf.counters import Counters
from trioserf.serf.events import Event


@attrs.frozen(slots=True)
class DirectMessage:
    """Send these bytes as a user message to one member: as a packet, or by a stream of its own."""

    address: Address
    node: str
    data: bytes
    stream: bool = False


@attrs.frozen(slots=True)
class LargeBroadcast:
    """News that fits no packet: send these bytes to members by streams of their own.

    Attributes:
        data: the encoded message.
        to_all: everyone is to get it from us, who began it; else it is for a few chosen at random,
            each of whom passes it on in turn.
    """

    data: bytes
    to_all: bool


@attrs.frozen(slots=True)
class NameConflictLost:
    """The cluster holds our name for somebody else's: shut down, without a leave."""

    matching: int
    answers: int


Order = NameConflictLost


@attrs.define(slots=True)
class Effects:
    """What happened and what is to be done, in order.

    Attributes:
        events: for users and handlers.
        sends: messages to single members.
        spreads: messages to many members that fit no packet.
        orders: for the node itself.
        flaps: members that came back soon after they had failed, so far.
        tally: counts for metrics.
    """

    events: list[Event] = attrs.Factory(list)
    direct_messages: list[DirectMessage] = attrs.Factory(list)
    large_broadcasts: list[LargeBroadcast] = attrs.Factory(list)
    shutdown_orders: list[Order] = attrs.Factory(list)
    flaps: int = 0
    counters: Counters = attrs.Factory(Counters)
