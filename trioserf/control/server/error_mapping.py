"""Conversion of exceptions to errors of the JSON protocol."""

import logging
from typing import Self

import trio

from trioserf.control.errors import ControlError
from trioserf.errors import (
    InvalidFilter,
    InvalidQuery,
    JoinFailed,
    Leaving,
    NoSuchMember,
    NoSuchQuery,
    TooLarge,
    TrioserfError,
)
from trioserf.exception_groups import single_exception

_log = logging.getLogger("trioserf.agent.ipc")

_CODES: tuple[tuple[type[Exception], str], ...] = (
    (JoinFailed, "join_failed"),
    (TooLarge, "too_large"),
    (NoSuchMember, "no_such_member"),
    (NoSuchQuery, "no_such_query"),
    (Leaving, "leaving"),
    (InvalidFilter, "invalid_filter"),
    (InvalidQuery, "bad_request"),
    (trio.TooSlowError, "timeout"),
    (TrioserfError, "bad_request"),
)


class capture_error:  # noqa: N801 - used like a function
    """Captures the exception of one request, so that it cannot end the agent.

    The only broad except of this room; cancellation passes.

    Attributes:
        error: the exception, or None.
        control_error: the same as an error of the protocol.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.error: Exception | None = None
        self.control_error: ControlError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self.error = error
        self.control_error = to_control_error(error, self.command)
        return True


def error_code(error: Exception) -> str:
    """Return the code of an exception of a handler."""
    cause = single_exception(error)
    if isinstance(cause, ControlError):
        return cause.code
    return next((code for kind, code in _CODES if isinstance(cause, kind)), "internal")


def to_control_error(error: Exception, command: str) -> ControlError:
    """Convert an exception of a handler; an unexpected one is logged and becomes `internal`."""
    cause = single_exception(error)
    if isinstance(cause, ControlError):
        return cause
    for kind, code in _CODES:
        if isinstance(cause, kind):
            details = (
                {"causes": [{"address": a, "reason": reason} for a, reason in cause.causes]}
                if isinstance(cause, JoinFailed)
                else None
            )
            text = str(cause) or ("it took too long" if code == "timeout" else code)
            return ControlError(code, text, details)
    _log.error("request '%s' failed", command, exc_info=error)
    return ControlError("internal", f"internal error in '{command}': {cause!r}")
