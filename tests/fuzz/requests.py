"""Requests to the control port from a few bytes: commands with hostile but valid values."""

import base64
import json
import math
from collections.abc import Iterator
from typing import Any, Final

import msgpack

from tests.fuzz import records
from tests.fuzz.choices import CHEAP, Choices
from trioserf.control.server.commands import COMMANDS, CONNECTION_PARAMS, STREAMS
from trioserf.control.server.msgpack_handlers import BODIES, BODILESS


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, 2, -1, 255, 256, 2**31, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.5,
    -0.0, 1e-9, 5e-324, 1e308, 3e7, math.inf, -math.inf, math.nan, "", "x", "node-a", "n.*", "*",
    "user:deploy", "query:load", "member-join,member-leave", "deploy", "load", "crash", "alive",
    "INFO", "trace", "list", "install", "127.0.0.1:7946", "\0\n", "\udcff", "é" * 300, "x" * 512,
    "_serf_ping", "_serf_list-keys", "y" * 100_000, "user:" * 5_000, "%s{0}", "=", "handshake",
    base64.b64encode(bytes(16)).decode(), base64.b64encode(bytes(33)).decode(), "QQ==", "Q\n",
    [], ["node-a"], ["127.0.0.1:7946"], [""] * 1_000, ["x" * 1_000] * 60, [None], ["*"] * 500,
    _nested(100), [[1], {}], {}, {"role": "web"}, {"": ""}, {"a": None}, {"role": 1},
    {f"t{number}": "x" * 9 for number in range(300)},
    {f"t{number}": f"a{{{number}}}" for number in range(100)},
    *CHEAP, *({"role": one} for one in CHEAP),
)  # fmt: skip
_JSON: Final = {
    **{name: one.params.names for name, one in COMMANDS.items()},
    **{name: one.params.names for name, one in STREAMS.items()},
    **{name: params.names for name, params in CONNECTION_PARAMS.items()},
    "unknown": ("name",),
}
_RPC: Final = {
    **{name: tuple(body) for name, body in BODIES.items()},
    **dict.fromkeys(sorted(BODILESS), ()),
    "unknown": (),
}
_JSON_NAMES, _RPC_NAMES = tuple(_JSON), tuple(_RPC)


def conversation(data: bytes) -> tuple[int, bool, bytes]:
    """Return the size of chunks, whether a key is required, and what a client sends."""
    c = Choices(data[: records.HEADER])
    size, mode = c.of((65_536, 65_536, 1, 7, 1400)), c.byte()
    make = _json if mode & 1 else _rpc
    key = "sesame"
    first: list[bytes] = []
    if make is _rpc:
        first.append(_packed({"Command": "handshake", "Seq": 0}) + _packed({"Version": 1}))
    if mode & 2:
        first.append(
            _line({"command": "auth", "key": key})
            if make is _json
            else _packed({"Command": "auth", "Seq": 1}) + _packed({"AuthKey": key})
        )
    sent = [make(Choices(one), number) for number, one in enumerate(records.split(data), 2)]
    whole = b"".join(first + sent)
    return max(size, len(whole) // 200), bool(mode & 2), whole


def _json(c: Choices, number: int) -> bytes:
    command = c.of(_JSON_NAMES)
    seq: Any = c.of(
        (number, number, number, 1, "s", None, 1e300, 2**64, "\udcff", [], "y" * 100_000)
    )
    return _line({"command": command, "seq": seq, **_fields(c, _JSON[command])})


def _rpc(c: Choices, number: int) -> bytes:
    command = c.of(_RPC_NAMES)
    seq: Any = c.of((number, number, number, 1, 2**64 - 1, -1, "s", None, 0.5))
    head = _packed({"Command": command, "Seq": seq})
    return head if command in BODILESS else head + _packed(_fields(c, _RPC[command]))


def _fields(c: Choices, names: tuple[str, ...]) -> dict[str, Any]:
    fields = {}
    for name in names:
        if c.byte() % 4:
            fields[name] = c.of(VALUES)
    if c.byte() % 16 == 15:
        fields[str(c.of(VALUES))] = c.of(VALUES)
    return fields


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _packed(value: object) -> bytes:
    return bytes(msgpack.packb(value, unicode_errors="surrogateescape"))


def seeds() -> Iterator[bytes]:
    """Return inputs with each command, without values and with some."""
    for mode, names in ((1, _JSON_NAMES), (3, _JSON_NAMES), (0, _RPC_NAMES), (2, _RPC_NAMES)):
        for command in range(len(names)):
            values = bytes((command, 0)) + bytes((1, 7 * command % 256)) * 9
            yield records.join(bytes((0, mode)), bytes((command,)), values)
