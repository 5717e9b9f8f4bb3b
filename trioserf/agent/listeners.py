"""Listeners of the agent's own ports that outlast a lack of descriptors."""

import logging

import trio

from trioserf.net.sockets import ACCEPT_RETRY_DELAY
from trioserf.operating_system.sockets import OUT_OF_FILES


class PatientListener(trio.abc.Listener[trio.SocketStream]):
    """A listener that waits, after one line in the log, while no more files can be opened.

    `trio.serve_listeners` waits as well, but writes a traceback to stderr each time.
    """

    def __init__(
        self, listener: trio.abc.Listener[trio.SocketStream], log: logging.Logger
    ) -> None:
        self._listener = listener
        self._log = log

    async def accept(self) -> trio.SocketStream:
        """Wait for a connection.

        Raises:
            OSError: for another reason than a lack of descriptors or memory.
        """
        is_logged = False
        while True:
            try:
                return await self._listener.accept()
            except OSError as error:
                if error.errno not in OUT_OF_FILES:
                    raise
                if not is_logged:
                    self._log.error("Failed to accept client: %s", error.strerror)
                    is_logged = True
                await trio.sleep(ACCEPT_RETRY_DELAY)

    async def aclose(self) -> None:
        """Close the listener."""
        await self._listener.aclose()
