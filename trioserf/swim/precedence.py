"""The rule of precedence: which of two messages about a member is accepted.

Messages arrive late, repeated, lost or in another order at each member. The members' tables
converge because all of them apply the same rule, whatever the order of arrival:

- Only a member itself raises its **incarnation**. A higher incarnation beats a lower one; within
  one incarnation dead or left beats suspect, and suspect beats alive (SWIM §4.2). So only the
  suspected member can **refute**, with an alive message in a higher incarnation.
- A failed probe makes a member suspect, with time to refute (see `suspicion`). Another source of
  the same suspicion is a confirmation.
- A Dead message whose source is the member itself means that it **left**.
- A dead or left member returns only with an alive message in a higher incarnation.
- Incarnations are compared as **serial numbers** (RFC 1982): a 32-bit number is higher than
  another one if it is at most 2^31 − 1 steps ahead. So each forged incarnation is an old one,
  or can be refuted.
- An alive message from another address is a **name conflict**, unless the name is free: its
  member has left, or has been dead for longer than `dead_node_reclaim_time`.

The tables, and the rules for our own record, are in swim/README.md, § Rules of precedence.
"""

from typing import Final

from trioserf.swim.node_record import NodeRecord
from trioserf.wire.swim_messages import ALIVE, DEAD, LEFT, State

_MASK: Final = 2**32 - 1
_HALF: Final = 2**31


def is_at_least(incarnation: int, known: int) -> bool:
    """Return whether an incarnation equals a known one or is higher, as serial numbers are."""
    return (incarnation - known) & _MASK < _HALF


def next_incarnation(incarnation: int) -> int:
    """Return the next incarnation, 1 after 2^32 − 1: others ignore incarnation 0."""
    return (incarnation + 1) & _MASK or 1


def supersedes(record: NodeRecord, state: State, incarnation: int) -> bool:
    """Return whether a message with this state and incarnation replaces what a record holds."""
    if state is ALIVE:
        return incarnation != record.incarnation and is_at_least(incarnation, record.incarnation)
    return (
        record.state < state
        and record.state < DEAD
        and is_at_least(incarnation, record.incarnation)
    )


def is_name_free(record: NodeRecord, reclaim_time: float, now: float) -> bool:
    """Return whether another address may take over a member's name, in any incarnation.

    Args:
        record: the member that holds the name.
        reclaim_time: seconds after which a dead member loses its name; 0 for never.
        now: the current instant.
    """
    if record.state is LEFT:
        return True
    return record.state is DEAD and 0 < reclaim_time < now - record.state_change
