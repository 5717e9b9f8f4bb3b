"""Events of the member table.

The record in an event is the table's own, not a copy; the table's next change may change it.
"""

import attrs

from trioserf.swim.node_record import NodeRecord


@attrs.frozen(eq=False)
class Joined:
    """A new, dead or left member became alive. The first event is our own."""

    record: NodeRecord


@attrs.frozen(eq=False)
class Left:
    """A member left (`by_itself`), or was declared dead."""

    record: NodeRecord
    by_itself: bool


@attrs.frozen(eq=False)
class Updated:
    """The metadata of a member changed."""

    record: NodeRecord


@attrs.frozen(eq=False)
class Suspected:
    """A member became suspect and has time to refute."""

    record: NodeRecord


@attrs.frozen(eq=False)
class Recovered:
    """A suspect refuted the suspicion."""

    record: NodeRecord


@attrs.frozen(eq=False)
class Conflicted:
    """Another member at `addr`:`port` announced the name of the record's member."""

    record: NodeRecord
    addr: bytes
    port: int


@attrs.frozen(eq=False)
class Refused:
    """A member was refused: by its name, its address, or the maximum number of members."""

    name: str
    addr: bytes
    port: int
    reason: str


MembershipEvent = Joined | Left | Updated | Suspected | Recovered | Conflicted | Refused
