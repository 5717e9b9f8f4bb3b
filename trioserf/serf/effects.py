"""What the Serf layer wants done: its owner drains these lists after every call and carries on.

Also the one thing that it needs of others: a codec for its messages.
"""

from collections.abc import Callable, Mapping
from typing import Final

import attrs

from trioserf.address import Address
from trioserf.counters import Counters
from trioserf.serf.events import Event
from trioserf.wire.serf_codec import decode, encode
from trioserf.wire.serf_messages import NodeFilter, SerfMessage, TagFilter
from trioserf.wire.serf_payloads import decode_filter, decode_tags, encode_filter
from trioserf.wire.swim_codec import USER


@attrs.frozen(slots=True, kw_only=True)
class Codec:
    """How messages are spelled. What reads bytes raises a ValueError if they make no sense.

    Attributes:
        encode: one message, type byte included.
        decode: the same back.
        encode_filter: one filter of a query, type byte included.
        decode_filter: the same back.
        decode_tags: a member's metadata as its tags.
        gossip_prefix: what stands before a message that is gossiped.
    """

    encode: Callable[[SerfMessage], bytes]
    decode: Callable[[bytes], SerfMessage]
    encode_filter: Callable[[NodeFilter | TagFilter], bytes]
    decode_filter: Callable[[bytes], NodeFilter | TagFilter]
    decode_tags: Callable[[bytes], Mapping[str, str]]
    gossip_prefix: bytes = b""


SERF_CODEC: Final = Codec(
    encode=encode,
    decode=decode,
    encode_filter=encode_filter,
    decode_filter=decode_filter,
    decode_tags=decode_tags,
    gossip_prefix=bytes((USER,)),
)
"""What the Serf layer of a node speaks."""


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
