"""Admission of members: the operator's conditions on names, addresses and their number."""

import logging
from collections.abc import Collection

from trioserf.address import address_of
from trioserf.printable import short_name
from trioserf.swim.config import SwimOptions
from trioserf.swim.events import Refused
from trioserf.wire.swim_messages import Alive

log = logging.getLogger("trioserf.memberlist")

_MAX_LOGGED = 256
"""Refused names that are logged. Peers choose the names, so the set needs a bound."""


class AdmissionPolicy:
    """Checks alive messages that would add a member or change its address.

    Args:
        options: the hooks and the maximum number of members.
        known: the names of all known members.
    """

    __slots__ = ("_known", "_logged", "_options")

    def __init__(self, options: SwimOptions, known: Collection[str]) -> None:
        self._options = options
        self._known = known
        self._logged: set[str] = set()

    def check(self, message: Alive, addr: bytes) -> Refused | None:
        """Return why a member is refused, or None if it is admitted.

        Args:
            message: its alive message.
            addr: its address, in the shortest form.
        """
        options, known = self._options, self._known
        if len(known) >= options.max_members and message.node not in known:
            reason = f"there are {options.max_members} members already (max_members)"
        elif not options.validate_name(message.node):
            reason = "its name is not valid"
        elif not options.allowed(addr):
            reason = "its address is not allowed"
        else:
            return None
        # Gossip repeats messages; log each name once.
        if message.node not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(message.node)
            address = address_of(addr, message.port)
            log.warning(
                "refusing the member '%s' at %s: %s", short_name(message.node), address, reason
            )
        return Refused(message.node, addr, message.port, reason)
