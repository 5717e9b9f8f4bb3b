"""What goes wrong on a control connection, for servers and for every client."""

from collections.abc import Mapping
from typing import Any

from trioserf.errors import TrioserfError

CODES = (
    "bad_request",
    "unknown_command",
    "auth_required",
    "auth_failed",
    "line_too_long",
    "too_large",
    "invalid_filter",
    "no_such_query",
    "no_such_member",
    "join_failed",
    "key_failed",
    "leaving",
    "timeout",
    "internal",
)
"""Every code an agent's reply may carry.

Clients add three of their own: `unreachable` (no connection could be made), `disconnected` (it
ended before the answer came) and `protocol` (the other side speaks something else).
"""


class ControlError(TrioserfError):
    """A request that failed.

    `code` is one of `CODES` (or one of the three that clients add), `message` a sentence for
    people, `details` whatever else the reply carried: the causes of a failed join, the answers
    that members gave to a key operation.
    """

    def __init__(self, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        self.code = code
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        super().__init__(message)

    @property
    def causes(self) -> tuple[tuple[str, str], ...]:
        """Why each address of a failed join could not be reached: (address, reason)."""
        return tuple((one["address"], one["reason"]) for one in self.details.get("causes", ()))

    def __repr__(self) -> str:
        return f"ControlError({self.code!r}, {self.message!r})"
