"""Exchanges on streams, outgoing and incoming; they have deadlines and limits.

See wire/README.md, § Streams.
"""

import gc
import logging
from functools import lru_cache, partial
from typing import Final

import trio
from trio.abc import SendStream, Stream

from trioserf.address import Address
from trioserf.errors import reason_of
from trioserf.memory import trim_memory
from trioserf.net.transport import Transport
from trioserf.node.config import NodeConfig
from trioserf.node.push_pull_merge import PIECE, MergeStep, StepwiseReader, merge_steps
from trioserf.node.state import ClusterState
from trioserf.node.state_owner import StateOwner
from trioserf.node.stream_limits import OpenStream, StreamLimiter
from trioserf.node.timers import AutoResetEvent
from trioserf.printable import short_name
from trioserf.serf.effects import DirectMessage
from trioserf.swim.failure_detector import StreamReach
from trioserf.wire import serf_codec
from trioserf.wire.errors import WireError
from trioserf.wire.stream import StreamCodec, encode_nodes
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import (
    Ack,
    ErrorMessage,
    Message,
    NodeState,
    Ping,
    PushPull,
    UserMessage,
)

_log = logging.getLogger("trioserf.memberlist")

_CHUNK: Final = 65_536
_CACHED_MESSAGES: Final = 8
"""Encoded messages kept for the next member, compressed and encrypted."""
_SENDERS: Final = 16
"""Messages sent on streams at once."""
_TRIM_DELAY: Final = 1.0
"""Seconds after large exchanges until their memory is returned to the system."""
_ROW_SIZE: Final = 200
"""Bytes that Python needs for a name and its Lamport time."""


class RemoteError(ValueError):
    """The peer has sent an error message."""


class Streams:
    """Exchanges with other members.

    Args:
        transport: opens and accepts streams.
        config: label, deadlines and limits.
        owner: the owner of the state, which also has the keys.

    Attributes:
        codec: encodes and decodes messages.
        open_streams: all open streams.
    """

    def __init__(self, transport: Transport, config: NodeConfig, owner: StateOwner) -> None:
        self.codec = StreamCodec(
            sealer=owner.state.sealer,
            label=config.label.encode("utf-8", "surrogateescape"),
            compress=config.compression,
        )
        self._is_quiet = AutoResetEvent()
        self.open_streams = StreamLimiter(config.max_streams, config.stream_memory, self._is_quiet)
        self._transport = transport
        self._encode_cached = lru_cache(_CACHED_MESSAGES)(self._encode)
        self._timeout = config.timing.tcp_timeout
        self._owns_process = config.owns_process
        self._first_timeout = min(config.timing.tcp_timeout, config.timing.probe_timeout)
        self._owner = owner
        counters = owner.state.counters
        self._accepted = counters.counter("memberlist.tcp.accept")
        self._connected = counters.counter("memberlist.tcp.connect")
        self._sent = counters.counter("memberlist.tcp.sent")
        self._exchanges = counters.values("memberlist.pushPullNode")
        self._gauges = counters.gauges
        # Large messages are read, merged and encoded one at a time: they must not delay probes.
        self._work_lock = trio.Lock()

    # --- outgoing ---

    async def exchange(self, to: Address, data: bytes) -> Message:
        """Send one message on a new stream and return the response.

        Raises:
            OSError: the connection failed, or the deadline has passed (`TimeoutError`).
            ValueError: the response is malformed (`WireError`) or an error (`RemoteError`).
            trio.BrokenResourceError: the connection broke.
        """
        with self.open_streams.track(to, incoming=False) as tracked:
            return await self._exchange(tracked, data)

    async def _exchange(self, tracked: OpenStream, data: bytes) -> Message:
        tracked.scope.deadline = trio.current_time() + self._timeout
        with tracked.scope:
            stream = await self._transport.dial(tracked.peer)
            self._connected.add()
            async with stream:
                await self._send(stream, data)
                response = await self._read(stream, tracked, is_answer=True)
        if tracked.scope.cancelled_caught:
            if tracked.error is not None:
                raise WireError(tracked.error.kind, str(tracked.error))
            raise TimeoutError(f"no response within {self._timeout:g} s")
        if isinstance(response, ErrorMessage):
            raise RemoteError(f"the peer reports an error: {response.error}")
        return response

    async def ping(self, name: str, to: Address) -> StreamReach:
        """Ping a member and return what that shows. The caller sets the deadline."""
        ping = self._owner.state.detector.stream_ping(name)
        try:
            response = await self.exchange(to, self.codec.encode(ping))
        except ConnectionRefusedError:
            return "refused"
        except (OSError, ValueError, trio.BrokenResourceError) as error:
            _log.debug("no answer of '%s' on a stream: %s", short_name(name), reason_of(error))
            return "silent"
        return "acked" if isinstance(response, Ack) and response.seq_no == 0 else "silent"

    async def read_members(self, at: Address) -> tuple[NodeState, ...]:
        """Return the member table of a member without announcing ourselves.

        This is a push/pull without rows and without a state of Serf's layer, from which the
        member learns nothing.

        Raises:
            As `exchange`.
        """
        theirs = await self.exchange(at, self.codec.encode_push_pull(PushPull(False, (), b"")))
        return _checked(theirs).nodes

    async def push_pull(self, to: Address, *, join: bool, ignore_events: bool = False) -> None:
        """Exchange states with a member.

        Raises:
            As `exchange`; also `WireError` for states that cannot be merged.
        """
        owner = self._owner
        started = trio.current_time()
        ours = await self._local_state(join=join, is_answer=False)
        with self.open_streams.track(to, incoming=False) as tracked:
            theirs = await self._exchange(tracked, ours)
            await self._merge(_checked(theirs), tracked, ignore_events=ignore_events)
        await owner.ask(lambda state, _: state.membership.exchange_succeeded(to))
        self._exchanges.append((trio.current_time() - started) * 1000)

    async def send_messages(self) -> None:
        """Send messages that need a stream of their own, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(_SENDERS):
                nursery.start_soon(self._send_messages)

    async def _send_messages(self) -> None:
        queue = self._owner.bulk
        while True:
            direct = await queue.next()
            if not self._owner.state.is_present(direct.node, direct.address):
                self._count_lost(queue.drop_all(direct), direct.node, "it is dead or left")
                continue
            is_first = queue.is_first_attempt(direct)
            error = await self._send_message(
                direct, self._first_timeout if is_first else self._timeout
            )
            if error is None:
                queue.sent(direct)
            elif lost := queue.failed(direct):
                self._count_lost(lost, direct.node, error)
            else:
                _log.debug("no stream to '%s' yet: %s", short_name(direct.node), error)

    def _count_lost(self, count: int, node: str, error: str) -> None:
        self._owner.dropped["streams"] += count
        what = "a message" if count == 1 else f"{count} messages"
        named = {"what": what, "member": short_name(node), "reason": error}
        _log.warning("could not send %(what)s to '%(member)s': %(reason)s", named)

    async def _send_message(self, direct: DirectMessage, timeout: float) -> str | None:
        """Send one message; return the error as text, or None."""
        data = self._encoded(direct.data)
        try:
            with trio.fail_after(timeout):
                async with await self._transport.dial(direct.address) as stream:
                    await self._send(stream, data)
                    # Wait for the peer's end: closing with unread data would reset the connection.
                    await stream.send_eof()
                    await stream.receive_some(1)
        except trio.TooSlowError:
            return f"it took longer than {timeout:g} s"
        except (OSError, trio.BrokenResourceError) as error:
            return reason_of(error)
        return None

    def _encoded(self, message: bytes) -> bytes:
        """Encode a message once, because it is usually sent to many members in succession."""
        return self._encode_cached(message, self._owner.state.sealer.sealed_with)

    def _encode(self, message: bytes, sealed_with: int | None) -> bytes:
        del sealed_with  # a key of the cache: members may lack the key of an older encoding
        return self.codec.encode_user_message(message)

    # --- incoming ---

    async def serve(self) -> None:
        """Accept and serve streams until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._owns_process:
                nursery.start_soon(self._trim_memory)
            while True:
                stream, (host, port) = await self._transport.accept()
                self._accepted.add()
                if not self.open_streams.evict_idle(trio.current_time()):
                    self._owner.dropped["streams in"] += 1
                    await trio.aclose_forcefully(stream)
                    continue
                tracked = self.open_streams.add(Address(host, port), incoming=True)
                nursery.start_soon(self._serve, stream, tracked)

    async def _trim_memory(self) -> None:
        """Return memory to the system whenever large streams have ended."""
        while True:
            await self._is_quiet.wait()
            await trio.sleep(_TRIM_DELAY)
            gc.collect()  # exceptions refer to frames with large buffers, in cycles
            trim_memory()

    async def _serve(self, stream: Stream, tracked: OpenStream) -> None:
        tracked.scope.deadline = trio.current_time() + self._timeout
        try:
            with tracked.scope:
                async with stream:
                    await self._respond(stream, tracked)
            if tracked.error is not None:
                await self._count(tracked.error, tracked.peer)
            elif tracked.scope.cancelled_caught:
                _log.debug("a stream from %s took longer than %g s", tracked.peer, self._timeout)
        except (OSError, trio.BrokenResourceError) as error:
            _log.debug("a stream from %s broke: %s", tracked.peer, reason_of(error))
        finally:
            self.open_streams.remove(tracked)

    async def _respond(self, stream: Stream, tracked: OpenStream) -> None:
        state, source = self._owner.state, tracked.peer
        if not state.admits(source):
            await self._count(WireError("not-allowed", "its address is not allowed"), source)
            return
        try:
            message = await self._read(stream, tracked)
        except WireError as error:
            await self._count(error, source)
            if error.kind != "truncated":
                await self._answer(stream, ErrorMessage(str(error)))
            return
        match message:
            case PushPull():
                await self._handle_push_pull(stream, message, tracked)
            case UserMessage(payload):
                sealed = tracked.was_sealed
                await self._owner.ask(
                    lambda state, now: state.handle_user_message(
                        payload, source, now, sealed=sealed
                    )
                )
            case Ping(seq_no, node):
                if node == state.config.name:
                    await self._answer(stream, Ack(seq_no))
                else:
                    _log.warning("stream ping for '%s', from %s", short_name(node), source)
            case _:
                _log.debug("a %s on a stream from %s", type(message).__name__, source)

    async def _handle_push_pull(
        self, stream: Stream, theirs: PushPull, tracked: OpenStream
    ) -> None:
        data = await self._local_state(join=theirs.join, is_answer=True)
        self.open_streams.set_held(tracked, tracked.held + len(data))
        await self._send(stream, data)
        try:
            await self._merge(theirs, tracked)
        except ValueError as error:
            named = {"address": tracked.peer, "reason": error}
            _log.error("push/pull from %(address)s refused: %(reason)s", named)

    async def _local_state(self, *, join: bool, is_answer: bool) -> bytes:
        """Return our half of a push/pull, encoded in steps if it is large.

        Members may change between two steps: as in a merge, each row counts by itself. Serf's part
        is read last, as in memberlist: a member that is in it as left, but alive in an older row,
        does not become leaving (see `serf.push_pull`).
        """
        state = self._owner.state
        async with self._work_lock:
            records = await self._owner.ask(
                lambda state, _: tuple(state.membership.records.values())
            )
            rows = []
            for start in range(0, len(records), PIECE):
                if start:
                    await trio.lowlevel.checkpoint()
                piece = records[start : start + PIECE]
                rows.append(encode_nodes(record.node_state() for record in piece))
            serf_state = state.serf.local_state()
            if len(records) > PIECE:
                await trio.lowlevel.checkpoint()
            user_state = serf_codec.encode(serf_state)
            return self.codec.join_push_pull(
                join, len(records), rows, user_state, is_answer=is_answer
            )

    async def _merge(
        self, theirs: PushPull, tracked: OpenStream, *, ignore_events: bool = False
    ) -> None:
        """Merge a remote state, in steps if it is large."""
        # The decoder makes two copies of the bytes.
        before = tracked.held + 2 * len(theirs.user_state)
        reader = StepwiseReader(theirs.user_state)
        for rows in reader:
            self.open_streams.set_held(tracked, before + rows * _ROW_SIZE)
            await self._take_turn()
        state = self._owner.state
        steps = merge_steps(
            state.membership, state.serf, theirs, reader.state, ignore_events=ignore_events
        )
        for number, step in enumerate(steps):
            if number:
                await self._take_turn()
            await self._owner.ask(partial(_run_step, step))
        self._owner.push_pull_at = trio.current_time()

    async def _take_turn(self) -> None:
        """Wait until no other stream is reading or merging a large message."""
        async with self._work_lock:
            await trio.lowlevel.checkpoint()

    async def _answer(self, stream: SendStream, message: Message) -> None:
        await self._send(stream, self.codec.encode(encode(message), is_answer=True))

    async def _send(self, stream: SendStream, data: bytes) -> None:
        self._sent.add(len(data))
        await stream.send_all(data)

    async def _count(self, error: WireError, source: Address) -> None:
        await self._owner.tell(lambda state, now: state.drops.add(error, source, now))

    async def _read(
        self, stream: Stream, tracked: OpenStream, *, is_answer: bool = False
    ) -> Message:
        decoder = self.codec.decoder(is_answer=is_answer)
        size = 0
        while True:
            data = await stream.receive_some(_CHUNK)
            if not data:
                raise decoder.end()
            size += len(data)
            self.open_streams.touch(tracked, trio.current_time())
            message = decoder.feed(bytes(data))
            self.open_streams.set_held(tracked, decoder.held)
            while message is None and decoder.is_busy:
                async with self._work_lock:
                    message = decoder.work()
                self.open_streams.set_held(tracked, decoder.held)
            if message is not None:
                if decoder.nonce:
                    tracked.was_sealed = True
                    await self._owner.ask(partial(_add_nonce, decoder.nonce))
                if decoder.first_error is not None:
                    await self._count(decoder.first_error, tracked.peer)
                if isinstance(message, PushPull):
                    self._gauges["memberlist.size.remote"] = size
                return message


def _add_nonce(nonce: bytes, state: ClusterState, now: float) -> None:
    state.nonces.add(nonce, now)


def _run_step(step: MergeStep, _state: object, now: float) -> None:
    step(now)


def _checked(response: Message) -> PushPull:
    if not isinstance(response, PushPull):
        raise WireError("unknown-type", f"expected a push/pull, got {type(response).__name__}")
    return response
