"""Every exception a request may end in, as an error of the protocol."""

import logging
from types import TracebackType
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
    """One request's border: keeps what went wrong inside the `with` as `fault`.

    The only place of this room that swallows whatever exception comes; cancellation passes.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.error: Exception | None = None
        self.fault: ControlError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self.error = error
        self.fault = to_control_error(error, self.command)
        return True


def to_control_error(error: Exception, command: str) -> ControlError:
    """Translate what a handler raised; what nobody foresaw is logged and becomes `internal`."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]
    if isinstance(cause, ControlError):
        return cause
    for kind, code in _CODES:
        if isinstance(cause, kind):
            details = (
                {"causes": [{"address": a, "reason": why} for a, why in cause.causes]}
                if isinstance(cause, JoinFailed)
                else None
            )
            text = str(cause) or ("it took too long" if code == "timeout" else code)
            return ControlError(code, text, details)
    _log.error("request '%s' failed", command, exc_info=error)
    return ControlError("internal", f"internal error in '{command}': {cause!r}")
