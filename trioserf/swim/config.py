"""Timings of membership with their three profiles, and the switches of the member table.

See swim/README.md, § Timing profiles.
"""

import math
import re
from collections.abc import Callable

import attrs
from attrs import validators as v

from trioserf.settings import checked_types, setting
from trioserf.value_objects import ValueObject

_PUSH_PULL_SCALED_FROM = 32
_VALID_NAME = re.compile(r"[A-Za-z0-9.-]{1,128}")


@attrs.frozen(eq=False, repr=False, kw_only=True, field_transformer=checked_types)
class Timing(ValueObject):
    """Timings in seconds, multipliers and counts; the defaults are the LAN profile.

    Raises:
        TypeError: a value of a wrong type.
        ValueError: a duration is not positive, or a count is below its least value.
    """

    probe_interval: float = setting(1.0, "time between two probes", above=0)
    probe_timeout: float = setting(
        0.5, "time until other members are asked to ping the member", above=0
    )
    indirect_checks: int = setting(3, "members asked to ping it", least=0)
    suspicion_mult: int = setting(
        4, "least suspicion timeout: `probe_interval` × this × max(1, log10(n))", least=1
    )
    suspicion_max_timeout_mult: int = setting(
        6, "greatest suspicion timeout, as a multiple of the least one", least=1
    )
    awareness_max_multiplier: int = setting(
        8, "limit of the local health score, which lengthens probes", least=1
    )
    gossip_interval: float = setting(
        0.2, "time between two retransmissions of a broadcast", above=0
    )
    gossip_nodes: int = setting(3, "members that get each round of gossip", least=1)
    gossip_to_the_dead_time: float = setting(
        30.0, "how long dead members still get gossip, and are kept in the table", above=0
    )
    retransmit_mult: int = setting(
        4, "transmissions of a broadcast: this × ⌈log10(n + 1)⌉", least=1
    )
    push_pull_interval: float = setting(
        30.0, "time between two push/pulls; longer from 33 members on", above=0
    )
    tcp_timeout: float = setting(10.0, "time limit of a stream", above=0)


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
    """Return the push/pull interval for a cluster of n members (swim/README.md, § Push/pull).

    Each doubling beyond 32 members adds one interval, because each exchange carries all members.

    Args:
        interval: the configured interval, in seconds.
        n: the estimated cluster size.

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
    """Accept names that are valid in Serf: 1 to 128 letters, digits, dashes and dots."""
    return _VALID_NAME.fullmatch(name) is not None


def any_address(_addr: bytes) -> bool:
    """Accept every address."""
    return True


@attrs.frozen(eq=False, repr=False, kw_only=True, field_transformer=checked_types)
class SwimOptions(ValueObject):
    """Switches of the member table.

    Attributes:
        lha_probe: whether to keep a local health score (Lifeguard §IV-A).
        lha_suspicion: whether confirmations shorten suspicions (Lifeguard §IV-B).
        buddy: whether the failure detector sends a suspect the Suspect message with its ping
            (Lifeguard §IV-C), and a dead or left member that pings us the Dead message.
        allowed: returns whether members may have an address (4 or 16 raw bytes).
        validate_name: returns whether members may have a name.
        largest_broadcast: the longest message that fits a packet, in bytes; longer ones are not
            queued.

    Raises:
        TypeError: a value of a wrong type.
        ValueError: a negative time, or a size or count below 1.
    """

    dead_node_reclaim_time: float = setting(
        0.0,
        "how long a member must have been dead before another address may take its name; 0 for"
        " never",
        least=0,
    )
    max_members: int = setting(
        32_768,
        "members in the table, dead and left ones included; further ones are rejected",
        least=1,
        most=1_048_576,
    )
    refusal_timeout: float = setting(
        2.0,
        "time until a member that refuses connections of several others is declared failed; 0 to"
        " wait as long as for a silent one",
        least=0,
    )
    lha_probe: bool = True
    lha_suspicion: bool = True
    buddy: bool = True
    allowed: Callable[[bytes], bool] = any_address
    validate_name: Callable[[str], bool] = any_name
    largest_broadcast: int = attrs.field(default=65_507, validator=v.ge(1))
