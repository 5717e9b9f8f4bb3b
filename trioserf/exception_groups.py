"""Exception groups of nurseries inside context managers."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unwrap_single_exception() -> Iterator[None]:
    """Raise the exception of a group that contains only one; keep other groups.

    For context managers with a nursery of their own: its exception is nearly always the one that
    the caller's block raised, and callers catch that by type. Trio's own option,
    `strict_exception_groups=False`, is deprecated since Trio 0.25.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        error = group.exceptions[0]
        raise error from error.__cause__
