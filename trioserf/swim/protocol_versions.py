"""Protocol versions: what a member announces, and whether two views of a cluster may be merged."""

from collections.abc import Iterable, Iterator

from trioserf.swim.node_record import NO_VERSIONS, NodeRecord
from trioserf.wire.swim_messages import ALIVE, OUR_VERSIONS, SUSPECT, NodeState, State, Versions

_SHARED_AT_MOST = 256
_shared: dict[Versions, Versions] = {OUR_VERSIONS: OUR_VERSIONS, NO_VERSIONS: NO_VERSIONS}


class VersionMismatch(ValueError):
    """A member of either side speaks a version that some other member does not understand."""


def is_valid_range(versions: Versions) -> bool:
    """Tell whether announced versions make sense; an alive message with others is ignored."""
    least, most = versions[0], versions[1]
    return 0 < least <= most


def intern_versions(versions: Versions) -> Versions:
    """Give one object for all equal versions: clusters have few, tables have thousands of rows.

    The store is bounded, for versions come from anybody.
    """
    if versions == OUR_VERSIONS:
        return OUR_VERSIONS
    if len(_shared) < _SHARED_AT_MOST:
        return _shared.setdefault(versions, versions)
    return _shared.get(versions, versions)


def verify_versions(remote: Iterable[NodeState], local: Iterable[NodeRecord]) -> None:
    """Refuse to merge with a cluster in which some could not understand others (spec: versions).

    The ranges that all living members of both views understand are intersected, and whatever
    anyone of them speaks must lie inside. The dead and those who left speak no more and are not
    looked at; nor are members that announced nothing.

    Raises:
        VersionMismatch: it names the member and the range.
    """
    speakers: dict[Versions, str] = {}
    alive: dict[Versions, None] = {}
    for name, state, versions in _announced(remote, local):
        if state is ALIVE:
            alive[versions] = None
        speakers.setdefault(versions, name)
    if not alive:
        return
    for what, first in (("protocol", 0), ("delegate protocol", 3)):
        least = max(versions[first] for versions in alive)
        most = min(versions[first + 1] for versions in alive)
        for versions, name in speakers.items():
            if not least <= versions[first + 2] <= most:
                raise VersionMismatch(
                    f"{name!r} speaks {what} version {versions[first + 2]}, but the members "
                    f"alive together understand [{least}, {most}]"
                )


def _announced(
    remote: Iterable[NodeState], local: Iterable[NodeRecord]
) -> Iterator[tuple[str, State, Versions]]:
    for view in (remote, local):
        for node in view:
            versions, state = node.versions, node.state
            if versions and versions != NO_VERSIONS and state <= SUSPECT:
                yield node.name, state, versions
