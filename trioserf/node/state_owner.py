"""The only task that changes the state of a node.

It reads one inbox. Every item is a fact: packets that came, or something that some other task
wants done with the state, which may wait for the result. After each the keeper does what the state
ordered, without waiting for anything: packets are sent or dropped, events delivered or counted
as missed, other tasks woken. So nothing is ever half done when somebody looks, and there are no
locks.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import attrs
import outcome
import trio

from trioserf.errors import Leaving, NameConflict, NoSuchQuery
from trioserf.net.transport import Transport
from trioserf.node.event_hub import EventHub
from trioserf.node.state import ClusterState
from trioserf.node.stream_queue import StreamSendQueue

_log = logging.getLogger("trioserf.memberlist")

_AT_ONCE: Final = 32
"""Facts taken in without letting another task run."""
_BATCHES_WAITING: Final = 16
"""Batches of packets in the inbox; more may wait in the kernel, which bounds their bytes."""

T = TypeVar("T")
Packets = list[tuple[bytes, tuple[str, int]]]


@attrs.frozen(slots=True)
class PacketBatch:
    """Packets that came together, at this instant."""

    packets: Packets
    at: float


class Request(Generic[T]):
    """Something to be done with the state; somebody waits for the result."""

    __slots__ = ("_act", "_done", "_outcome")

    def __init__(self, act: Callable[[ClusterState, float], T]) -> None:
        self._act = act
        self._done = trio.Event()
        self._outcome: outcome.Outcome[T] = outcome.Error(Leaving("the node has ended"))

    def run(self, state: ClusterState, now: float) -> None:
        """Do it; an error is the caller's to hear."""
        self._outcome = outcome.capture(self._act, state, now)
        self._done.set()

    def fail_pending(self) -> None:
        """Tell the caller that it will not be done."""
        self._done.set()

    async def result(self) -> T:
        """Wait for the result, or raise what went wrong."""
        await self._done.wait()
        return self._outcome.unwrap()


Item = PacketBatch | Request[Any] | Callable[[ClusterState, float], None]


class AutoResetEvent:
    """Wakes one task; calls before it sleeps are not lost."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    def __call__(self) -> None:
        """Wake it."""
        self._event.set()

    async def wait(self) -> None:
        """Sleep until woken."""
        await self._event.wait()
        self._event = trio.Event()


class DeadlineTimer:
    """An instant at which something becomes due, and the task that waits for it."""

    __slots__ = ("at", "wake")

    def __init__(self) -> None:
        self.at: float | None = None
        self.wake = AutoResetEvent()

    def move(self, at: float | None) -> None:
        """Set the instant; the task is only woken if it would sleep for too long."""
        if at != self.at:
            earlier = at is not None and (self.at is None or at < self.at)
            self.at = at
            if earlier:
                self.wake()

    async def wait(self) -> float:
        """Sleep until the instant has come, and give it."""
        while True:
            at = self.at
            if at is None:
                await self.wake.wait()
            elif trio.current_time() >= at:
                await trio.lowlevel.checkpoint()
                return at
            else:
                with trio.move_on_at(at):
                    await self.wake.wait()


class StateOwner:
    """The owner of a node's state.

    Args:
        state: what it keeps.
        transport: where packets go.
        hub: where events go.

    Attributes:
        state: for others to read, between two of their checkpoints.
        suspicion: when a suspicion runs out.
        deadline: when a query, or something else of the kind, runs out.
        gossip: woken when there is something to say.
        bulk: messages that need a stream of their own.
        dropped: counts of what was not sent, by reason.
    """

    def __init__(self, state: ClusterState, transport: Transport, hub: EventHub) -> None:
        self.state = state
        self.suspicion = DeadlineTimer()
        self.deadline = DeadlineTimer()
        self.gossip = AutoResetEvent()
        self.bulk = StreamSendQueue()
        self.dropped: Counter[str] = Counter()
        self._sent_bytes = state.counters.counter("memberlist.udp.sent")
        self._transport = transport
        self._hub = hub
        depth = state.config.inbox_depth
        self._to_inbox, self._inbox = trio.open_memory_channel[Item](depth)
        self._batches = 0
        self._fewer_batches = AutoResetEvent()
        self._is_talking = False
        hub.on_no_responder = self._decline

    # --- for other tasks ---

    async def ask(self, act: Callable[[ClusterState, float], T]) -> T:
        """Have something done with the state and wait for the result.

        Args:
            act: is called with the state and the instant; it must not wait for anything.

        Raises:
            Leaving: the node has ended.
            Exception: whatever `act` raises.
        """
        call = Request(act)
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            await self._put(call)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise Leaving("the node has ended") from None
        return await call.result()

    async def tell(self, act: Callable[[ClusterState, float], None]) -> None:
        """Have something done with the state soon, without waiting for it.

        Args:
            act: is called with the state and the instant; if it raises, the node ends.

        Raises:
            trio.ClosedResourceError: the node has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._put(act)

    async def receive(self, packets: Packets) -> None:
        """Hand in packets; waits while many are waiting, as they may wait in the kernel."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._batches >= _BATCHES_WAITING:
            await self._fewer_batches.wait()
        self._batches += 1
        await self._put(PacketBatch(packets, trio.current_time()))

    async def _put(self, fact: Item) -> None:
        """Put something into the inbox; waits only while that is full.

        Whoever calls this waits for something else before or after, where a task gives way to
        others: a result, or the next packets. So no time is lost on giving way here too.
        """
        try:
            self._to_inbox.send_nowait(fact)
        except trio.WouldBlock:
            await self._to_inbox.send(fact)

    @property
    def waiting(self) -> int:
        """How many facts wait to be taken in, at most `inbox_depth`."""
        return self._inbox.statistics().current_buffer_used

    async def expire(self) -> None:
        """Do what is due by now.

        Raises:
            Leaving: the node has ended.
        """

        def expire(state: ClusterState, now: float) -> None:
            state.expire(now)
            self._hub.expire(now)

        await self.ask(expire)

    # --- the task ---

    async def run(self) -> None:
        """Take in facts until cancelled.

        Raises:
            NameConflict: the cluster holds our name for somebody else's.
        """
        while True:
            fact = await self._inbox.receive()
            self._take(fact)
            for _ in range(_AT_ONCE):
                try:
                    fact = self._inbox.receive_nowait()
                except (trio.WouldBlock, trio.EndOfChannel):
                    break  # closed: this task is cancelled as soon as it waits
                self._take(fact)

    def fail_pending(self) -> None:
        """Tell everyone who still waits for the state that it is gone; `run` has ended, or will.

        The node's own tasks must have been cancelled before: this is for those of its users.
        """
        self._to_inbox.close()
        while True:
            try:
                fact = self._inbox.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return
            if isinstance(fact, Request):
                fact.fail_pending()

    def _take(self, fact: Item) -> None:
        if isinstance(fact, PacketBatch):
            self._batches -= 1
            self._fewer_batches()
            self.state.handle_packets(fact.packets, fact.at)
        elif isinstance(fact, Request):
            fact.run(self.state, trio.current_time())
        else:
            fact(self.state, trio.current_time())
        self.run_effects()

    def run_effects(self) -> None:
        """Do what the state has ordered."""
        state = self.state
        for direct in state.pop_stream_messages():
            if not self.bulk.put(direct, first=True):
                self._drop("streams", f"an answer for {direct.node!r}")
        for direct in state.pop_large_broadcasts():
            if not self.bulk.put(direct):
                self._drop("streams", f"an event or query for {direct.node!r}")
        packets = state.outbox.packets
        if packets:
            send = self._transport.send_packet
            count = self._sent_bytes.add
            for data, to in packets:
                count(len(data))
                if not send(data, to):
                    self.dropped["packets"] += 1
            packets.clear()
        serf = state.serf
        if serf.events:
            for event in serf.events:
                self._hub.publish(event)
            serf.events.clear()
        self._wake_gossip()
        self.suspicion.move(state.next_suspicion)
        self.deadline.move(_earlier(state.next_deadline, self._hub.next_deadline))
        if serf.shutdown_orders:
            order = serf.shutdown_orders.pop()
            raise NameConflict(
                f"another member has the name {state.config.name!r}, and the majority sides with"
                f" it ({order.matching} of {order.answers} answers for us)"
            )

    def _wake_gossip(self) -> None:
        """Wake the task that gossips if there is news, or again something to say."""
        state = self.state
        is_talking = state.has_gossip
        if is_talking and (state.filler.has_unsent or not self._is_talking):
            self.gossip()
        self._is_talking = is_talking

    def _decline(self, numbers: list[int]) -> None:
        """Decline queries of which nobody waits to hear that they were declined."""

        def decline(state: ClusterState, now: float) -> None:
            for number in numbers:
                with contextlib.suppress(NoSuchQuery):
                    state.serf.decline(number, now)

        try:
            self._to_inbox.send_nowait(Request(decline))
        except trio.WouldBlock:
            self._drop("declines", "the word that no answer will follow")
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            _log.debug("the node has ended with queries undecided")

    def _drop(self, kind: str, what: str) -> None:
        self.dropped[kind] += 1
        if self.dropped[kind] == 1:
            _log.warning("dropped %s: too many %s wait already", what, kind)


def _earlier(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
