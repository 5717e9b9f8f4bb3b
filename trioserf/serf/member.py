"""A member as users see it: a frozen record, replaced with each change."""

from collections.abc import Mapping
from typing import Final, get_args

import attrs

from trioserf.address import Address
from trioserf.results import MemberStatus
from trioserf.value_objects import ValueObject
from trioserf.wire.serf_messages import Status
from trioserf.wire.swim_messages import OUR_VERSIONS, Versions

_STATUSES: Final[tuple[MemberStatus, ...]] = get_args(MemberStatus)


@attrs.frozen(eq=False, repr=False)
class Member(ValueObject):
    """A snapshot of a member.

    Attributes:
        name: the member's name.
        address: its advertised address.
        tags: its tags.
        status_code: its status, numbered as on the wire.
        versions: the protocol versions that it announced.
        release: the release of trioserf that it runs; empty until its first ack, and for members
            that do not send it, as those of Serf.
    """

    name: str
    address: Address
    tags: Mapping[str, str]
    status_code: Status
    versions: Versions = OUR_VERSIONS
    release: str = ""

    @property
    def status(self) -> MemberStatus:
        """Serf's name of the status; `none` occurs only in responses of other members."""
        return _STATUSES[self.status_code]
