"""Listeners of the agent's own ports that outlast a lack of descriptors."""

import logging
from collections.abc import Callable
from typing import Final

import trio

from trioserf.net.sockets import ACCEPT_RETRY_DELAY
from trioserf.operating_system.sockets import OUT_OF_FILES
from trioserf.rate_limit import TokenBucket

_CLOSE_DELAY: Final = 0.01
"""Seconds before the next accept when a connection was ended to make room for it."""
_LOG_RATE: Final = 0.1
"""Log lines per second about a lack of descriptors."""


def _make_no_room() -> bool:
    return False


class PatientListener(trio.abc.Listener[trio.SocketStream]):
    """A listener that waits while no more files can be opened, and logs that once in ten seconds.

    `trio.serve_listeners` waits as well, but writes a traceback to stderr each time.

    Args:
        listener: the listener.
        log: the logger of the lines.
        make_room: end a connection in favour of a new one; returns whether there was one to end.
    """

    def __init__(
        self,
        listener: trio.abc.Listener[trio.SocketStream],
        log: logging.Logger,
        make_room: Callable[[], bool] = _make_no_room,
    ) -> None:
        self._listener = listener
        self._log = log
        self._make_room = make_room
        self._lines = TokenBucket(_LOG_RATE, burst=1)

    async def accept(self) -> trio.SocketStream:
        """Wait for a connection.

        Raises:
            OSError: for another reason than a lack of descriptors or memory.
        """
        while True:
            try:
                return await self._listener.accept()
            except OSError as error:
                if error.errno not in OUT_OF_FILES:
                    raise
                if self._lines.take(1, trio.current_time()):
                    self._log.error("Failed to accept client: %s", error.strerror)
                await trio.sleep(_CLOSE_DELAY if self._make_room() else ACCEPT_RETRY_DELAY)

    async def aclose(self) -> None:
        """Close the listener."""
        await self._listener.aclose()
