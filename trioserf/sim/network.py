"""A simulated network that delays, loses, duplicates and reorders packets, repeatably.

When a packet is sent, it is dropped or scheduled for delivery at an instant, perhaps twice. The
`VirtualClock` runs deliveries that are due; under another clock a task does. All randomness comes
from one generator in the order of the sends, so the same seed and the same sends give the same
deliveries.

The network identifies members by their addresses. Traffic of a paused member waits on both sides,
as for a stopped process: its packets leave when it resumes, packets to it wait in its receive
buffer. Its timers go on, unlike those of a stopped process, as in Lifeguard's experiment.
"""

import errno
import heapq
import math
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import attrs
import trio
from attrs import validators as v

from trioserf.errors import AddressError
from trioserf.net.transport import Datagram, SocketAddress
from trioserf.sim.streams import SimStream, pair
from trioserf.sim.transport import SimTransport
from trioserf.sim.virtual_time import VirtualClock

_SEND_BACKLOG: Final = 0.1
"""Seconds that packets may wait for their sender's link; later packets are dropped."""
_CONNECT_RETRIES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds until an unanswered SYN is sent again, as in Linux."""
_FIRST_PORT: Final = 32_768
_LAST_PORT: Final = 60_999

_Event = tuple[float, int, SocketAddress, Datagram | Callable[[], None]]
"""Instant, number, target, and a packet to deliver or a callback to call."""


@attrs.frozen(kw_only=True)
class LinkConditions:
    """Conditions between any two members; the defaults are those of a quiet LAN.

    Attributes:
        latency: the minimum one-way delay, in seconds.
        jitter: the mean of the exponentially distributed delay on top, in seconds.
        loss: the share of packets that are lost, 0 to 1.
        duplicate: the share that arrive twice.
        reorder: the share that are delayed, so that later ones overtake them.
        reorder_delay: the maximum of that delay, in seconds.
        bandwidth: bytes per second that each member can send.
    """

    latency: float = attrs.field(default=0.0003, validator=v.ge(0))
    jitter: float = attrs.field(default=0.0002, validator=v.ge(0))
    loss: float = attrs.field(default=0.0, validator=v.and_(v.ge(0), v.le(1)))
    duplicate: float = attrs.field(default=0.0, validator=v.and_(v.ge(0), v.le(1)))
    reorder: float = attrs.field(default=0.0, validator=v.and_(v.ge(0), v.le(1)))
    reorder_delay: float = attrs.field(default=0.05, validator=v.ge(0))
    bandwidth: float = attrs.field(default=125e6, validator=v.gt(0))


QUIET_LAN: Final = LinkConditions()


class Network:
    """All transports and the links between them.

    Args:
        rng: the source of all randomness.
        link: conditions of all links; may be replaced at any time.

    Attributes:
        link: conditions of all links.
        counts: `packets` and `bytes` sent, packets `delivered`, dropped as `lost`, `cut`,
            `unbound` (no transport there), `full` (receive buffer) or `slow` (link), and
            `duplicated`; `streams` dialled and bytes `streamed`.
        checksum: CRC-32 of all delivered packets, in order.
    """

    def __init__(self, rng: random.Random, link: LinkConditions = QUIET_LAN) -> None:
        self.link = link
        self.counts: Counter[str] = Counter()
        self.checksum = 0
        self._rng = rng
        self._transports: dict[SocketAddress, SimTransport] = {}
        self._events: list[_Event] = []
        self._number = 0
        self._wakeup = trio.lowlevel.ParkingLot()
        self._awake_at = math.inf
        self._sides: dict[SocketAddress, int] = {}
        self._cuts: set[tuple[SocketAddress, SocketAddress]] = set()
        self._rejects: set[tuple[SocketAddress, SocketAddress]] = set()
        self._loss_from: dict[SocketAddress, float] = {}
        self._loss_to: dict[SocketAddress, float] = {}
        self._has_faults = False
        self._next_port = _FIRST_PORT

    # --- transports ---

    def open(self, address: SocketAddress) -> SimTransport:
        """Return a transport bound to an address; `aclose` or `kill` releases it.

        Raises:
            AddressError: the address is in use.
        """
        if address in self._transports:
            raise AddressError(f"cannot listen on {address[0]}:{address[1]}: it is in use")
        transport = SimTransport(
            address, send=self.send, connect=self._connect, unbind=self._unbind
        )
        self._transports[address] = transport
        return transport

    def _unbind(self, transport: SimTransport) -> None:
        if self._transports.get(transport.address) is transport:
            del self._transports[transport.address]

    # --- faults ---

    def partition(self, *groups: Iterable[SocketAddress]) -> None:
        """Allow traffic inside each group only; all other members form one more group."""
        self._sides = {addr: side for side, group in enumerate(groups, 1) for addr in group}
        self._update_faults()

    def cut(self, source: SocketAddress, target: SocketAddress, *, reject: bool = False) -> None:
        """Block traffic from one member to another; the other direction still works.

        With `reject` a firewall beside the source refuses packets and connections, as if no
        process listened at the target.
        """
        self._cuts.add((source, target))
        if reject:
            self._rejects.add((source, target))
        self._update_faults()

    def mend(self, source: SocketAddress, target: SocketAddress) -> None:
        """Undo a `cut`."""
        self._cuts.discard((source, target))
        self._rejects.discard((source, target))
        self._update_faults()

    def lose(self, address: SocketAddress, *, sent: float = 0.0, received: float = 0.0) -> None:
        """Drop shares (0 to 1) of the packets from and to a member; 0 ends it."""
        for losses, share in ((self._loss_from, sent), (self._loss_to, received)):
            losses.pop(address, None)
            if share:
                losses[address] = share
        self._update_faults()

    def heal(self) -> None:
        """End every partition, every cut and the loss of single members."""
        self._sides = {}
        self._cuts.clear()
        self._rejects.clear()
        self._loss_from.clear()
        self._loss_to.clear()
        self._update_faults()

    def _update_faults(self) -> None:
        self._has_faults = bool(self._sides or self._cuts or self._loss_from or self._loss_to)

    def passes(self, source: SocketAddress, target: SocketAddress) -> bool:
        """Return whether traffic from one address to another passes now."""
        sides = self._sides
        return sides.get(source, 0) == sides.get(target, 0) and (source, target) not in self._cuts

    def flows(self, source: SocketAddress, target: SocketAddress) -> bool:
        """Return whether bytes on a stream leave their sender and pass now."""
        sender = self._transports.get(source)
        return self.passes(source, target) and not (sender is not None and sender.is_paused)

    def _loss(self, source: SocketAddress, target: SocketAddress) -> float:
        loss = self.link.loss
        if self._has_faults:
            kept = 1 - loss
            kept *= 1 - self._loss_from.get(source, 0.0)
            kept *= 1 - self._loss_to.get(target, 0.0)
            loss = 1 - kept
        return loss

    # --- packets ---

    def send(self, source: SimTransport, data: bytes, to: SocketAddress) -> None:
        """Drop a packet or schedule its delivery."""
        counts, random_ = self.counts, self._rng.random
        counts["packets"] += 1
        counts["bytes"] += len(data)
        here = source.address
        if self._has_faults and not self.passes(here, to):
            counts["cut"] += 1
            if (here, to) in self._rejects:
                self._put(trio.current_time(), here, partial(source.report_refusal, to))
            return
        loss = self._loss(here, to)
        if loss and random_() < loss:
            counts["lost"] += 1
            return
        link = self.link
        now = trio.current_time()
        leaves = max(now, source.link_free_at) + len(data) / link.bandwidth
        if leaves - now > _SEND_BACKLOG:
            counts["slow"] += 1
            return
        source.link_free_at = leaves
        at = leaves + source.delay + self._latency()
        if link.reorder and random_() < link.reorder:
            at += random_() * link.reorder_delay
        self._put(at, to, (data, here))
        if link.duplicate and random_() < link.duplicate:
            counts["duplicated"] += 1
            self._put(at + self._latency(), to, (data, here))

    def _latency(self) -> float:
        link = self.link
        return link.latency + (self._rng.expovariate(1 / link.jitter) if link.jitter else 0.0)

    def _put(self, at: float, to: SocketAddress, item: Datagram | Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, to, item))
        if at < self._awake_at:
            self._wakeup.unpark()

    async def run(self) -> None:
        """Deliver what is due until cancelled, by the `VirtualClock` or else in this task."""
        clock = trio.lowlevel.current_clock()
        if isinstance(clock, VirtualClock):
            clock.events = self
            try:
                await trio.sleep_forever()
            finally:
                clock.events = None
        while True:
            self.run_due(trio.current_time())
            self._awake_at = self.next_at
            with trio.move_on_at(self._awake_at):
                await self._wakeup.park()

    @property
    def next_at(self) -> float:
        """The instant of the next event; infinite if there is none."""
        return self._events[0][0] if self._events else math.inf

    def run_due(self, now: float) -> None:
        """Deliver what is due."""
        events = self._events
        while events and events[0][0] <= now:
            _, _, to, item = heapq.heappop(events)
            transport = self._transports.get(to)
            if isinstance(item, tuple):
                self._deliver(transport, item, to)
            elif transport is None or not transport.hold(item):
                item()

    def _deliver(
        self, transport: SimTransport | None, packet: Datagram, to: SocketAddress
    ) -> None:
        if transport is None:
            self.counts["unbound"] += 1
            self._refuse(packet[1], to)
        elif transport.deliver(packet):
            self.counts["delivered"] += 1
            self.checksum = zlib.crc32(packet[0], self.checksum)
        else:
            self.counts["full"] += 1

    def _refuse(self, source: SocketAddress, target: SocketAddress) -> None:
        """Report to a sender that no process listens at the target, as ICMP does."""
        sender = self._transports.get(source)
        loss = self._loss(target, source)
        if sender is None or not self.passes(target, source):
            return
        if not loss or self._rng.random() >= loss:
            at = trio.current_time() + self._latency()
            self._put(at, source, partial(sender.report_refusal, target))

    # --- streams ---

    def call_at(self, at: float, to: SocketAddress, callback: Callable[[], None]) -> None:
        """Schedule a callback at a member's end of a stream; a pause of the member delays it."""
        self._put(at, to, callback)

    def stream_delay(
        self, source: SocketAddress, target: SocketAddress, size: int, resend: float
    ) -> float:
        """Return the seconds until a segment of a stream arrives, with retransmissions."""
        delay = self._latency() + size / self.link.bandwidth
        for address in (source, target):
            transport = self._transports.get(address)
            if transport is not None:
                delay += transport.delay
        loss = min(self._loss(source, target), 0.99)
        while loss and self._rng.random() < loss:
            delay += resend
            resend *= 2
        return delay

    async def _connect(self, source: SimTransport, to: SocketAddress) -> SimStream:
        here = source.address
        self.counts["streams"] += 1
        for pause in _CONNECT_RETRIES:
            started = trio.current_time()
            if (here, to) in self._rejects:
                await trio.lowlevel.checkpoint()
                raise _refused()
            if self.flows(here, to) and self.passes(to, here):
                there = self.stream_delay(here, to, 0, pause)
                await trio.sleep(there + self.stream_delay(to, here, 0, pause))
                target = self._transports.get(to)
                if target is None:
                    raise _refused()
                self._next_port = (
                    self._next_port + 1 if self._next_port < _LAST_PORT else _FIRST_PORT
                )
                near, far = pair(self, here, to)
                if target.offer(far, (here[0], self._next_port)):
                    source.own(near)
                    return near
            await trio.sleep_until(started + pause)
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")


def _refused() -> ConnectionRefusedError:
    text = f"[Errno {errno.ECONNREFUSED}] Connection refused"
    return ConnectionRefusedError(errno.ECONNREFUSED, text)
