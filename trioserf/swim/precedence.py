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
- An alive message from another address is a **name conflict**, unless the name is free: its
  member has left, or has been dead for longer than `dead_node_reclaim_time`.

The tables, and the rules for our own record, are in swim/README.md, § Rules of precedence.
"""

from trioserf.swim.node_record import NodeRecord
from trioserf.wire.swim_messages import ALIVE, DEAD, LEFT, State


def supersedes(record: NodeRecord, state: State, incarnation: int) -> bool:
    """Return whether a message with this state and incarnation replaces what a record holds."""
    if state is ALIVE:
        return incarnation > record.incarnation
    return incarnation >= record.incarnation and record.state < state and record.state < DEAD


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
