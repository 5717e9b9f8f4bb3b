"""Selection of members by regular expressions, anchored as in Serf."""

from collections.abc import Iterable, Mapping

import attrs

from trioserf.errors import InvalidFilter
from trioserf.serf.filters import Pattern, anchored, matches
from trioserf.serf.member import Member
from trioserf.value_objects import ValueObject


def _compiled(expression: str, path: str) -> Pattern:
    try:
        return anchored(expression)
    except InvalidFilter as error:
        raise InvalidFilter(f"{path}: {error}") from None


@attrs.frozen(eq=False, repr=False)
class MemberFilter(ValueObject):
    """Expressions that members must match; a missing tag counts as empty text."""

    name: Pattern | None
    status: Pattern | None
    tags: tuple[tuple[str, Pattern], ...]

    @classmethod
    def of(cls, name: str, status: str, tags: Mapping[str, str]) -> "MemberFilter":
        """Compile a filter; empty `name` and `status` mean any.

        Raises:
            InvalidFilter: an invalid expression; the text names its parameter.
        """
        return cls(
            _compiled(name, "name") if name else None,
            _compiled(status, "status") if status else None,
            tuple((tag, _compiled(expression, f"tags.{tag}")) for tag, expression in tags.items()),
        )

    def select(self, members: Iterable[Member]) -> tuple[Member, ...]:
        """Return the members that match, in their order."""
        return tuple(filter(self._matches, members))

    def _matches(self, member: Member) -> bool:
        if self.name is not None and not matches(self.name, member.name):
            return False
        if self.status is not None and not matches(self.status, member.status):
            return False
        return all(matches(pattern, member.tags.get(tag, "")) for tag, pattern in self.tags)
