"""Streams: exchanges over TCP, out and in. Each has a deadline, and all of them a limit."""

import logging
from typing import Final

import trio
from trio.abc import Stream

from trioserf.net.transport import Transport
from trioserf.node.config import NodeConfig
from trioserf.node.keeper import Keeper
from trioserf.swim.address import Address
from trioserf.swim.messages import Ack, ErrorMessage, Message, Ping, PushPull, UserMessage
from trioserf.wire.errors import WireError
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim import encode

_log = logging.getLogger("trioserf.memberlist")

_CHUNK: Final = 65_536
_SENDERS: Final = 16
"""Messages by stream that are on their way at once."""


class RemoteError(ValueError):
    """The other side says that it cannot go on."""


class Streams:
    """Exchanges with other members.

    Args:
        transport: makes connections.
        config: for label, keys, deadlines and limits.
        keeper: has the state.

    Attributes:
        codec: bytes to messages and back.
    """

    def __init__(self, transport: Transport, config: NodeConfig, keeper: Keeper) -> None:
        self.codec = StreamCodec(
            keyring=config.keyring,
            label=config.label.encode("utf-8", "surrogateescape"),
            verify_incoming=config.verify_incoming,
            verify_outgoing=config.verify_outgoing,
            compress=config.compression,
        )
        self._transport = transport
        self._timeout = config.timing.tcp_timeout
        self._max_streams = config.max_streams
        self._keeper = keeper

    # --- out ---

    async def exchange(self, to: Address, data: bytes) -> Message:
        """Send one message on a new stream and give the answer.

        Raises:
            OSError: nobody is there, or the deadline has passed (`TimeoutError`).
            ValueError: the answer cannot be understood (`WireError`), or is an error.
            trio.BrokenResourceError: the connection broke.
        """
        with trio.move_on_after(self._timeout) as deadline:
            stream = await self._transport.dial(to)
            async with stream:
                await stream.send_all(data)
                answer = await self._read(stream)
        if deadline.cancelled_caught:
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
        ours = await keeper.ask(lambda state, _: state.local_state(join=join))
        theirs = await self.exchange(to, self.codec.encode_push_pull(ours))
        if not isinstance(theirs, PushPull):
            raise WireError("unknown-type", f"expected a push/pull, got {type(theirs).__name__}")
        await keeper.ask(lambda state, now: state.merge(theirs, now, ignore_events=ignore_events))

    async def send_messages(self) -> None:
        """Send what needs a stream of its own, until the node ends."""
        async with trio.open_nursery() as nursery:
            for _ in range(_SENDERS):
                nursery.start_soon(self._send_messages)

    async def _send_messages(self) -> None:
        async for direct in self._keeper.streams:
            data = self.codec.encode_user_message(direct.data)
            try:
                with trio.fail_after(self._timeout):
                    async with await self._transport.dial(direct.address) as stream:
                        await stream.send_all(data)
                        # Wait for its end, lest closing with unread data resets the connection.
                        await stream.send_eof()
                        await stream.receive_some(1)
            except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                _log.warning("could not send a message to %r: %s", direct.node, error)

    # --- in ---

    async def serve(self) -> None:
        """Take in streams until cancelled."""
        slots = trio.Semaphore(self._max_streams)
        async with trio.open_nursery() as nursery:
            while True:
                stream, (host, port) = await self._transport.accept()
                source = Address(host, port)
                try:
                    slots.acquire_nowait()
                except trio.WouldBlock:
                    self._keeper.dropped["streams in"] += 1
                    await trio.aclose_forcefully(stream)
                    continue
                nursery.start_soon(self._serve, stream, source, slots)

    async def _serve(self, stream: Stream, source: Address, slots: trio.Semaphore) -> None:
        try:
            with trio.move_on_after(self._timeout) as deadline:
                async with stream:
                    await self._answer(stream, source)
            if deadline.cancelled_caught:
                _log.debug("a stream from %s took longer than %g s", source, self._timeout)
        except (OSError, trio.BrokenResourceError) as error:
            _log.debug("a stream from %s broke: %s", source, error)
        finally:
            slots.release()

    async def _answer(self, stream: Stream, source: Address) -> None:
        state = self._keeper.state
        if not state.admits(source):
            self._count(WireError("not-allowed", "its address is not allowed"), source)
            return
        try:
            message = await self._read(stream)
        except WireError as error:
            self._count(error, source)
            if error.kind != "truncated":
                await stream.send_all(self.codec.encode(encode(ErrorMessage(str(error)))))
            return
        match message:
            case PushPull():
                await self._take_push_pull(stream, message, source)
            case UserMessage(payload):
                await self._keeper.ask(
                    lambda state, now: state.take_user_message(payload, source, now)
                )
            case Ping(seq_no, node):
                if node == state.config.name:
                    await stream.send_all(self.codec.encode(encode(Ack(seq_no))))
                else:
                    _log.warning("stream ping for %r, from %s", node, source)
            case _:
                _log.debug("a %s on a stream from %s", type(message).__name__, source)

    async def _take_push_pull(self, stream: Stream, theirs: PushPull, source: Address) -> None:
        ours = await self._keeper.ask(lambda state, _: state.local_state(join=theirs.join))
        await stream.send_all(self.codec.encode_push_pull(ours))
        try:
            await self._keeper.ask(lambda state, now: state.merge(theirs, now))
        except ValueError as error:
            _log.error("push/pull from %s refused: %s", source, error)

    def _count(self, error: WireError, source: Address) -> None:
        self._keeper.state.faults.count(error, source, trio.current_time())

    async def _read(self, stream: Stream) -> Message:
        decoder = self.codec.decoder()
        while True:
            data = await stream.receive_some(_CHUNK)
            if not data:
                raise decoder.end()
            message = decoder.feed(bytes(data))
            if message is not None:
                return message
