"""A member's endpoint in the simulated network: the twin of `trioserf.net.sockets`."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio
from trio.abc import HalfCloseableStream

from trioserf.net.transport import BATCH, Datagram, SocketAddress
from trioserf.sim.streams import SimStream

if TYPE_CHECKING:
    from trioserf.sim.network import Network

_LARGEST: Final = 65_507
_RECEIVE_BUFFER: Final = 2 * 1024 * 1024
"""Bytes that wait for a receiver, each packet with the kernel's overhead; the rest is dropped."""
_PACKET_OVERHEAD: Final = 512
_BACKLOG: Final = 128
"""Streams that wait to be accepted."""


class SimTransport:
    """A member's endpoint in a simulated network (see `Transport`); made by `Network.open`.

    Attributes:
        address: where it is bound.
        delay: seconds by which everything that this member sends is late.
        link_free_at: the instant at which its link has sent what it was given.
        sent: packets it was asked to send.
        sent_bytes: their bytes.
    """

    def __init__(self, network: "Network", address: SocketAddress) -> None:
        self.delay = 0.0
        self.link_free_at = 0.0
        self.sent = 0
        self.sent_bytes = 0
        self.address = address
        self._network = network
        self._packets: deque[Datagram] = deque()
        self._buffered = 0
        self._arrived = trio.lowlevel.ParkingLot()
        self._offered: deque[tuple[SimStream, SocketAddress]] = deque()
        self._offers = trio.lowlevel.ParkingLot()
        self._streams: dict[SimStream, None] = {}
        self._closed = False
        self._paused = False
        self._held_out: list[tuple[bytes, SocketAddress]] = []
        self._held_in: list[Callable[[], None]] = []

    # --- the protocol ---

    def send_packet(self, data: bytes, to: SocketAddress) -> bool:
        """Send a datagram without waiting; False if it was dropped here."""
        if self._closed or len(data) > _LARGEST:
            return False
        self.sent += 1
        self.sent_bytes += len(data)
        if self._paused:
            self._held_out.append((data, to))
        else:
            self._network.send(self, data, to)
        return True

    async def receive_packets(self) -> list[Datagram]:
        """Wait for datagrams and give 1 to 64 of them.

        Raises:
            trio.ClosedResourceError: the transport was closed.
        """
        if self._packets or self._closed:
            await trio.lowlevel.checkpoint()
        while not self._packets or self._paused:
            if self._closed:
                raise trio.ClosedResourceError
            await self._arrived.park()
        if self._closed:
            raise trio.ClosedResourceError
        packets = self._packets
        taken = [packets.popleft() for _ in range(min(BATCH, len(packets)))]
        self._buffered -= sum(len(data) + _PACKET_OVERHEAD for data, _ in taken)
        return taken

    async def dial(self, to: SocketAddress) -> HalfCloseableStream:
        """Open a stream; the caller sets the deadline.

        Raises:
            OSError: nobody listens there, or there is no way.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError
        return await self._network.connect(self, (to[0], to[1]))

    async def accept(self) -> tuple[HalfCloseableStream, SocketAddress]:
        """Wait for a stream that somebody opens, and give it with its other end's address."""
        if self._offered or self._closed:
            await trio.lowlevel.checkpoint()
        while not self._offered or self._paused:
            if self._closed:
                raise trio.ClosedResourceError
            await self._offers.park()
        if self._closed:
            raise trio.ClosedResourceError
        return self._offered.popleft()

    async def aclose(self) -> None:
        """Close the endpoint and its streams; what waits for it ends."""
        self.kill()
        await trio.lowlevel.checkpoint()

    # --- what the world does to it ---

    def kill(self) -> None:
        """Close at once, as the kernel does for a process that ends."""
        if self._closed:
            return
        self._closed = True
        self._network.forget(self)
        self._held_out.clear()
        self._held_in.clear()
        for stream in self._streams:
            stream.kill()
        self._streams.clear()
        self._arrived.unpark_all()
        self._offers.unpark_all()

    @property
    def is_paused(self) -> bool:
        """Whether everything is kept back."""
        return self._paused

    def pause(self) -> None:
        """Keep whatever it sends and is sent, until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Let go of what was kept."""
        if not self._paused:
            return
        self._paused = False
        held_out, self._held_out = self._held_out, []
        for data, to in held_out:
            self._network.send(self, data, to)
        held_in, self._held_in = self._held_in, []
        for act in held_in:
            act()
        self._arrived.unpark_all()
        self._offers.unpark_all()

    # --- what the network does to it ---

    def hold_back(self, what: Datagram | Callable[[], None]) -> bool:
        """Keep what arrives on a stream while paused; tells whether it was kept."""
        if self._paused and not isinstance(what, tuple):
            self._held_in.append(what)
            return True
        return False

    def deliver(self, packet: Datagram) -> bool:
        """Put a packet into the receive buffer, if it has room."""
        size = len(packet[0]) + _PACKET_OVERHEAD
        if self._buffered + size > _RECEIVE_BUFFER:
            return False
        self._buffered += size
        self._packets.append(packet)
        if not self._paused:
            self._arrived.unpark()
        return True

    def offer(self, stream: SimStream, source: SocketAddress) -> bool:
        """Put a stream where `accept` finds it, if there is room."""
        if len(self._offered) >= _BACKLOG:
            return False
        self.own(stream)
        self._offered.append((stream, source))
        self._offers.unpark()
        return True

    def own(self, stream: SimStream) -> None:
        """Take responsibility for a stream: it ends with the endpoint."""
        if len(self._streams) > 2 * _BACKLOG:
            self._streams = {one: None for one in self._streams if not one.is_closed}
        self._streams[stream] = None
