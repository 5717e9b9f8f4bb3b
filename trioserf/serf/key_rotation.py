"""The steps that replace all keys of a cluster with a new one.

During each step all members can decrypt each other's messages: the new key is used only when every
member has it, and an old key is removed only when every member encrypts with the new one. Another
rotation therefore completes an interrupted one, and removes its keys as well.

A member may be excluded if it joins with old keys only, after all others have the new key and
before they use it. When the step `use` fails, members must therefore use their previous key again,
so that this member can decrypt their messages, and the next rotation reaches it.

This module imports nothing of the project, because a client command that starts quickly uses it.
"""

from collections.abc import Generator, Mapping
from typing import Literal, NamedTuple, Protocol

Change = Literal["install", "use", "remove"]


class Listing(Protocol):
    """The keys of all members, as a key query lists them."""

    @property
    def nodes(self) -> int:
        """Members that were queried."""

    @property
    def keys(self) -> Mapping[str, int]:
        """How many members have each key."""

    @property
    def primary_keys(self) -> Mapping[str, int]:
        """How many members encrypt with each key; empty if they do not report it."""


class Step(NamedTuple):
    """A change that every member must have made before the next step."""

    change: Change
    key: str


def rotation(key: str, before: Listing) -> Generator[Step, Listing, set[str]]:
    """Yield the steps that replace all keys of a cluster.

    Args:
        key: the new key.
        before: the members' keys now.

    Yields:
        The next step. Send the listing in which `count_missing` is 0 for it.

    Returns:
        The keys that were removed.
    """
    yield Step("install", key)
    now = yield Step("use", key)
    removed = set(before.keys) - {key}
    while others := sorted(set(now.keys) - {key}):
        for other in others:
            now = yield Step("remove", other)
        removed.update(others)
    return removed


def primary_of(now: Listing) -> str | None:
    """Return the key that most members encrypt with; None if they do not report it."""
    return max(sorted(now.primary_keys), key=lambda key: now.primary_keys[key], default=None)


def count_missing(step: Step, now: Listing) -> int:
    """Count the members that have not taken a step, even if they reported success."""
    holders = now.keys.get(step.key, 0)
    if step.change == "remove":
        return holders
    if step.change == "use" and now.primary_keys:
        return now.nodes - now.primary_keys.get(step.key, 0)
    return now.nodes - holders
