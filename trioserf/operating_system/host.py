"""The host and the memory of this process: what the systems report differently."""

import os
import sys
from collections.abc import Callable


def host_name() -> str:
    """Return the name of this host."""
    if sys.platform == "win32":
        import socket

        return socket.gethostname()
    else:
        return os.uname().nodename


def environment() -> dict[str, str]:
    """Return the environment of this process, decoded as UTF-8 whatever the locale is.

    On Windows it is text already.
    """
    if sys.platform == "win32":
        return dict(os.environ)
    else:
        return {_text(key): _text(value) for key, value in os.environb.items()}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def find_memory_trimmer() -> Callable[[int], object] | None:
    """Return the function of the C library that returns freed memory; only glibc has one."""
    if sys.platform != "linux":
        return None
    else:
        import ctypes

        try:
            trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
        except (AttributeError, OSError):
            return None
        return trim


def resident_memory() -> int | None:
    """Return the resident memory of this process in bytes.

    On macOS and without /proc it is the maximum so far; on Windows it is unknown, None.
    """
    if sys.platform == "win32":
        return None
    else:
        import resource

        try:
            with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - not worth its import
                return int(file.read().split()[1]) * resource.getpagesize()
        except (OSError, ValueError, IndexError):
            maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return maximum if sys.platform == "darwin" else maximum * 1024
