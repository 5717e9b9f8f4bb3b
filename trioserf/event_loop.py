"""Which event loop runs the caller."""

import sys
from typing import Final

import trio

_GUIDE: Final = "trioserf/node/README.md"


_WAYS: Final = {
    "open_node": (
        "call it in an async function that trio.run() runs, in a thread of its own if the program"
        f" goes on meanwhile ({_GUIDE}, § In a program without an event loop)",
        "run Trio beside asyncio, in the same thread with trio.lowlevel.start_guest_run(), or in"
        f" a thread of its own with trio.run() ({_GUIDE}, § In an asyncio program)",
    ),
    "connect": (
        "connect_any() returns a blocking client",
        "use connect() of trioserf.control.client.asyncio_client",
    ),
}
"""By function: what to do where no event loop runs, and in an asyncio program."""


def require_trio(function: str) -> None:
    """Check that the caller of a function of the library is a Trio task.

    Raises:
        RuntimeError: it is not; the text says what to do.
    """
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        without_loop, in_asyncio = _WAYS[function]
        if _is_asyncio():
            text = f"{function}() was called in an asyncio program; {in_asyncio}"
        else:
            text = f"{function}() was called outside of a Trio task; {without_loop}"
        raise RuntimeError(text) from None


def _is_asyncio() -> bool:
    """Return whether a task of asyncio runs in this thread, without importing asyncio."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
