"""Golden bytes of memberlist and Serf, and streams in pieces."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from trioserf.wire.stream import StreamDecoder
from trioserf.wire.swim_messages import Message

VECTORS = Path(__file__).parent.parent / "vectors"


def load(name: str) -> Any:
    """Load a file of golden vectors."""
    return json.loads((VECTORS / f"{name}.json").read_text())


def octets(text: str | None) -> bytes:
    """Decode a byte string of the vectors, which is in base64."""
    return b64decode(text or "")


def take(decoder: StreamDecoder, piece: bytes) -> tuple[Message | None, int]:
    """Feed one piece and run all its steps; return the message and the number of steps."""
    steps = 1
    message = decoder.feed(piece)
    while message is None and decoder.is_busy:
        message = decoder.work()
        steps += 1
    return message, steps


def feed(decoder: StreamDecoder, data: bytes, size: int = 65_536) -> tuple[Message | None, int]:
    """Feed a stream in pieces of `size` bytes; return its message and the number of steps."""
    steps = 0
    for start in range(0, len(data), size):
        message, more = take(decoder, data[start : start + size])
        steps += more
        if message is not None:
            return message, steps
    return None, steps
