"""Streams that come in pieces, as a test says."""

from trioserf.wire.stream import StreamDecoder
from trioserf.wire.swim_messages import Message


def take(decoder: StreamDecoder, piece: bytes) -> tuple[Message | None, int]:
    """Feed one piece and let all be done that it brings; gives the message and the steps."""
    steps = 1
    message = decoder.feed(piece)
    while message is None and decoder.is_busy:
        message = decoder.work()
        steps += 1
    return message, steps


def feed(decoder: StreamDecoder, data: bytes, size: int = 65_536) -> tuple[Message | None, int]:
    """Feed a stream in pieces; gives its message and the steps that it took."""
    steps = 0
    for start in range(0, len(data), size):
        message, more = take(decoder, data[start : start + size])
        steps += more
        if message is not None:
            return message, steps
    return None, steps
