"""Exceptions that leave a nursery, without the group around them."""

from collections.abc import Iterator
from contextlib import contextmanager


def single_exception(error: BaseException) -> BaseException:
    """Return the only exception in a group, at any depth; everything else as it is."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


@contextmanager
def unwrap_single_exception(kind: type[BaseException] = BaseException) -> Iterator[None]:
    """Raise the only exception of a group that leaves the block, without the group.

    For nurseries inside a context manager: their tasks are internal, so the exception nearly
    always comes from the caller's block, and the caller wants to catch it by its type. Several
    exceptions stay a group, so that none is lost. Trio's own way, a nursery with
    `strict_exception_groups=False`, is deprecated since Trio 0.25.

    Args:
        kind: unwrap only exceptions of this type.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error = single_exception(group)
        if error is group or not isinstance(error, kind):
            raise
        raise error from error.__cause__
