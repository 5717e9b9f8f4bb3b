"""A member as users see it: a frozen record, replaced with each change."""

from collections.abc import Mapping

import attrs

from trioserf.address import Address
from trioserf.wire.serf_messages import Status
from trioserf.wire.swim_messages import OUR_VERSIONS, Versions


@attrs.frozen
class Member:
    """A snapshot of a member.

    Attributes:
        name: the member's name.
        address: its advertised address.
        tags: its tags.
        status: its status; NONE occurs only in responses of other members.
        versions: the protocol versions that it announced.
    """

    name: str
    address: Address
    tags: Mapping[str, str]
    status: Status
    versions: Versions = OUR_VERSIONS

    @property
    def status_text(self) -> str:
        """Serf's name of the status: none, alive, leaving, left or failed."""
        return self.status.name.lower()
