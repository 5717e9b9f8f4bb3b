"""Streams: exchanges over TCP, out and in. Each has a deadline, and all of them a limit."""

import gc
import logging
from functools import lru_cache
from typing import Final

import trio
from trio.abc import SendStream, Stream

from trioserf.address import Address
from trioserf.net.transport import Transport
from trioserf.node.config import NodeConfig
from trioserf.node.memory import trim_memory
from trioserf.node.push_pull_merge import decode_in_steps, merge_steps
from trioserf.node.state_owner import AutoResetEvent, StateOwner
from trioserf.node.stream_limits import OpenStream, StreamLimiter
from trioserf.serf.effects import DirectMessage
from trioserf.wire.errors import WireError
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import Ack, ErrorMessage, Message, Ping, PushPull, UserMessage

_log = logging.getLogger("trioserf.memberlist")

_CHUNK: Final = 65_536
_SPELLED: Final = 8
"""Messages by stream whose bytes are kept for the next member, compressed and sealed."""
_SENDERS: Final = 16
"""Messages by stream that are on their way at once."""
_CALM: Final = 1.0
"""Seconds after large exchanges until what they needed is given back."""
_ROW_SIZE: Final = 200
"""Bytes that Python needs for a name and its Lamport time."""


class RemoteError(ValueError):
    """The other side says that it cannot go on."""


class Streams:
    """Exchanges with other members.

    Args:
        transport: makes connections.
        config: for label, deadlines and limits.
        keeper: has the state, and with it the keys.

    Attributes:
        codec: bytes to messages and back.
        guests: all streams that are open.
    """

    def __init__(self, transport: Transport, config: NodeConfig, keeper: StateOwner) -> None:
        self.codec = StreamCodec(
            sealer=keeper.state.sealer,
            label=config.label.encode("utf-8", "surrogateescape"),
            compress=config.compression,
        )
        self._has_calmed = AutoResetEvent()
        self.open_streams = StreamLimiter(
            config.max_streams, config.stream_memory, self._has_calmed
        )
        self._transport = transport
        self._encode_cached = lru_cache(_SPELLED)(self._encode)
        self._timeout = config.timing.tcp_timeout
        self._owns_process = config.owns_process
        self._first_timeout = min(config.timing.tcp_timeout, config.timing.probe_timeout)
        self._keeper = keeper
        tally = keeper.state.counters
        self._accepted = tally.counter("memberlist.tcp.accept")
        self._connected = tally.counter("memberlist.tcp.connect")
        self._sent = tally.counter("memberlist.tcp.sent")
        self._exchanges = tally.values("memberlist.pushPullNode")
        # Whoever reads or merges something large takes turns, lest many of them hold up probes.
        self._work_lock = trio.Lock()

    # --- out ---

    async def exchange(self, to: Address, data: bytes) -> Message:
        """Send one message on a new stream and give the answer.

        Raises:
            OSError: nobody is there, or the deadline has passed (`TimeoutError`).
            ValueError: the answer cannot be understood (`WireError`), or is an error.
            trio.BrokenResourceError: the connection broke.
        """
        with self.open_streams.track(to, incoming=False) as guest:
            return await self._exchange(guest, data)

    async def _exchange(self, guest: OpenStream, data: bytes) -> Message:
        guest.scope.deadline = trio.current_time() + self._timeout
        with guest.scope:
            stream = await self._transport.dial(guest.peer)
            self._connected.add()
            async with stream:
                await self._send(stream, data)
                answer = await self._read(stream, guest)
        if guest.scope.cancelled_caught:
            if guest.fault is not None:
                raise WireError(guest.fault.kind, str(guest.fault))
            raise TimeoutError(f"no answer within {self._timeout:g} s")
        if isinstance(answer, ErrorMessage):
            raise RemoteError(f"the other side says: {answer.error}")
        return answer

    async def push_pull(self, to: Address, *, join: bool, ignore_events: bool = False) -> None:
        """Exchange states with a member.

        Raises:
            As `exchange`; also `WireError` for states that cannot be merged.
        """
        keeper = self._keeper
        started = trio.current_time()
        ours = await keeper.ask(lambda state, _: state.local_state(join=join))
        with self.open_streams.track(to, incoming=False) as guest:
            theirs = await self._exchange(guest, self.codec.encode_push_pull(ours))
            if not isinstance(theirs, PushPull):
                raise WireError(
                    "unknown-type", f"expected a push/pull, got {type(theirs).__name__}"
                )
            await self._merge(theirs, guest, ignore_events=ignore_events)
        self._exchanges.append((trio.current_time() - started) * 1000)

    async def send_messages(self) -> None:
        """Send what needs a stream of its own, until the node ends."""
        async with trio.open_nursery() as nursery:
            for _ in range(_SENDERS):
                nursery.start_soon(self._send_messages)

    async def _send_messages(self) -> None:
        queue = self._keeper.bulk
        while True:
            direct = await queue.next()
            if not self._keeper.state.is_present(direct.node, direct.address):
                self._count_lost(queue.drop_all(direct), direct.node, "it has gone")
                continue
            is_first = queue.is_first_attempt(direct)
            why = await self._send_message(
                direct, self._first_timeout if is_first else self._timeout
            )
            if why is None:
                queue.sent(direct)
            elif lost := queue.failed(direct):
                self._count_lost(lost, direct.node, why)
            else:
                _log.debug("no stream to %r yet: %s", direct.node, why)

    def _count_lost(self, count: int, node: str, why: str) -> None:
        self._keeper.dropped["streams"] += count
        what = "a message" if count == 1 else f"{count} messages"
        _log.warning("could not send %s to %r: %s", what, node, why)

    async def _send_message(self, direct: DirectMessage, timeout: float) -> str | None:
        """Send one; gives the reason if that does not work."""
        data = self._encoded(direct.data)
        try:
            with trio.fail_after(timeout):
                async with await self._transport.dial(direct.address) as stream:
                    await self._send(stream, data)
                    # Wait for its end, lest closing with unread data resets the connection.
                    await stream.send_eof()
                    await stream.receive_some(1)
        except trio.TooSlowError:
            return f"it took longer than {timeout:g} s"
        except (OSError, trio.BrokenResourceError) as error:
            return str(error) or type(error).__name__
        return None

    def _encoded(self, message: bytes) -> bytes:
        """Spell a message, which mostly goes to many members one after the other, once."""
        return self._encode_cached(message, self._keeper.state.sealer.sealed_with)

    def _encode(self, message: bytes, sealed_with: int | None) -> bytes:
        del sealed_with  # what was sealed with an older key is not for those who never had it
        return self.codec.encode_user_message(message)

    # --- in ---

    async def serve(self) -> None:
        """Take in streams until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._owns_process:
                nursery.start_soon(self._give_memory_back)
            while True:
                stream, (host, port) = await self._transport.accept()
                self._accepted.add()
                if not self.open_streams.evict_idle(trio.current_time()):
                    self._keeper.dropped["streams in"] += 1
                    await trio.aclose_forcefully(stream)
                    continue
                guest = self.open_streams.add(Address(host, port), incoming=True)
                nursery.start_soon(self._serve, stream, guest)

    async def _give_memory_back(self) -> None:
        """Give memory back each time when large streams have come and gone."""
        while True:
            await self._has_calmed.wait()
            await trio.sleep(_CALM)
            gc.collect()  # errors hold what they came through, and each other
            trim_memory()

    async def _serve(self, stream: Stream, guest: OpenStream) -> None:
        guest.scope.deadline = trio.current_time() + self._timeout
        try:
            with guest.scope:
                async with stream:
                    await self._answer(stream, guest)
            if guest.fault is not None:
                self._count(guest.fault, guest.peer)
            elif guest.scope.cancelled_caught:
                _log.debug("a stream from %s took longer than %g s", guest.peer, self._timeout)
        except (OSError, trio.BrokenResourceError) as error:
            _log.debug("a stream from %s broke: %s", guest.peer, error)
        finally:
            self.open_streams.remove(guest)

    async def _answer(self, stream: Stream, guest: OpenStream) -> None:
        state, source = self._keeper.state, guest.peer
        if not state.admits(source):
            self._count(WireError("not-allowed", "its address is not allowed"), source)
            return
        try:
            message = await self._read(stream, guest)
        except WireError as error:
            self._count(error, source)
            if error.kind != "truncated":
                await self._send(stream, self.codec.encode(encode(ErrorMessage(str(error)))))
            return
        match message:
            case PushPull():
                await self._take_push_pull(stream, message, guest)
            case UserMessage(payload):
                await self._keeper.ask(
                    lambda state, now: state.handle_user_message(payload, source, now)
                )
            case Ping(seq_no, node):
                if node == state.config.name:
                    await self._send(stream, self.codec.encode(encode(Ack(seq_no))))
                else:
                    _log.warning("stream ping for %r, from %s", node, source)
            case _:
                _log.debug("a %s on a stream from %s", type(message).__name__, source)

    async def _take_push_pull(self, stream: Stream, theirs: PushPull, guest: OpenStream) -> None:
        ours = await self._keeper.ask(lambda state, _: state.local_state(join=theirs.join))
        data = self.codec.encode_push_pull(ours)
        self.open_streams.set_held(guest, guest.held + len(data))
        await self._send(stream, data)
        try:
            await self._merge(theirs, guest)
        except ValueError as error:
            _log.error("push/pull from %s refused: %s", guest.peer, error)

    async def _merge(
        self, theirs: PushPull, guest: OpenStream, *, ignore_events: bool = False
    ) -> None:
        """Take in another's state, piece by piece if it is large."""
        # The reader makes two copies of the bytes on its way.
        before = guest.held + 2 * len(theirs.user_state)
        reading = decode_in_steps(theirs.user_state)
        try:
            rows = next(reading)
            while True:
                self.open_streams.set_held(guest, before + rows * _ROW_SIZE)
                async with self._work_lock:
                    rows = next(reading)
        except StopIteration as end:
            serf_state = end.value
        for step in merge_steps(
            self._keeper.state, theirs, serf_state, ignore_events=ignore_events
        ):
            await self._keeper.ask(step)
            async with self._work_lock:
                await trio.lowlevel.checkpoint()

    async def _send(self, stream: SendStream, data: bytes) -> None:
        self._sent.add(len(data))
        await stream.send_all(data)

    def _count(self, error: WireError, source: Address) -> None:
        self._keeper.state.drops.add(error, source, trio.current_time())

    async def _read(self, stream: Stream, guest: OpenStream) -> Message:
        decoder = self.codec.decoder()
        while True:
            data = await stream.receive_some(_CHUNK)
            if not data:
                raise decoder.end()
            self.open_streams.touch(guest, trio.current_time())
            message = decoder.feed(bytes(data))
            self.open_streams.set_held(guest, decoder.held)
            while message is None and decoder.is_busy:
                async with self._work_lock:
                    message = decoder.work()
                self.open_streams.set_held(guest, decoder.held)
            if message is not None:
                if decoder.fault is not None:
                    self._count(decoder.fault, guest.peer)
                return message
