"""Limits of what we send to addresses that a message names (see swim/README.md, § Replies).

The address in a message can be forged, so that its host gets packets that it did not ask for. A
member may get any number at its own address. Other addresses get little: they may be forged, or
those of members that we do not know yet.
"""

from collections.abc import Callable
from typing import Final

from trioserf.address import Address, packed
from trioserf.rate_limit import SourceLimits, TokenBucket

_BURST, _RATE = 2048, 1024
"""Bytes at once, and bytes a second, to the host of an address that is not a member's."""
_TOTAL_BURST, _TOTAL_RATE = 16_384, 16_384
"""The same to all such hosts together."""
MAX_PINGS: Final = 4
"""Pings and indirect pings that one packet may contain; members send one."""


class ReplyLimits:
    """Decides whether to send a reply.

    Args:
        find: returns the address of a member.
        allowed: returns whether members may have an address (4 or 16 raw bytes).
    """

    def __init__(
        self, find: Callable[[str], Address | None], allowed: Callable[[bytes], bool]
    ) -> None:
        self._find = find
        self._allowed = allowed
        self._limits = SourceLimits(_RATE, _BURST, TokenBucket(_TOTAL_RATE, _TOTAL_BURST))

    def is_member(self, name: str, address: Address) -> bool:
        """Return whether a member with this name has this address."""
        return self._find(name) == address

    def allows(self, name: str, address: Address, size: int, now: float) -> bool:
        """Return whether this many bytes may be sent to an address in a message.

        Args:
            name: the name of the member to which the message refers; it may be unknown.
            address: the address.
            size: bytes of the reply.
            now: the current time.
        """
        if self._find(name) == address:
            return True
        return self._allowed(packed(address.host)) and self._limits.take(address.host, size, now)
