"""Refused connections: evidence that no process listens (swim/README.md, § Refused connections).

A refusal speeds up a suspicion only at members that were refused themselves. So a member that
lies about refusals does not make others declare a member dead early.
"""

import zlib
from collections.abc import Iterable
from typing import Final

from trioserf.swim.node_record import NodeRecord

MAX_CHECKERS: Final = 8
"""Members that connect to a suspect, besides the one whose probe failed."""
_MAX_REQUIRED: Final = 3
RETRY: Final = 0.5
"""Seconds until the next connection while too few members are known to be refused."""


def required_refusals(n: int) -> int:
    """Return how many members must be refused, ourselves included, in a cluster of n records."""
    return max(1, min(_MAX_REQUIRED, n - 2))


def is_checker(name: str, suspect: NodeRecord, members: Iterable[NodeRecord]) -> bool:
    """Return whether a member is one of those that connect to a suspect.

    They are the eight with the least hashes of their name, the suspect and its incarnation.
    Members that know the same members choose the same ones, without a message, and other ones
    for each suspect.

    Args:
        name: the member, which is among `members`.
        suspect: the record of the suspect.
        members: all records; the suspect and those that are dead or left are not counted.
    """
    salt = zlib.crc32(f"{suspect.incarnation} ".encode() + _bytes(suspect.name))
    ours = zlib.crc32(_bytes(name), salt)
    better = 0
    for record in members:
        if record is not suspect and not record.is_dead_or_left:
            better += zlib.crc32(_bytes(record.name), salt) < ours
            if better >= MAX_CHECKERS:
                return False
    return True


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
