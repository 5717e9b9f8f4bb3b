"""How a member table may be told to behave; everything that is not a timing."""

import re
from collections.abc import Callable
from typing import Final

import attrs
from attrs import validators as v

_VALID_NAME = re.compile(r"[A-Za-z0-9.-]{1,128}")

MAX_MEMBERS: Final = 32_768
"""Members of the largest cluster that is to be expected."""


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
