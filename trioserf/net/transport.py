"""What carries gossip: packets that may get lost, and streams. One small protocol, two kinds.

The real one is in `sockets`; the simulator has a twin. Addresses are pairs of an IP address as
text (no brackets) and a port.
"""

from typing import Final, Protocol

from trio.abc import HalfCloseableStream

SocketAddress = tuple[str, int]
Datagram = tuple[bytes, SocketAddress]

BATCH = 64
"""Datagrams that are given at once, at most."""
ANY_HOST: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - looked for, not bound
"""Hosts that stand for all addresses of a machine."""


class Transport(Protocol):
    """One endpoint: packets and streams share its address."""

    @property
    def address(self) -> SocketAddress:
        """Where it is bound."""
        ...

    def send_packet(self, data: bytes, to: SocketAddress) -> bool:
        """Send a datagram without waiting; False if it was dropped here."""
        ...

    async def receive_packets(self) -> list[Datagram]:
        """Wait for datagrams and give 1 to 64 of them."""
        ...

    async def dial(self, to: SocketAddress) -> HalfCloseableStream:
        """Open a stream; the caller sets the deadline.

        Raises:
            OSError: nobody listens there, or there is no way.
        """
        ...

    async def accept(self) -> tuple[HalfCloseableStream, SocketAddress]:
        """Wait for a stream that somebody opens, and give it with the address of its other end."""
        ...

    async def aclose(self) -> None:
        """Close the endpoint; what waits for it ends with `trio.ClosedResourceError`."""
        ...
