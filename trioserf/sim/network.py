"""A network that exists in virtual time only: late, lossy, divisible, and repeatable.

Every packet gets its fate when it is sent: lost, or due at some instant, perhaps twice. What is
due is handed over by the clock itself (`clock`), or under another clock by a task. All that is
random comes from one generator in the order of the sends, so a network with the same seed and the
same senders does the same again.

Members are known here by their addresses. A paused member's packets are kept on both sides, as a
stopped process's are: what it sends leaves when it goes on, what it is sent waits in its receive
buffer. (Its timers go on. That is harder than a stopped process, and is what Lifeguard's authors
did to theirs.)
"""

import errno
import heapq
import math
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import attrs
import trio
from attrs import validators as v

from trioserf.errors import AddressError
from trioserf.net.transport import Datagram, SocketAddress
from trioserf.sim.endpoint import SimTransport
from trioserf.sim.streams import SimStream, pair
from trioserf.sim.virtual_time import VirtualClock

_SEND_BACKLOG: Final = 0.1
"""Seconds that packets wait for their sender's link; beyond that they are dropped."""
_CONNECT_RETRIES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds until an unanswered SYN is sent again, as in Linux."""
_FIRST_PORT: Final = 32_768
_LAST_PORT: Final = 60_999


@attrs.frozen(slots=True, kw_only=True)
class LinkConditions:
    """How packets fare between any two members; the defaults are a quiet LAN.

    Attributes:
        latency: the least time from one to the other, in seconds.
        jitter: the mean of what comes on top, exponentially distributed, in seconds.
        loss: the share of packets that are lost, 0 to 1.
        duplicate: the share that arrive twice.
        reorder: the share that are held back, so that later ones overtake them.
        reorder_delay: for how long those are held back at most, in seconds.
        bandwidth: what each member can send, in bytes per second.
    """

    latency: float = attrs.field(default=0.0003, validator=v.ge(0))
    jitter: float = attrs.field(default=0.0002, validator=v.ge(0))
    loss: float = attrs.field(default=0.0, validator=v.and_(v.ge(0), v.le(1)))
    duplicate: float = attrs.field(default=0.0, validator=v.and_(v.ge(0), v.le(1)))
    reorder: float = attrs.field(default=0.0, validator=v.and_(v.ge(0), v.le(1)))
    reorder_delay: float = attrs.field(default=0.05, validator=v.ge(0))
    bandwidth: float = attrs.field(default=125e6, validator=v.gt(0))


class Network:
    """All members' endpoints, and what happens between them.

    Args:
        rng: all randomness.
        link: how packets fare; may be replaced at any time.

    Attributes:
        link: see there.
        counts: packets and bytes that were sent, packets delivered, and what became of the rest:
            `lost`, `cut`, `nobody` (there), `full` (buffer), `slow` (link), `doubled`; streams
            that were asked for, and the bytes that were `streamed`.
        checksum: of all packets that were ever delivered, where and when.
    """

    def __init__(self, rng: random.Random, link: LinkConditions | None = None) -> None:
        self.link = link or LinkConditions()
        self.counts: Counter[str] = Counter()
        self.checksum = 0
        self._rng = rng
        self._endpoints: dict[SocketAddress, SimTransport] = {}
        self._due: list[tuple[float, int, SocketAddress, Datagram | Callable[[], None]]] = []
        self._number = 0
        self._earlier = trio.lowlevel.ParkingLot()
        self._awake_at = math.inf
        self._sides: dict[SocketAddress, int] = {}
        self._cuts: set[tuple[SocketAddress, SocketAddress]] = set()
        self._loss_from: dict[SocketAddress, float] = {}
        self._loss_to: dict[SocketAddress, float] = {}
        self._has_faults = False
        self._next_port = _FIRST_PORT

    # --- endpoints ---

    def open(self, address: SocketAddress) -> SimTransport:
        """Bind an address; close it with its `aclose`, or at once with `kill`.

        Raises:
            AddressError: it is taken.
        """
        if address in self._endpoints:
            raise AddressError(f"cannot listen on {address[0]}:{address[1]}: it is in use")
        endpoint = SimTransport(self, address)
        self._endpoints[address] = endpoint
        return endpoint

    def forget(self, endpoint: SimTransport) -> None:
        """Unbind an address."""
        if self._endpoints.get(endpoint.address) is endpoint:
            del self._endpoints[endpoint.address]

    # --- faults ---

    def partition(self, *groups: Iterable[SocketAddress]) -> None:
        """Let only members of the same group reach each other; the rest are one group more."""
        self._sides = {addr: side for side, group in enumerate(groups, 1) for addr in group}
        self._note_faults()

    def cut(self, source: SocketAddress, target: SocketAddress) -> None:
        """Let nothing through from one member to another; the way back still works."""
        self._cuts.add((source, target))
        self._note_faults()

    def mend(self, source: SocketAddress, target: SocketAddress) -> None:
        """Undo a `cut`."""
        self._cuts.discard((source, target))
        self._note_faults()

    def lose(self, address: SocketAddress, *, sent: float = 0.0, received: float = 0.0) -> None:
        """Lose shares (0 to 1) of what a member sends and of what it is sent; 0 ends it."""
        for book, share in ((self._loss_from, sent), (self._loss_to, received)):
            book.pop(address, None)
            if share:
                book[address] = share
        self._note_faults()

    def heal(self) -> None:
        """End every partition, cut and loss of single members."""
        self._sides = {}
        self._cuts.clear()
        self._loss_from.clear()
        self._loss_to.clear()
        self._note_faults()

    def _note_faults(self) -> None:
        self._has_faults = bool(self._sides or self._cuts or self._loss_from or self._loss_to)

    def passes(self, source: SocketAddress, target: SocketAddress) -> bool:
        """Tell whether anything gets through from one address to another now."""
        sides = self._sides
        return sides.get(source, 0) == sides.get(target, 0) and (source, target) not in self._cuts

    def flows(self, source: SocketAddress, target: SocketAddress) -> bool:
        """Tell whether what a member wrote on a stream leaves it, and gets through."""
        endpoint = self._endpoints.get(source)
        return self.passes(source, target) and not (endpoint is not None and endpoint.is_paused)

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
        """Decide the fate of a packet."""
        counts, random_ = self.counts, self._rng.random
        counts["packets"] += 1
        counts["bytes"] += len(data)
        here = source.address
        if self._has_faults and not self.passes(here, to):
            counts["cut"] += 1
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
            counts["doubled"] += 1
            self._put(at + self._latency(), to, (data, here))

    def _latency(self) -> float:
        link = self.link
        return link.latency + (self._rng.expovariate(1 / link.jitter) if link.jitter else 0.0)

    def _put(self, at: float, to: SocketAddress, what: Datagram | Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._due, (at, self._number, to, what))
        if at < self._awake_at:
            self._earlier.unpark()

    async def run(self) -> None:
        """Hand over what is due, until cancelled: by the clock if it can, or else by this task."""
        clock = trio.lowlevel.current_clock()
        if isinstance(clock, VirtualClock):
            clock.agenda = self
            try:
                await trio.sleep_forever()
            finally:
                clock.agenda = None
        while True:
            self.act(trio.current_time())
            self._awake_at = self.next_at
            with trio.move_on_at(self._awake_at):
                await self._earlier.park()

    @property
    def next_at(self) -> float:
        """The instant at which something is due; infinite if nothing is."""
        return self._due[0][0] if self._due else math.inf

    def act(self, now: float) -> None:
        """Hand over what is due by now."""
        due = self._due
        while due and due[0][0] <= now:
            _, _, to, what = heapq.heappop(due)
            endpoint = self._endpoints.get(to)
            if endpoint is None and isinstance(what, tuple):
                self.counts["nobody"] += 1
            elif endpoint is None or not endpoint.hold_back(what):
                self._hand_over(endpoint, what)

    def _hand_over(
        self, endpoint: SimTransport | None, what: Datagram | Callable[[], None]
    ) -> None:
        if not isinstance(what, tuple):
            what()
        elif endpoint is not None and endpoint.deliver(what):
            self.counts["delivered"] += 1
            self.checksum = zlib.crc32(what[0], self.checksum)
        else:
            self.counts["full"] += 1

    # --- streams ---

    def call_at(self, at: float, to: SocketAddress, act: Callable[[], None]) -> None:
        """Do something at a member's end of a stream, once it is due and the member runs."""
        self._put(at, to, act)

    def stream_delay(
        self, source: SocketAddress, target: SocketAddress, size: int, resend: float
    ) -> float:
        """Give how long a stretch of a stream takes, with what must be sent again."""
        delay = self._latency() + size / self.link.bandwidth
        for address in (source, target):
            endpoint = self._endpoints.get(address)
            if endpoint is not None:
                delay += endpoint.delay
        loss = min(self._loss(source, target), 0.99)
        while loss and self._rng.random() < loss:
            delay += resend
            resend *= 2
        return delay

    async def connect(self, source: SimTransport, to: SocketAddress) -> SimStream:
        """Open a stream.

        Raises:
            OSError: refused, or no answer for two minutes.
        """
        here = source.address
        self.counts["streams"] += 1
        for pause in _CONNECT_RETRIES:
            started = trio.current_time()
            if self.flows(here, to) and self.passes(to, here):
                there = self.stream_delay(here, to, 0, pause)
                await trio.sleep(there + self.stream_delay(to, here, 0, pause))
                target = self._endpoints.get(to)
                if target is None:
                    text = f"[Errno {errno.ECONNREFUSED}] Connection refused"
                    raise ConnectionRefusedError(errno.ECONNREFUSED, text)
                self._next_port = (
                    self._next_port + 1 if self._next_port < _LAST_PORT else _FIRST_PORT
                )
                near, far = pair(self, here, to)
                if target.offer(far, (here[0], self._next_port)):
                    source.own(near)
                    return near
            await trio.sleep_until(started + pause)
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")
