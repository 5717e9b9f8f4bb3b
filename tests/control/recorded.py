"""Exchanges between clients and the real program over Serf's RPC, as they were recorded."""

import json
from pathlib import Path
from typing import Any, Final

import msgpack

VECTORS: Final = json.loads((Path(__file__).parent.parent / "vectors" / "rpc.json").read_text())
RECORDED: Final = [one for one in VECTORS["exchanges"] if one["exchange"]]


def turns(exchange: list[dict[str, str]]) -> list[tuple[bytes, bytes]]:
    """Pairs of what the client said and what the agent said to it."""
    found: list[tuple[bytes, bytes]] = []
    for step in exchange:
        data = bytes.fromhex(step["hex"])
        if step["from"] == "client":
            found.append((data, b""))
        else:
            found[-1] = found[-1][0], found[-1][1] + data
    return found


def messages(data: bytes) -> list[Any]:
    """Read all values of a stream."""
    unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape")
    unpacker.feed(data)
    return list(unpacker)
