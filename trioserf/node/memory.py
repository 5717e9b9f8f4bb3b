"""Return freed memory to the system.

The C library keeps freed memory for later use, also memory that only the start or one large
exchange needed: without this module an agent that once received a hundred megabytes would keep
them.
"""

import gc
import linecache
from collections.abc import Callable
from functools import lru_cache


def trim_memory() -> None:
    """Return freed memory to the system, if the C library supports it (glibc)."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def freeze_startup_memory() -> None:
    """Free what only the start needed (about 2 MB); call this once, after the start.

    Objects that exist now live as long as the process, so the garbage collector skips them.
    """
    gc.collect()
    gc.freeze()
    linecache.clearcache()  # the sources of generated methods
    trim_memory()


@lru_cache(maxsize=1)
def _malloc_trim() -> Callable[[int], object] | None:
    import ctypes  # most agents never need it

    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    return trim
