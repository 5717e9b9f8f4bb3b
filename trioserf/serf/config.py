"""The configuration of the Serf layer, with Serf's defaults."""

import attrs
from attrs import validators as v

from trioserf.settings import checked_types, setting
from trioserf.value_objects import ValueObject
from trioserf.wire.serf_codec import USER_EVENT_HARD_LIMIT


def _limit(default: int, least: int = 1) -> int:
    value: int = attrs.field(default=default, validator=v.ge(least))
    return value


@attrs.frozen(eq=False, repr=False, kw_only=True, field_transformer=checked_types)
class SerfOptions(ValueObject):
    """Limits in bytes and counts, durations in seconds.

    Attributes:
        event_buffer_bytes: all buffered user events.
        query_buffer_bytes: all buffered query ids, about 100 bytes each.
        intents_kept: buffered intents about unknown members.
        pending_queries: received queries without a response; above it, the oldest are dropped.
        running_queries: queries of our own at once.
        unexpected_responders: names from which a query accepts responses beside its members.

    Raises:
        TypeError: a value of a wrong type.
        ValueError: a limit outside its range.
    """

    reconnect_timeout: float = setting(
        24 * 3600.0, "a member that failed this long ago is erased", serf=True, least=0
    )
    tombstone_timeout: float = setting(
        24 * 3600.0, "a member that left this long ago is erased", serf=True, least=0
    )
    user_event_size_limit: int = setting(
        512,
        f"bytes of a user event, up to {USER_EVENT_HARD_LIMIT}",
        serf=True,
        least=1,
        most=USER_EVENT_HARD_LIMIT,
    )
    query_size_limit: int = setting(1024, "bytes of an encoded query", serf=True, least=1)
    query_response_size_limit: int = setting(
        1024, "bytes of a response in a packet; a larger one is sent by stream", serf=True, least=1
    )
    broadcast_timeout: float = setting(
        5.0, "how long leaving may take, `1s` or more", serf=True, least=0
    )
    disable_name_resolution: bool = setting(
        False, "do not query the cluster if another member claims our name", serf=True
    )

    event_buffer: int = setting(
        512, "Lamport times of user events remembered against duplicates", least=1
    )
    query_buffer: int = setting(512, "the same for queries", least=1)
    answer_cap: int = setting(
        64 * 1024,
        "bytes of a response by stream; below `query_response_size_limit` none is sent by stream",
        least=0,
    )
    flap_timeout: float = setting(
        60.0, "a failed member that is back within this time has flapped", least=0
    )
    intent_timeout: float = setting(
        300.0, "how long intents about unknown members are kept", least=0
    )
    leave_propagate_delay: float = setting(
        1.0, "how long the last broadcasts of a leave may take", least=0
    )
    query_timeout_mult: int = setting(
        16, "default timeout of a query: `gossip_interval` × this × ⌈log10(n + 1)⌉", least=1
    )
    queue_depth_warning: int = setting(
        128, "broadcasts in one queue that cause a warning", least=1
    )
    max_queue_depth: int = setting(
        4096, "broadcasts in one queue; beyond that the most sent ones are dropped", least=1
    )
    min_queue_depth: int = setting(
        0,
        "if over 0, that limit is twice the number of members instead, and at least this",
        least=0,
    )

    event_buffer_bytes: int = _limit(4 * 1024 * 1024)
    query_buffer_bytes: int = _limit(4 * 1024 * 1024)
    intents_kept: int = _limit(8192)
    pending_queries: int = _limit(1024)
    running_queries: int = _limit(1024)
    unexpected_responders: int = _limit(1024, 0)
