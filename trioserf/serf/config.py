"""The configuration of the Serf layer, with Serf's defaults."""

import attrs
from attrs import validators as v

from trioserf.swim.config import MAX_MEMBERS
from trioserf.wire.serf_codec import USER_EVENT_HARD_LIMIT


def _seconds(default: float) -> float:
    value: float = attrs.field(default=default, validator=v.ge(0))
    return value


def _count(default: int, least: int = 1) -> int:
    value: int = attrs.field(default=default, validator=v.ge(least))
    return value


@attrs.frozen(kw_only=True)
class SerfOptions:
    """Limits in bytes and counts, durations in seconds.

    The first group is Serf's configuration. The second bounds the memory that peers can use.

    Attributes:
        event_buffer: Lamport times of user events kept to detect duplicates.
        query_buffer: the same for queries.
        user_event_size_limit: name plus payload, and the encoded event; at most 9216.
        query_size_limit: an encoded query.
        query_response_size_limit: an encoded response in a packet.
        answer_cap: an encoded response on a stream; below `query_response_size_limit`, no
            response is sent on a stream.
        reconnect_timeout: time after which a failed member is erased.
        tombstone_timeout: time after which a member that left is erased.
        flap_timeout: a failed member that rejoins within this time has flapped.
        intent_timeout: how long intents about unknown members are buffered.
        broadcast_timeout: how long a leave waits for its broadcasts.
        leave_propagate_delay: how long a leave may take to reach all members.
        gossip_interval: the interval from which the default timeout of a query is computed.
        query_timeout_mult: its factor.
        retransmit_mult: transmits of a broadcast, for each power of ten of the cluster's size.
        queue_depth_warning: broadcasts in a queue from which on a warning is logged.
        max_queue_depth: broadcasts in a queue above which those sent most often are dropped.
        min_queue_depth: if above 0, the limit is twice the number of members, but at least this.
        name_conflict_resolution: whether the members vote on a conflict about our name.
        packet_size: room for one broadcast in a packet; larger ones are sent on streams.
        max_members: members in the table; above it, those that left or failed first are erased.
        event_buffer_bytes: all buffered user events.
        query_buffer_bytes: all buffered query ids, about 100 bytes each.
        intents_kept: buffered intents about unknown members.
        pending_queries: received queries without a response; above it, the oldest are dropped.
        running_queries: queries of our own at once.
        unexpected_responders: names from which a query accepts responses beside its members.

    Raises:
        ValueError: a limit is out of its range.
    """

    event_buffer: int = _count(512)
    query_buffer: int = _count(512)
    user_event_size_limit: int = attrs.field(
        default=512, validator=v.and_(v.ge(1), v.le(USER_EVENT_HARD_LIMIT))
    )
    query_size_limit: int = _count(1024)
    query_response_size_limit: int = _count(1024)
    answer_cap: int = _count(64 * 1024, 0)
    reconnect_timeout: float = _seconds(24 * 3600.0)
    tombstone_timeout: float = _seconds(24 * 3600.0)
    flap_timeout: float = _seconds(60.0)
    intent_timeout: float = _seconds(300.0)
    broadcast_timeout: float = _seconds(5.0)
    leave_propagate_delay: float = _seconds(1.0)
    gossip_interval: float = _seconds(0.2)
    query_timeout_mult: int = _count(16)
    retransmit_mult: int = _count(4)
    queue_depth_warning: int = _count(128)
    max_queue_depth: int = _count(4096)
    min_queue_depth: int = _count(0, 0)
    name_conflict_resolution: bool = True

    packet_size: int = _count(1400)
    max_members: int = _count(MAX_MEMBERS)
    event_buffer_bytes: int = _count(4 * 1024 * 1024)
    query_buffer_bytes: int = _count(4 * 1024 * 1024)
    intents_kept: int = _count(8192)
    pending_queries: int = _count(1024)
    running_queries: int = _count(1024)
    unexpected_responders: int = _count(1024, 0)
