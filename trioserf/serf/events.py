"""What happens in a cluster, as users are told of it (spec: events to users).

The kind of an event is its name everywhere: in handler filters, `SERF_EVENT`, stream records.
"""

from typing import ClassVar, Literal

import attrs

from trioserf.serf.member import Member

MemberEventKind = Literal[
    "member-join",
    "member-leave",
    "member-failed",
    "member-update",
    "member-reap",
    "member-suspect",
    "member-recovered",
]
MEMBER_EVENT_KINDS: tuple[MemberEventKind, ...] = (
    "member-join",
    "member-leave",
    "member-failed",
    "member-update",
    "member-reap",
)
"""The kinds that Serf knows, which everyone gets by default."""

SUSPICION_EVENT_KINDS: tuple[MemberEventKind, ...] = ("member-suspect", "member-recovered")
"""Ours; delivered only to those who name them."""


@attrs.frozen(slots=True)
class MemberEvent:
    """Something happened to these members (one, unless the event was coalesced)."""

    kind: MemberEventKind
    members: tuple[Member, ...]


@attrs.frozen(slots=True)
class UserEventReceived:
    """A user event, sent by anyone in the cluster."""

    ltime: int
    name: str
    payload: bytes
    coalesce: bool
    kind: ClassVar[Literal["user"]] = "user"


@attrs.frozen(slots=True)
class QueryReceived:
    """A query that waits for our answer.

    `id` is this node's own number for it (what `respond` takes), `query_id` and `ltime` are the
    asker's; `source` is the asker's name, `deadline` an instant of the node's clock in seconds.
    """

    id: int
    ltime: int
    query_id: int
    name: str
    payload: bytes
    source: str
    deadline: float
    kind: ClassVar[Literal["query"]] = "query"


@attrs.frozen(slots=True)
class Dropped:
    """The subscriber was too slow: `count` events before this place were not delivered."""

    count: int
    kind: ClassVar[Literal["dropped"]] = "dropped"


Event = MemberEvent | UserEventReceived | QueryReceived
