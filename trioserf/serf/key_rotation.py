"""The steps by which every key of a cluster gives way to a new one.

Each step leaves a cluster that understands itself, whoever has taken it and whoever has not: the
new key is used only when every member can open what it seals, and no old key is removed before
every member seals with the new one. A rotation that stopped is therefore taken further by another
one from the start; keys that it left behind are among those that go at the end.

One member may not understand the others: who came, with the old keys only, after all had the new
one and before it was used. When that step fails, members are therefore told to use again what they
used before: this one hears them then, and the next rotation reaches it.

Nothing is imported here: a client command that must start quickly uses it too.
"""

from collections.abc import Generator, Mapping
from typing import Literal, NamedTuple, Protocol

Change = Literal["install", "use", "remove"]


class Listing(Protocol):
    """What members say of their keys."""

    @property
    def nodes(self) -> int:
        """Members that were asked."""

    @property
    def keys(self) -> Mapping[str, int]:
        """How many members have each key."""

    @property
    def primary_keys(self) -> Mapping[str, int]:
        """How many members seal with each key; empty if they do not tell."""


class Step(NamedTuple):
    """Something that every member must have done before the next step."""

    change: Change
    key: str


def rotation(key: str, before: Listing) -> Generator[Step, Listing, set[str]]:
    """Go through the steps that replace all keys of a cluster.

    Args:
        key: the new key.
        before: what the members hold now.

    Yields:
        The next step. What is sent back is the listing in which `lacking` is 0 for it.

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
    """Give the key that most members seal with; None if they do not tell."""
    return max(sorted(now.primary_keys), key=lambda key: now.primary_keys[key], default=None)


def count_missing(step: Step, now: Listing) -> int:
    """Count the members that have not taken a step, although they may have said so."""
    holders = now.keys.get(step.key, 0)
    if step.change == "remove":
        return holders
    if step.change == "use" and now.primary_keys:
        return now.nodes - now.primary_keys.get(step.key, 0)
    return now.nodes - holders
