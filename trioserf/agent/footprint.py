"""Letting go of what only the start needed: importing and configuring leave 2 MB behind."""

import gc
import linecache

from trioserf.node.memory import trim_memory


def freeze_startup_memory() -> None:
    """Let go of what only the start needed; to be called once, when it is over.

    What lives now lives as long as the process: the garbage collector need not look at it again.
    """
    gc.collect()
    gc.freeze()
    linecache.clearcache()  # the texts of generated methods
    trim_memory()
