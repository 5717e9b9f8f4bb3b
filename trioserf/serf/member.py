"""A member as users see it: a frozen record, replaced with each change."""

from collections.abc import Mapping
from typing import Final, get_args

import attrs

from trioserf.address import Address
from trioserf.results import MemberStatus
from trioserf.wire.serf_messages import Status
from trioserf.wire.swim_messages import OUR_VERSIONS, Versions

_STATUSES: Final[tuple[MemberStatus, ...]] = get_args(MemberStatus)


@attrs.frozen
class Member:
    """A snapshot of a member.

    Attributes:
        name: the member's name.
        address: its advertised address.
        tags: its tags.
        status_code: its status, numbered as on the wire.
        versions: the protocol versions that it announced.
    """

    name: str
    address: Address
    tags: Mapping[str, str]
    status_code: Status
    versions: Versions = OUR_VERSIONS

    @property
    def status(self) -> MemberStatus:
        """Serf's name of the status; `none` occurs only in responses of other members."""
        return _STATUSES[self.status_code]
