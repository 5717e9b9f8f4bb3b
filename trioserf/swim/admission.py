"""Who may become a member here at all: the operator's say in names and addresses."""

import logging

from trioserf.address import address_of
from trioserf.swim.config import SwimOptions
from trioserf.swim.events import Refused
from trioserf.wire.swim_messages import Alive

log = logging.getLogger("trioserf.memberlist")

_NAMES_LOGGED = 256
"""Names come from anybody, so those that were complained of are not remembered without end."""


class AdmissionPolicy:
    """The hooks of the options, and what is said when they refuse somebody.

    Args:
        options: they hold the hooks.
    """

    __slots__ = ("_logged", "_options")

    def __init__(self, options: SwimOptions) -> None:
        self._options = options
        self._logged: set[str] = set()

    def check(self, message: Alive, addr: bytes, *, is_full: bool) -> Refused | None:
        """Give the reason why a member may not come in at this address, or None if it may.

        Args:
            message: what it says of itself.
            addr: its address, in its shortest form.
            is_full: whether it is a stranger, and there is no room for one.
        """
        if is_full:
            reason = f"there are {self._options.max_members} members already (max_members)"
        elif not self._options.validate_name(message.node):
            reason = "its name is not valid"
        elif not self._options.allowed(addr):
            reason = "its address is not allowed"
        else:
            return None
        # Gossip repeats itself; the log need not.
        if message.node not in self._logged and len(self._logged) < _NAMES_LOGGED:
            self._logged.add(message.node)
            where = address_of(addr, message.port)
            log.warning("refusing the member %r at %s: %s", message.node, where, reason)
        return Refused(message.node, addr, message.port, reason)
