"""Nurseries inside context managers, which callers need not know of."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unwrap_single_exception() -> Iterator[None]:
    """Let a single exception out of a nursery inside the block as it is, not in a group.

    For nurseries that belong to a context manager: the tasks in them are its own, so what comes
    out is nearly always what the caller's block raised, and callers want to catch that by type.
    Several that come together stay a group: nothing is lost. Trio's own way, a nursery with
    `strict_exception_groups=False`, is deprecated since Trio 0.25.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        error = group.exceptions[0]
        raise error from error.__cause__
