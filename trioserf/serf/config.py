"""What the Serf layer can be told, in one place, with Serf's defaults."""

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


@attrs.frozen(slots=True, kw_only=True)
class SerfOptions:
    """Limits in bytes and counts, durations in seconds.

    The first group is Serf's configuration, the second bounds what peers can make us keep.

    Attributes:
        event_buffer: Lamport times of user events remembered against duplicates.
        query_buffer: the same for queries.
        user_event_size_limit: name and payload, and the encoded event; up to 9216.
        query_size_limit: an encoded query.
        query_response_size_limit: an encoded response as a packet.
        answer_cap: an encoded response by stream; below the former: none goes by stream.
        reconnect_timeout: after which a failed member is erased.
        tombstone_timeout: after which a member that left is erased.
        flap_timeout: a failed member back within it has flapped.
        intent_timeout: how long intents about unknown members are kept.
        broadcast_timeout: how long a broadcast is waited for.
        leave_propagate_delay: how long a leave may take to be known.
        gossip_interval: from which the timeout of queries follows.
        query_timeout_mult: the same.
        retransmit_mult: how often a broadcast is repeated (times the logarithm of the size).
        queue_depth_warning: broadcasts in a queue that are worth a warning.
        max_queue_depth: broadcasts in a queue beyond which the most sent ones are dropped.
        min_queue_depth: if over 0, that limit is instead twice the members, at least this.
        name_conflict_resolution: whether the cluster is asked when our name is claimed.
        packet_size: room for one broadcast in a packet; nothing larger is broadcast.
        max_members: members that are known at once; when there are more, those that left or
            failed first are erased.
        event_buffer_bytes: all user events remembered.
        query_buffer_bytes: all queries remembered, at about 100 bytes each.
        intents_kept: intents about unknown members.
        pending_queries: queries remembered for an answer of ours; then the oldest are forgotten.
        asked_queries: queries of ours at once.
        unexpected_answers: names taken from answers to a query that do not belong to its members.

    Raises:
        ValueError: a limit outside its range.
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
    asked_queries: int = _count(1024)
    unexpected_answers: int = _count(1024, 0)
