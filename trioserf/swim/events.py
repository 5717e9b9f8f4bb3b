"""Events of the member table.

The record in an event is the table's own, not a copy; the table's next change may change it.
"""

from typing import Literal

import attrs

from trioserf.printable import short_name
from trioserf.swim.node_record import NodeRecord
from trioserf.value_objects import ValueObject

Reason = Literal["no ack", "refused", "unreachable", "reported", "push/pull"]
"""Why a member was suspected first: its probe got no ack; it refused a connection; neither packets
nor streams reached it; another member reported it; the table of another member did."""

_TEXTS: dict[Reason, str] = {
    "no ack": "no ack",
    "refused": "connection refused",
    "unreachable": "unreachable by both TCP and UDP",
    "reported": "no reason reported",
    "push/pull": "reported by the table of another member",
}


@attrs.frozen(eq=False, repr=False)
class Cause(ValueObject):
    """Why a member was declared failed.

    Attributes:
        suspected_by: the member that suspected it first, as far as we know; empty if no suspicion
            reached us before.
        reason: why that member did; None if `suspected_by` is empty.
        declared_by: the member that declared it dead.
    """

    suspected_by: str
    reason: Reason | None
    declared_by: str

    @property
    def text(self) -> str:
        """The cause as part of a sentence for users."""
        declared = f"declared failed by '{short_name(self.declared_by)}'"
        if self.reason is None:
            return declared
        by = short_name(self.suspected_by)
        return f"suspected first by '{by}' ({_TEXTS[self.reason]}), {declared}"


@attrs.frozen(eq=False, repr=False)
class Joined:
    """A new, dead or left member became alive. The first event is our own."""

    record: NodeRecord


@attrs.frozen(eq=False, repr=False)
class Left:
    """A member left (`by_itself`), or was declared dead for a cause."""

    record: NodeRecord
    by_itself: bool
    cause: Cause | None = None


@attrs.frozen(eq=False, repr=False)
class Updated:
    """The metadata of a member changed."""

    record: NodeRecord


@attrs.frozen(eq=False, repr=False)
class Suspected:
    """A member became suspect and has time to refute."""

    record: NodeRecord


@attrs.frozen(eq=False, repr=False)
class Recovered:
    """A suspect refuted the suspicion."""

    record: NodeRecord


@attrs.frozen(eq=False, repr=False)
class Conflicted:
    """Another member at `addr`:`port` announced the name of the record's member."""

    record: NodeRecord
    addr: bytes
    port: int


@attrs.frozen(eq=False, repr=False)
class Refused:
    """A member was refused: by its name, its address, or the maximum number of members."""

    name: str
    addr: bytes
    port: int
    reason: str


MembershipEvent = Joined | Left | Updated | Suspected | Recovered | Conflicted | Refused
