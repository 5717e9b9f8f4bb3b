"""What the member table tells its owner: facts, in the order in which they happened.

A record in a notice is the table's own, not a copy: read it before the table's next change.
"""

import attrs

from trioserf.swim.node_record import NodeRecord


@attrs.frozen(eq=False)
class Joined:
    """A member is new, or has come back from the dead or after leaving. The first is ourselves."""

    record: NodeRecord


@attrs.frozen(eq=False)
class Left:
    """A member is gone: it said so `by_itself`, or was declared dead."""

    record: NodeRecord
    by_itself: bool


@attrs.frozen(eq=False)
class Updated:
    """A member has other metadata than before."""

    record: NodeRecord


@attrs.frozen(eq=False)
class Suspected:
    """A member is believed to have failed, and now has the time to say otherwise."""

    record: NodeRecord


@attrs.frozen(eq=False)
class Recovered:
    """A suspect has refuted the suspicion."""

    record: NodeRecord


@attrs.frozen(eq=False)
class Conflicted:
    """Somebody at `addr`:`port` claims the name that the record's member holds."""

    record: NodeRecord
    addr: bytes
    port: int


@attrs.frozen(eq=False)
class Refused:
    """A member was not taken in: its name or its address is not allowed here."""

    name: str
    addr: bytes
    port: int
    reason: str


MembershipEvent = Joined | Left | Updated | Suspected | Recovered | Conflicted | Refused
