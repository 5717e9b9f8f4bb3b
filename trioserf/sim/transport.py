"""A member's transport in the simulated network: the counterpart of `trioserf.net.sockets`."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from trio.abc import HalfCloseableStream

from trioserf.net.transport import BATCH, Datagram, SocketAddress, ignore_refusal, take_none
from trioserf.sim.streams import SimStream

_MAX_DATAGRAM: Final = 65_507
_RECEIVE_BUFFER: Final = 2 * 1024 * 1024
"""Bytes in the receive buffer, each packet with the kernel's overhead; more are dropped."""
_PACKET_OVERHEAD: Final = 512
_BACKLOG: Final = 128
"""Streams that wait to be accepted."""


class SimTransport:
    """A `Transport` in a simulated network; made by `Network.open`.

    Args:
        address: the bound address.
        send: puts a packet of this transport on the network.
        connect: opens a stream from this transport.
        unbind: releases the address.

    Attributes:
        address: the bound address.
        delay: seconds added to everything that this member sends.
        link_free_at: the instant at which its link has sent all queued packets.
        on_refused: see `Transport`.
        on_datagrams: see `Transport`.
    """

    def __init__(
        self,
        address: SocketAddress,
        *,
        send: "Callable[[SimTransport, bytes, SocketAddress], None]",
        connect: "Callable[[SimTransport, SocketAddress], Awaitable[SimStream]]",
        unbind: "Callable[[SimTransport], None]",
    ) -> None:
        self.address = address
        self.delay = 0.0
        self.link_free_at = 0.0
        self.on_refused: Callable[[SocketAddress], None] = ignore_refusal
        self.on_datagrams: Callable[[list[Datagram]], bool] = take_none
        self._send = send
        self._connect = connect
        self._unbind = unbind
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

    # --- the Transport protocol ---

    def send_packet(self, data: bytes, to: SocketAddress) -> bool:
        """Send a datagram without waiting; return False if it was dropped here."""
        if self._closed or len(data) > _MAX_DATAGRAM:
            return False
        if self._paused:
            self._held_out.append((data, to))
        else:
            self._send(self, data, to)
        return True

    async def receive_packets(self) -> list[Datagram]:
        """Wait for datagrams and return 1 to 64 of them.

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
            OSError: the connection was refused or timed out.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError
        return await self._connect(self, (to[0], to[1]))

    async def accept(self) -> tuple[HalfCloseableStream, SocketAddress]:
        """Wait for an incoming stream and return it with its remote address."""
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
        """Close the transport and its streams; pending calls end."""
        self.kill()
        await trio.lowlevel.checkpoint()

    # --- faults ---

    def kill(self) -> None:
        """Close at once, as the kernel does for a process that ends."""
        if self._closed:
            return
        self._closed = True
        self._unbind(self)
        self._held_out.clear()
        self._held_in.clear()
        for stream in self._streams:
            stream.kill()
        self._streams.clear()
        self._arrived.unpark_all()
        self._offers.unpark_all()

    @property
    def is_paused(self) -> bool:
        """Whether traffic is held in both directions."""
        return self._paused

    def pause(self) -> None:
        """Hold all traffic in both directions until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Send and deliver all held traffic."""
        if not self._paused:
            return
        self._paused = False
        held_out, self._held_out = self._held_out, []
        for data, to in held_out:
            self._send(self, data, to)
        held_in, self._held_in = self._held_in, []
        for callback in held_in:
            callback()
        self._arrived.unpark_all()
        self._offers.unpark_all()

    # --- calls from the network ---

    def hold(self, callback: Callable[[], None]) -> bool:
        """Hold a callback of a stream while paused; return whether it was held."""
        if self._paused:
            self._held_in.append(callback)
        return self._paused

    def deliver(self, packet: Datagram) -> bool:
        """Hand over a packet, or put it into the receive buffer; return False if that is full."""
        if not (self._packets or self._paused) and self.on_datagrams([packet]):
            return True
        size = len(packet[0]) + _PACKET_OVERHEAD
        if self._buffered + size > _RECEIVE_BUFFER:
            return False
        self._buffered += size
        self._packets.append(packet)
        if not self._paused:
            self._arrived.unpark()
        return True

    def report_refusal(self, target: SocketAddress) -> None:
        """Report that no process listens at an address, unless this transport is closed."""
        if not self._closed:
            self.on_refused(target)

    def offer(self, stream: SimStream, source: SocketAddress) -> bool:
        """Queue a stream for `accept`; return False if the backlog is full."""
        if len(self._offered) >= _BACKLOG:
            return False
        self.own(stream)
        self._offered.append((stream, source))
        self._offers.unpark()
        return True

    def own(self, stream: SimStream) -> None:
        """Close a stream together with this transport."""
        if len(self._streams) > 2 * _BACKLOG:
            self._streams = {one: None for one in self._streams if not one.is_closed}
        self._streams[stream] = None
