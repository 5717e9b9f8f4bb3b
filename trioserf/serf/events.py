"""Events for users (see serf/README.md, § Events to users)."""

from typing import ClassVar, Literal

import attrs

from trioserf.event_filter import MemberEventKind
from trioserf.serf.member import Member
from trioserf.swim.events import Cause
from trioserf.value_objects import ValueObject


@attrs.frozen(eq=False, repr=False)
class MemberEvent(ValueObject):
    """A change of these members; of one, unless the event was coalesced.

    Attributes:
        kind: the change.
        members: the members after it.
        cause: why the member was declared failed; None for other kinds and coalesced events.
    """

    kind: MemberEventKind
    members: tuple[Member, ...]
    cause: Cause | None = None


@attrs.frozen(eq=False, repr=False)
class UserEventReceived(ValueObject):
    """A user event of a member."""

    ltime: int
    name: str
    payload: bytes
    coalesce: bool
    kind: ClassVar[Literal["user"]] = "user"


@attrs.frozen(eq=False, repr=False)
class QueryReceived(ValueObject):
    """A query that waits for our response.

    Attributes:
        id: this node's own number for it, the argument of `respond`.
        ltime: the requester's Lamport time.
        query_id: the requester's number for it.
        name: the query's name.
        payload: any bytes.
        source: the requester's name.
        deadline: in seconds of the node's clock.
    """

    id: int
    ltime: int
    query_id: int
    name: str
    payload: bytes
    source: str
    deadline: float
    kind: ClassVar[Literal["query"]] = "query"


Event = MemberEvent | UserEventReceived | QueryReceived
