"""The owner: the only task that changes the state of a node (see README.md).

It reads one inbox. An item is a batch of packets, or a function to call with the state for another
task, which may wait for the result. After each item the owner runs the effects that the state has
left, without waiting: it sends or drops packets, delivers or drops events, and wakes other tasks.
So other tasks never read a half-done change, and there are no locks.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

import attrs
import outcome
import trio

from trioserf.errors import Leaving, NameConflict, NoSuchQuery
from trioserf.net.transport import SocketAddress, Transport, ignore_refusal
from trioserf.node.event_hub import EventHub
from trioserf.node.state import ClusterState, RefusalCheck
from trioserf.node.stream_queue import StreamSendQueue
from trioserf.node.timers import AutoResetEvent, DeadlineTimer
from trioserf.serf.name_conflict import lost_text
from trioserf.serf.serf import earlier
from trioserf.value_objects import ValueObject

_log = logging.getLogger("trioserf.memberlist")

_MAX_AT_ONCE: Final = 32
"""Items handled before another task can run."""
_MAX_BATCHES: Final = 16
"""Batches of packets in the inbox; more packets wait in the kernel, which bounds their bytes."""

_MAX_CHECKS: Final = 64
"""Suspects that wait for a connection; further ones are declared failed at the usual time."""

T = TypeVar("T")
Packets = list[tuple[bytes, tuple[str, int]]]


@attrs.frozen(eq=False, repr=False)
class PacketBatch(ValueObject):
    """Packets that were received together, at one instant."""

    packets: Packets
    at: float


class Request(Generic[T]):
    """A function to call with the state, for a task that waits for the result."""

    __slots__ = ("_act", "_done", "_outcome")

    def __init__(self, act: Callable[[ClusterState, float], T]) -> None:
        self._act = act
        self._done = trio.Event()
        self._outcome: outcome.Outcome[T] | None = None

    def run(self, state: ClusterState, now: float) -> None:
        """Call the function and keep its result, or its exception, for the caller."""
        self._outcome = outcome.capture(self._act, state, now)
        self._done.set()

    def fail_pending(self) -> None:
        """End the caller's wait with `Leaving`."""
        self._done.set()

    @property
    def has_succeeded(self) -> bool:
        """Whether the result is there: it need not be waited for, and is not an exception."""
        return type(self._outcome) is outcome.Value

    async def result(self) -> T:
        """Wait for the result, at once if it is there; raise what the function raised."""
        if not self._done.is_set():
            await self._done.wait()
        if self._outcome is None:
            raise Leaving("the node has ended")
        return self._outcome.unwrap()


Item = PacketBatch | Request[Any] | Callable[[ClusterState, float], None]


class StateOwner:
    """The owner of a node's state.

    Args:
        state: the state.
        transport: sends packets.
        hub: delivers events.

    Attributes:
        state: for other tasks to read, between two of their checkpoints.
        suspicion: the next deadline of a suspicion.
        deadline: the next deadline of anything else.
        repair: when the next push/pull for missed events may be due.
        gossip: wakes the gossip task when there is something to send.
        bulk: messages that need a stream of their own.
        checks: suspects to connect to.
        dropped: counts of unsent and refused items, by kind; not part of the state.
        push_pull_at: when the last push/pull was merged, ours or another member's; None before.
    """

    def __init__(self, state: ClusterState, transport: Transport, hub: EventHub) -> None:
        self.state = state
        self.suspicion = DeadlineTimer()
        self.deadline = DeadlineTimer()
        self.repair = DeadlineTimer()
        self.gossip = AutoResetEvent()
        self.bulk = StreamSendQueue()
        self._to_checks, self.checks = trio.open_memory_channel[RefusalCheck](_MAX_CHECKS)
        self.dropped: Counter[str] = Counter()
        self.push_pull_at: float | None = None
        self._sent_bytes = state.counters.counter("memberlist.udp.sent")
        self._transport = transport
        self._hub = hub
        depth = state.config.inbox_depth
        self._to_inbox, self._inbox = trio.open_memory_channel[Item](depth)
        self._batches = 0
        self._batch_handled = AutoResetEvent()
        self._was_gossiping = False
        hub.on_no_responder = self._decline

    # --- for other tasks ---

    async def ask(self, act: Callable[[ClusterState, float], T]) -> T:
        """Call a function with the state and wait for its result.

        Args:
            act: called in the owner's task with the state and the current time; must not wait.

        Raises:
            Leaving: the node has ended.
            Exception: what `act` raises.
        """
        return await (await self.submit(act)).result()

    async def submit(self, act: Callable[[ClusterState, float], T]) -> Request[T]:
        """Call a function with the state soon; the caller may wait for the result later.

        Requests are handled in the order of these calls. Not always a checkpoint.

        Args:
            act: as for `ask`.

        Raises:
            Leaving: the node has ended.
        """
        request = Request(act)
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            await self._put(request)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise Leaving("the node has ended") from None
        return request

    async def wait_for_inbox(self) -> None:
        """Return when everything in the inbox has been handled.

        Raises:
            Leaving: the node has ended.
        """
        await self.ask(lambda *_: None)

    async def tell(self, act: Callable[[ClusterState, float], None]) -> None:
        """Call a function with the state soon, without waiting for it.

        Args:
            act: as for `ask`; if it raises, the node ends.

        Raises:
            trio.ClosedResourceError: the node has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._put(act)

    async def receive(self, packets: Packets) -> None:
        """Put packets into the inbox; wait while too many batches are in it."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._batches >= _MAX_BATCHES:
            await self._batch_handled.wait()
        self._batches += 1
        await self._put(PacketBatch(packets, trio.current_time()))

    def receive_now(self, packets: Packets) -> bool:
        """Put packets into the inbox; return False, and do nothing, if it is full or closed."""
        if self._batches >= _MAX_BATCHES:
            return False
        try:
            self._to_inbox.send_nowait(PacketBatch(packets, trio.current_time()))
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            return False
        self._batches += 1
        return True

    async def _put(self, item: Item) -> None:
        """Put an item into the inbox; wait only while that is full.

        This is not always a checkpoint: every caller has another one before or after it.
        """
        try:
            self._to_inbox.send_nowait(item)
        except trio.WouldBlock:
            await self._to_inbox.send(item)

    @contextlib.contextmanager
    def refused_packets(self, on_refused: Callable[[SocketAddress], None]) -> Iterator[None]:
        """Call a function with the address of each refused packet, during the block."""
        if self.state.counts_refusals:
            self._transport.on_refused = on_refused
        try:
            yield
        finally:
            self._transport.on_refused = ignore_refusal

    @property
    def waiting(self) -> int:
        """Items in the inbox, at most `inbox_depth`."""
        return self._inbox.statistics().current_buffer_used

    def queue_depths(self) -> dict[str, int]:
        """Count waiting items by kind; every queue is bounded.

        The kinds are `inbox`, `membership`, `intent`, `event` and `query` (broadcasts),
        `suspicions`, `probes` and `relays` (indirect pings for other members).
        """
        state, membership = self.state, self.state.membership
        return {
            "inbox": self.waiting,
            "membership": len(membership.broadcasts),
            **{kind.lower(): len(queue) for kind, queue in state.serf.queues.items()},
            "suspicions": membership.suspect_count,
            "probes": state.detector.pending_probes,
            "relays": state.detector.pending_indirect_pings,
        }

    async def expire(self) -> None:
        """Handle all deadlines that have passed.

        Raises:
            Leaving: the node has ended.
        """

        def expire(state: ClusterState, now: float) -> None:
            state.expire(now)
            self._hub.expire(now)

        await self.ask(expire)

    # --- the task ---

    async def run(self) -> None:
        """Handle items until cancelled.

        Raises:
            NameConflict: another member keeps our name (see serf/README.md, § Name conflicts).
        """
        while True:
            if self.state.has_waiting:
                await trio.lowlevel.checkpoint()
                self.state.handle_waiting(trio.current_time())
                self.run_effects()
            else:
                self._handle(await self._inbox.receive())
            for _ in range(_MAX_AT_ONCE):
                try:
                    item = self._inbox.receive_nowait()
                except (trio.WouldBlock, trio.EndOfChannel):
                    break  # if closed, the next `receive` is cancelled
                self._handle(item)

    def fail_pending(self) -> None:
        """Close the inbox and end all waiting requests with `Leaving`.

        The node's own tasks, `run` included, must be cancelled already: this is for its users.
        """
        self._to_inbox.close()
        while True:
            try:
                item = self._inbox.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return
            if isinstance(item, Request):
                item.fail_pending()

    def _handle(self, item: Item) -> None:
        if isinstance(item, PacketBatch):
            self._batches -= 1
            self._batch_handled()
            self.state.handle_packets(item.packets, item.at)
        elif isinstance(item, Request):
            item.run(self.state, trio.current_time())
        else:
            item(self.state, trio.current_time())
        self.run_effects()

    def run_effects(self) -> None:
        """Run the effects that the state has left."""
        state = self.state
        serf = state.serf
        if serf.direct_messages or serf.large_broadcasts:
            self._queue_streams()
        if state.refusal_checks:
            self._queue_checks()
        packets = state.outbox.packets
        if packets:
            send = self._transport.send_packet
            count = self._sent_bytes.add
            for data, to in packets:
                count(len(data))
                if not send(data, to):
                    self.dropped["packets"] += 1
            packets.clear()
        if serf.events:
            for event in serf.events:
                self._hub.publish(event)
            serf.events.clear()
        self._wake_gossip()
        self.suspicion.move(state.next_suspicion)
        self.repair.move(serf.repair.next_deadline)
        self.deadline.move(earlier(state.next_deadline, self._hub.next_deadline))
        if serf.shutdown_orders:
            order = serf.shutdown_orders.pop()
            raise NameConflict(lost_text(order, state.config.name, state.address))

    def _queue_streams(self) -> None:
        for direct in self.state.pop_stream_messages():
            if not self.bulk.put(direct, first=True):
                self._drop("streams", f"a response for '{direct.node}'")
        for direct in self.state.pop_large_broadcasts():
            if not self.bulk.put(direct):
                self._drop("streams", f"an event or query for '{direct.node}'")

    def _queue_checks(self) -> None:
        for check in self.state.refusal_checks:
            try:
                self._to_checks.send_nowait(check)
            except trio.WouldBlock:
                self._drop("checks", f"the check of a suspect, '{check.name}'")
        self.state.refusal_checks.clear()

    def _wake_gossip(self) -> None:
        """Wake the gossip task if a message is new, or if gossip becomes possible again."""
        state = self.state
        has_gossip = state.has_gossip
        if has_gossip and (state.filler.has_unsent or not self._was_gossiping):
            self.gossip()
        self._was_gossiping = has_gossip

    def _decline(self, query_ids: list[int]) -> None:
        """Decline queries, without waiting for it."""

        def decline(state: ClusterState, now: float) -> None:
            for query_id in query_ids:
                with contextlib.suppress(NoSuchQuery):
                    state.serf.decline(query_id, now)

        try:
            self._to_inbox.send_nowait(Request(decline))
        except trio.WouldBlock:
            self._drop("declines", "a message that no response will follow")
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            _log.debug("the node has ended with open queries")

    def _drop(self, kind: str, what: str) -> None:
        self.dropped[kind] += 1
        if self.dropped[kind] == 1:
            _log.warning("dropped %s: too many %s wait already", what, kind)
