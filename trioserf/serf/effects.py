"""Effects of the Serf layer: its owner runs and clears them after every call."""

import attrs

from trioserf.address import Address
from trioserf.counters import Counters
from trioserf.serf.events import Event
from trioserf.value_objects import ValueObject
from trioserf.wire.errors import WireError


@attrs.frozen(eq=False, repr=False)
class DirectMessage(ValueObject):
    """A message to one member, sent as a user message in a packet or on a stream of its own."""

    address: Address
    node: str
    data: bytes
    stream: bool = False


@attrs.frozen(eq=False, repr=False)
class LargeBroadcast(ValueObject):
    """A broadcast too large for a packet, sent to members on streams of their own.

    Attributes:
        data: the encoded message.
        to_all: whether we send it to all members; else to a few random ones, which forward it.
    """

    data: bytes
    to_all: bool


@attrs.frozen(eq=False, repr=False)
class NameConflictLost(ValueObject):
    """Our name belongs to another member: shut down, without a leave.

    Attributes:
        matching: responses that gave our name to us.
        responses: all responses. If there are none, or half of them are for us, we joined last.
        other: the address of the other member.
    """

    matching: int
    responses: int
    other: Address


Order = NameConflictLost


@attrs.define(eq=False, repr=False)
class Effects:
    """Effects in the order of their causes.

    Attributes:
        events: for users and handlers.
        direct_messages: messages to single members.
        large_broadcasts: broadcasts too large for a packet.
        shutdown_orders: reasons for the node to shut down.
        drops: reasons for which a part of a message was not handled.
        flaps: how many members have rejoined soon after they failed.
        counters: counters for metrics.
    """

    events: list[Event] = attrs.Factory(list)
    direct_messages: list[DirectMessage] = attrs.Factory(list)
    large_broadcasts: list[LargeBroadcast] = attrs.Factory(list)
    shutdown_orders: list[Order] = attrs.Factory(list)
    drops: list[WireError] = attrs.Factory(list)
    flaps: int = 0
    counters: Counters = attrs.Factory(Counters)
