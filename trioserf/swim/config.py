"""Timings of membership with their three profiles, and the switches of the member table.

See swim/README.md, § Timing profiles.
"""

import math
import re
from collections.abc import Callable
from typing import Final

import attrs
from attrs import validators as v

_PUSH_PULL_SCALED_FROM = 32
_VALID_NAME = re.compile(r"[A-Za-z0-9.-]{1,128}")

MAX_MEMBERS: Final = 32_768
"""Members of the largest cluster that is to be expected."""


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


def any_name(_name: str) -> bool:
    """Accept every name, as memberlist does."""
    return True


def valid_node_name(name: str) -> bool:
    """Accept what Serf calls a valid node name: 1 to 128 letters, digits, dashes and dots."""
    return _VALID_NAME.fullmatch(name) is not None


def any_address(_addr: bytes) -> bool:
    """Accept members from everywhere."""
    return True


@attrs.frozen(slots=True, kw_only=True)
class SwimOptions:
    """Switches of the member table.

    Attributes:
        lha_probe: keep a local health score (Lifeguard §IV-A); off, it is 0 for ever.
        lha_suspicion: shorten suspicions by confirmations (§IV-B); off, they last the minimum.
        buddy: tell a suspect that it is one together with the ping (§IV-C), and one that is gone
            for us, should it ping us, with the ack. The table does nothing about it: the failure
            detector reads it here.
        dead_node_reclaim_time: how long a member must have been dead before another address may
            take over its name, in seconds; 0 forbids it.
        allowed: whether members may come from this address (4 or 16 raw bytes).
        validate_name: whether members may have this name.
        largest_broadcast: the longest message that any packet has room for, in bytes; longer
            ones cannot be gossiped and are not queued.
        max_members: members that are known at once, those lately gone included; further ones
            are refused. Names come from anybody in the cluster, and memory has an end.

    Raises:
        ValueError: a negative time, or no room for any message.
    """

    lha_probe: bool = True
    lha_suspicion: bool = True
    buddy: bool = True
    dead_node_reclaim_time: float = attrs.field(default=0.0, validator=v.ge(0))
    allowed: Callable[[bytes], bool] = any_address
    validate_name: Callable[[str], bool] = any_name
    largest_broadcast: int = attrs.field(default=65_507, validator=v.ge(1))
    max_members: int = attrs.field(default=MAX_MEMBERS, validator=v.ge(1))
