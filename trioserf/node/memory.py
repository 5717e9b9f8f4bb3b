"""Return freed memory to the system.

The C library keeps freed memory for later use, also memory that only the start or one large
exchange needed: without this module an agent that once received a hundred megabytes would keep
them.
"""

import gc
import linecache
from functools import lru_cache

from trioserf.operating_system.host import find_memory_trimmer

_find_trimmer = lru_cache(maxsize=1)(find_memory_trimmer)


def trim_memory() -> None:
    """Return freed memory to the system, if the C library supports it (glibc)."""
    trim = _find_trimmer()
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
