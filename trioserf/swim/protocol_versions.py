"""Protocol versions: valid ranges, and whether two member tables may be merged."""

from collections.abc import Iterable

from trioserf.swim.node_record import NO_VERSIONS, NodeRecord
from trioserf.wire.swim_messages import ALIVE, OUR_VERSIONS, SUSPECT, NodeState, Versions

_MAX_INTERNED = 256
_interned: dict[Versions, Versions] = {OUR_VERSIONS: OUR_VERSIONS, NO_VERSIONS: NO_VERSIONS}


class VersionMismatch(ValueError):
    """A member uses a version that another alive member does not support."""


def is_valid_range(versions: Versions) -> bool:
    """Return whether announced versions are valid; other alive messages are ignored."""
    least, most = versions[0], versions[1]
    return 0 < least <= most


def intern_versions(versions: Versions) -> Versions:
    """Return one object for all equal versions, because tables have thousands of rows.

    The store is bounded, because peers choose the versions.
    """
    if versions == OUR_VERSIONS:
        return OUR_VERSIONS
    if len(_interned) < _MAX_INTERNED:
        return _interned.setdefault(versions, versions)
    return _interned.get(versions, versions)


def verify_versions(remote: Iterable[NodeState], local: Iterable[NodeRecord]) -> None:
    """Verify that the members of two tables are compatible (wire/README.md, § Versions).

    The current version of each alive or suspect member must lie in the ranges of all alive
    members. Dead and left members, and members without versions, are not considered.

    Raises:
        VersionMismatch: a version lies outside; the text names the member and the range.
    """
    speakers: dict[Versions, str] = {}
    alive: dict[Versions, None] = {}
    for view in (remote, local):
        latest: Versions | None = None
        for node in view:
            versions = node.versions
            if node.state is ALIVE:
                if versions is latest or not versions or versions == NO_VERSIONS:
                    continue  # the same object as in the row before, as in most rows
                alive[versions] = None
                latest = versions
            elif node.state is not SUSPECT or not versions or versions == NO_VERSIONS:
                continue
            speakers.setdefault(versions, node.name)
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
