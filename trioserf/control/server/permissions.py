"""What a client may do: scopes, the one list of them, and what a command requires.

Plain values without an event loop. (See control/README.md, § Scopes.)
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

SCOPES: Final[Mapping[str, str]] = {
    "read": "",
    "event": "event",
    "query": "query",
    "respond": "query",
    "tags": "",
    "members": "member",
    "keys": "",
}
"""All scopes, each with the kind of name that a pattern restricts it to; "" for none."""
_SHOWN_NAME: Final = 128
"""Characters of a name in an error; clients choose it."""


class Requirement(NamedTuple):
    """The scope that a request requires, and the name that patterns are compared with.

    Attributes:
        scope: one of SCOPES.
        name: the name of the event, query or member; None if the request has none: only a scope
            without a pattern allows it.
    """

    scope: str
    name: str | None = None

    def __str__(self) -> str:
        if self.name is None:
            return self.scope
        cut = self.name[:_SHOWN_NAME] + "…" * (len(self.name) > _SHOWN_NAME)
        return f"{self.scope}:{cut}"


class Scope(NamedTuple):
    """A scope that was granted.

    Attributes:
        name: one of SCOPES.
        pattern: the names that it is restricted to, as in `fnmatch.fnmatchcase`; None for all.
    """

    name: str
    pattern: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Scope":
        """Parse `SCOPE` or `SCOPE:PATTERN`.

        Raises:
            ValueError: no such scope, or a pattern that it does not take.
        """
        name, colon, pattern = text.partition(":")
        if name not in SCOPES:
            raise ValueError(f"unknown scope {text!r}; expected one of {', '.join(SCOPES)}")
        if not colon:
            return cls(name)
        if not SCOPES[name]:
            raise ValueError(f"the scope {name} takes no pattern; expected {name}, not {text!r}")
        if not pattern:
            raise ValueError(
                f"{text!r} has no pattern; expected {name}, or {name}:PATTERN for a {SCOPES[name]}"
            )
        return cls(name, pattern)

    def __str__(self) -> str:
        return self.name if self.pattern is None else f"{self.name}:{self.pattern}"


class Permissions:
    """The scopes of a client.

    Args:
        scopes: the scopes; none allow nothing.
    """

    __slots__ = ("_restricted", "_scopes", "_whole")

    def __init__(self, scopes: Iterable[Scope]) -> None:
        self._scopes = tuple(dict.fromkeys(scopes))
        self._whole = frozenset(one.name for one in self._scopes if one.pattern is None)
        self._restricted = frozenset(one.name for one in self._scopes)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "Permissions":
        """Parse scopes.

        Raises:
            ValueError: there is none, or one is not valid.
        """
        scopes = [Scope.parse(text) for text in texts]
        if not scopes:
            raise ValueError(f"no scope; expected some of {', '.join(SCOPES)}")
        return cls(scopes)

    def has(self, scope: str) -> bool:
        """Return whether the scope was granted, perhaps for some names only."""
        return scope in self._restricted

    def has_whole(self, scope: str) -> bool:
        """Return whether the scope was granted for all names."""
        return scope in self._whole

    def allow(self, required: Requirement) -> bool:
        """Return whether a request with this requirement is allowed."""
        return required.scope in self._whole or (
            required.name is not None
            and any(
                one.name == required.scope
                and one.pattern is not None
                and fnmatchcase(required.name, one.pattern)
                for one in self._scopes
            )
        )

    def __or__(self, other: "Permissions") -> "Permissions":
        return Permissions(self._scopes + other._scopes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Permissions) and self._scopes == other._scopes

    def __hash__(self) -> int:
        return hash(self._scopes)

    def texts(self) -> list[str]:
        """Return the scopes as `parse` takes them."""
        return list(map(str, self._scopes))

    def __str__(self) -> str:
        return ", ".join(self.texts()) or "none"


ALL: Final = Permissions(map(Scope, SCOPES))
"""Every scope, for all names."""
NONE: Final = Permissions(())
"""No scope."""
