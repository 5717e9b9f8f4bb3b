"""Exceptions that leave a nursery, without the group around them."""

from collections.abc import Iterator
from contextlib import contextmanager


def leaf_exceptions(error: BaseException) -> list[BaseException]:
    """Return the exceptions in a group, at any depth; the error itself if it is not a group."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for one in error.exceptions for leaf in leaf_exceptions(one)]


def single_exception(error: BaseException) -> BaseException:
    """Return the only exception in a group, at any depth; everything else as it is."""
    leaves = leaf_exceptions(error)
    return leaves[0] if len(leaves) == 1 else error


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
