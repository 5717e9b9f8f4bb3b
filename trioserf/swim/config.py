"""Every timing and multiplier of membership, and the three profiles (spec: timing profiles)."""

import math

import attrs
from attrs import validators as v

_PUSH_PULL_SCALED_FROM = 32


def _positive(default: float) -> float:
    value: float = attrs.field(default=default, validator=v.gt(0))
    return value


def _count(default: int, least: int) -> int:
    value: int = attrs.field(default=default, validator=v.ge(least))
    return value


@attrs.frozen(slots=True, kw_only=True)
class Timing:
    """Timings in seconds, multipliers and counts; the defaults are the profile for a LAN.

    Raises:
        ValueError: a duration is not positive, or a count is below its least value.
    """

    tcp_timeout: float = _positive(10.0)
    indirect_checks: int = _count(3, 0)
    retransmit_mult: int = _count(4, 1)
    suspicion_mult: int = _count(4, 1)
    suspicion_max_timeout_mult: int = _count(6, 1)
    push_pull_interval: float = _positive(30.0)
    probe_timeout: float = _positive(0.5)
    probe_interval: float = _positive(1.0)
    awareness_max_multiplier: int = _count(8, 1)
    gossip_nodes: int = _count(3, 1)
    gossip_interval: float = _positive(0.2)
    gossip_to_the_dead_time: float = _positive(30.0)


LAN = Timing()
WAN = Timing(
    tcp_timeout=30.0,
    suspicion_mult=6,
    push_pull_interval=60.0,
    probe_timeout=3.0,
    probe_interval=5.0,
    gossip_nodes=4,
    gossip_interval=0.5,
    gossip_to_the_dead_time=60.0,
)
LOCAL = Timing(
    tcp_timeout=1.0,
    indirect_checks=1,
    retransmit_mult=2,
    suspicion_mult=3,
    push_pull_interval=15.0,
    probe_timeout=0.2,
    gossip_interval=0.1,
    gossip_to_the_dead_time=15.0,
)
PROFILES = {"lan": LAN, "wan": WAN, "local": LOCAL}


def push_pull_scale(interval: float, n: int) -> float:
    """Stretch the interval of push/pulls in a cluster of n members (spec: push/pull loop).

    Every doubling beyond 32 members adds one interval, so that the traffic of all exchanges,
    each of which carries all members, grows no faster than it must.

    Args:
        interval: seconds.
        n: the estimated number of members.

    Returns:
        Seconds.
    """
    if n <= _PUSH_PULL_SCALED_FROM:
        return interval
    return interval * (math.ceil(math.log2(n) - math.log2(_PUSH_PULL_SCALED_FROM)) + 1)
