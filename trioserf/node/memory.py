"""Giving memory back to the system.

The C library keeps what was freed for the next time, which is right for what a process needs every
day. What the start leaves behind, and the buffers of a large exchange, are needed once; without
this an agent that was sent a hundred megabytes would keep them.
"""

from collections.abc import Callable
from functools import lru_cache


def trim_memory() -> None:
    """Give freed memory back to the system, where the C library knows how (glibc)."""
    trim = _trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim() -> Callable[[int], object] | None:
    import ctypes  # most agents never need it

    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    return trim
