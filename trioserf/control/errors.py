"""Errors of the control socket, for the server and for every client."""

from collections.abc import Mapping
from typing import Any

from trioserf.errors import TrioserfError

CODES = (
    "bad_request",
    "unknown_command",
    "auth_required",
    "auth_failed",
    "forbidden",
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
"""Codes of an agent's error replies.

Clients add three: `unreachable` (no connection could be made), `disconnected` (it ended before the
reply) and `protocol` (the other side speaks another protocol).
"""


class ControlError(TrioserfError):
    """A request that failed.

    Attributes:
        code: one of `CODES`, or of the three that clients add.
        message: a sentence for users.
        details: the other fields of the reply: the causes of a failed join, the responses of
            members to a key operation.
    """

    def __init__(self, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        self.code = code
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        super().__init__(message)

    @property
    def causes(self) -> tuple[tuple[str, str], ...]:
        """Why each address of a failed join could not be reached: (address, reason)."""
        causes = self.details.get("causes", ())
        return tuple((cause["address"], cause["reason"]) for cause in causes)

    def __repr__(self) -> str:
        return f"ControlError({self.code!r}, {self.message!r})"
