"""Calls that block, in threads; name lookups have their own few.

A limit of processes or memory can make the start of a thread fail. Callers handle that like other
errors of the system: they log it and try again later.
"""

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import trio

T = TypeVar("T")

_NO_THREAD: Final = "can't start new thread"
"""Text of the RuntimeError of `threading`."""
_MAX_LOOKUPS: Final = 8
"""Name lookups at a time. Without an answer of the name server, each takes many seconds, even if
its caller was cancelled."""


@contextmanager
def thread_errors() -> Iterator[None]:
    """Convert the error of a thread that cannot be started in the block.

    Raises:
        BlockingIOError: no thread can be started (EAGAIN).
    """
    try:
        yield
    except RuntimeError as error:
        if str(error) != _NO_THREAD:
            raise
        raise BlockingIOError(errno.EAGAIN, "no thread can be started") from error


async def run_in_thread(function: Callable[[], T], *, abandon: bool = False) -> T:
    """Run a function in one of Trio's threads and return its result.

    Args:
        function: the function.
        abandon: if cancelled, return at once; the function goes on.

    Raises:
        BlockingIOError: no thread can be started (EAGAIN).
    """
    with thread_errors():
        return await trio.to_thread.run_sync(function, abandon_on_cancel=abandon)


class Lookups(trio.abc.HostnameResolver):
    """Name lookups by the operating system, few at a time, for all sockets of a Trio program."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(_MAX_LOOKUPS)

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the name in the interface
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Look up the addresses of a name (see `socket.getaddrinfo`).

        Raises:
            OSError: the name has no address, or no thread can be started.
        """
        return await self._run(socket.getaddrinfo, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        """Look up the name of an address (see `socket.getnameinfo`)."""
        return await self._run(socket.getnameinfo, sockaddr, flags)

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        with thread_errors():
            return await trio.to_thread.run_sync(
                function, *args, abandon_on_cancel=True, limiter=self._limiter
            )


@contextmanager
def limited_lookups() -> Iterator[None]:
    """Use `Lookups` for all name lookups of this Trio program while the block runs."""
    before = trio.socket.set_custom_hostname_resolver(Lookups())
    try:
        yield
    finally:
        trio.socket.set_custom_hostname_resolver(before)
