"""The `Transport` Protocol: unreliable packets and streams between nodes.

`sockets` has the real implementation, `sim/transport` a simulated one. An address is an IP address
as text (no brackets) and a port.
"""

from collections.abc import Callable
from typing import Final, Protocol

from trio.abc import HalfCloseableStream

SocketAddress = tuple[str, int]
Datagram = tuple[bytes, SocketAddress]

BATCH = 64
"""Datagrams that one `receive_packets` returns at most."""
ANY_HOST: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound
"""Hosts that mean all addresses of this machine."""


def ignore_refusal(_: SocketAddress) -> None:
    """Do nothing: the default of `Transport.on_refused`."""


def take_none(_: list[Datagram]) -> bool:
    """Take no packets: the default of `Transport.on_datagrams`."""
    return False


class Transport(Protocol):
    """One endpoint; packets and streams share its address.

    Attributes:
        on_refused: called in the task of `receive_packets` with each address at which no process
            listens for our packet, where the system reports it. It must not raise.
        on_datagrams: takes 1 to 64 packets at once, or returns False. A transport that learns of
            packets outside a task, as a simulated one does, may offer them here; those that were
            not taken wait for `receive_packets`.
    """

    on_refused: Callable[[SocketAddress], None]
    on_datagrams: Callable[[list[Datagram]], bool]

    @property
    def address(self) -> SocketAddress:
        """The address that it is bound to."""
        ...

    def send_packet(self, data: bytes, to: SocketAddress) -> bool:
        """Send a datagram without waiting; return False if it was dropped locally."""
        ...

    async def receive_packets(self) -> list[Datagram]:
        """Wait for datagrams and return 1 to 64 of them."""
        ...

    async def dial(self, to: SocketAddress) -> HalfCloseableStream:
        """Open a stream; the caller sets the deadline.

        Raises:
            OSError: the peer does not listen, or is unreachable.
        """
        ...

    async def accept(self) -> tuple[HalfCloseableStream, SocketAddress]:
        """Wait for an incoming stream; return it with its peer's address."""
        ...

    async def aclose(self) -> None:
        """Close the endpoint; tasks that wait for it get `trio.ClosedResourceError`."""
        ...
