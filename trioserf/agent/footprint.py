"""Giving memory back to the system: after the start, and after a flood.

The C library keeps what was freed in the middle of its heap. Importing and configuring leave two
megabytes of it behind, a flood of large messages much more.
"""

import ctypes
import gc
import linecache
from typing import Final

_LIBRARY: Final = ctypes.CDLL(None)


def settle() -> None:
    """Let go of what only the start needed; to be called once, when it is over.

    What lives now lives as long as the process: the garbage collector need not look at it again.
    """
    gc.collect()
    gc.freeze()
    linecache.clearcache()  # the texts of generated methods
    give_back()


def give_back() -> None:
    """Give free memory back to the system where the C library can do that."""
    trim = getattr(_LIBRARY, "malloc_trim", None)
    if trim is not None:
        trim(0)
