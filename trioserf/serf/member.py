"""A member as the Serf layer and its users see it: a frozen record, replaced when it changes."""

from collections.abc import Mapping

import attrs

from trioserf.address import Address
from trioserf.wire.serf_messages import Status
from trioserf.wire.swim_messages import OUR_VERSIONS, Versions


@attrs.frozen
class Member:
    """One member at one moment.

    `versions` are the protocol ranges it announced. `status` NONE occurs only in answers of peers.
    """

    name: str
    address: Address
    tags: Mapping[str, str]
    status: Status
    versions: Versions = OUR_VERSIONS

    @property
    def status_text(self) -> str:
        """The status in Serf's spelling: none, alive, leaving, left or failed."""
        return self.status.name.lower()
