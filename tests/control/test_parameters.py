"""Parameters of every command with values of wrong types and sizes, sent to a real node."""

import json
import random
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import msgpack
import pytest

from tests.control.helpers import KEY, AgentUnderTest, JsonClient, RpcClient, real_agent, serving
from trioserf.control.server.commands import COMMANDS, CONNECTION_PARAMS, STREAMS
from trioserf.control.server.msgpack_handlers import BODIES, BODILESS

RANDOM_VALUES: Final = 20
"""Random values for each parameter, besides the fixed ones."""
LARGE: Final = (2**31, 2**32, 2**63, 2**64, 10**30, 10**400, 10**4299)
"""Numbers whose neighbours are limits; the last has the most digits that Python parses."""
TEXTS: Final = (
    "", "\0", "a\0b", "\n", " ", "é", "\U0001f600", "(", "([", "*", ".*", "(a{1000}){1000}", "\\",
    "x" * 200, "x" * 1025, "é" * 40_000, "x" * 200_000, "(" * 5000, "a|" * 5000, "NaN", "1e400",
    "-1", "=", "====", "AA==", "AAAA", KEY, KEY[:-4], "é" * 44, "%", ":", "::", "[", "[::1", "a:b",
    "a:99999", "a:-1", "a/b/c", "node-a", "/", "x" * 70 + ".y", "é.y", "user:", "query:\0",
    "user,", "user:x,query", "member-join", "member-suspect,,", "INFO", "info", "ſ", "install",
    "list", "use", "_serf_ping", "_serf_x", "alive", "127.0.0.1:0", "10.0.0.2", "-", "null",
    "[]", "{}",
)  # fmt: skip
INFINITE: Final = ("NaN", "Infinity", "-Infinity", "1e400", "-1e400")
"""Number literals that are infinite, or not JSON."""
VALID: Final[Mapping[str, Any]] = {"addresses": ["10.0.0.2"], "action": "list", "id": 1, "stop": 1}
"""Values of required parameters that are not texts."""


def values() -> Iterator[Any]:
    """Yield values of every type, as Python's."""
    yield from (None, True, False, 0, 1, -1, 0.5, -0.5, 1e16, 1e308, 5e-324, -0.0, 255, 256)
    for number in LARGE:
        yield from (number, number - 1, number + 1, -number, -number - 1)
    yield from TEXTS
    item: object
    for item in (None, True, 0, "", "x", "\0", "(", [], {}, "x" * 2000):
        yield from ([item], [item] * 70, {"k": item}, {"": item}, {"\0": item}, [[item]])
    yield from ([], {}, ["x"] * 4000, {str(n): "x" for n in range(4000)}, {"x" * 2000: "x"})
    yield from (nested(100), nested(900))
    rng = random.Random(1)
    for _ in range(RANDOM_VALUES):
        yield random_value(rng, 3)


def nested(depth: int) -> Any:
    value: Any = {"k": []}
    for _ in range(depth):
        value = [value]
    return value


def random_value(rng: random.Random, depth: int) -> Any:
    """Return a value, a list or an object."""
    match rng.randrange(8 if depth else 6):
        case 0:
            return rng.choice(LARGE) * rng.choice((-1, 1)) + rng.randrange(-1, 2)
        case 1:
            return rng.randrange(-3, 70_000)
        case 2:
            return rng.uniform(-1, 1) * 10 ** rng.randrange(-300, 300)
        case 3:
            return "".join(chr(rng.randrange(0, 0xD800)) for _ in range(rng.randrange(20)))
        case 4:
            return rng.choice(TEXTS)
        case 5:
            return rng.choice((None, True, False))
        case 6:
            return [random_value(rng, depth - 1) for _ in range(rng.randrange(5))]
        case _:
            return {
                rng.choice(TEXTS): random_value(rng, depth - 1) for _ in range(rng.randrange(5))
            }


@cache
def json_values() -> list[str]:
    """Return the values as JSON, and texts that are JSON only nearly."""
    return [*map(json.dumps, values()), *INFINITE, *NEARLY_JSON]


NEARLY_JSON: Final = (
    '"\\ud800"',
    '["\\udcff"]',
    '{"\\ud800": "x"}',
    "[" * 100_000,
    "9" * 5000,
    "-0",
)


JSON_TABLE: Final = {
    **{command: entry.params for command, entry in COMMANDS.items()},
    **{command: entry.params for command, entry in STREAMS.items()},
    **CONNECTION_PARAMS,
}
JSON_PARAMETERS: Final = [
    *((command, name) for command, known in JSON_TABLE.items() for name in known.names),
    *((command, name) for command in ("handshake", "query") for name in ("seq", "unknown")),
    ("leave", "unknown"),
]


def required(command: str, name: str) -> dict[str, Any]:
    """Return valid values of all required parameters of a command but one."""
    names = JSON_TABLE[command].required_names
    return {other: VALID.get(other, "x") for other in names if other != name}


@pytest.mark.parametrize(("command", "name"), JSON_PARAMETERS)
async def test_any_value_of_a_json_parameter_is_accepted_or_rejected(
    command: str, name: str, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with real_agent() as served:
        client = await connected(served)
        fixed = json.dumps({"command": command, **required(command, name)})[:-1]
        for value in json_values():
            await client.send(f"{fixed}, {json.dumps(name)}: {value}}}")
            reply = await reply_of(client)
            assert reply["ok"] or reply["error"]["code"] != "internal", (value[:100], reply)
            if reply["ok"] and command in STREAMS:
                client = await connected(served)
        assert await is_usable(client)
    check_log(caplog)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 400, "0.0", "31536001"])
async def test_error_of_a_timeout_has_its_path_and_range(number: str) -> None:
    async with serving() as served:
        client = served.connect()
        await client.send(f'{{"command": "query", "name": "x", "timeout": {number}}}')
        error = (await client.receive())["error"]
        assert error["code"] == "bad_request"
        assert error["message"].startswith("timeout: expected seconds above 0 and up to 31536000")
        assert len(error["message"]) < 130
        assert await is_usable(client)


async def connected(served: AgentUnderTest) -> JsonClient:
    """Return a client whose first line was a request: later ones may be no JSON."""
    client = served.json()
    assert (await client.ask(command="handshake"))["ok"]
    return client


async def reply_of(client: JsonClient) -> Any:
    """Return the next line that is a reply, not a record of a stream."""
    while "ok" not in (line := await client.receive()):
        pass
    return line


async def is_usable(client: JsonClient) -> bool:
    """Return whether the connection still handles requests."""
    await client.send({"command": "handshake", "seq": "end"})
    while (reply := await reply_of(client)).get("seq") != "end":
        pass
    return bool(reply["ok"])


def check_log(caplog: pytest.LogCaptureFixture) -> None:
    """Check that no line of the log has a traceback."""
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


@cache
def msgpack_values() -> list[bytes]:
    """Return the values that msgpack has, encoded, and bytes that are not msgpack."""
    return [*encoded_values(), *NOT_MSGPACK]


def encoded_values() -> Iterator[bytes]:
    for value in (*values(), *map(float, INFINITE), b"", b"\0", b"\xff" * 300):
        try:
            yield msgpack.packb(value, use_bin_type=True)
        except (OverflowError, ValueError):  # a larger number than msgpack has
            continue
    yield msgpack.packb({1: {2: b"x"}, None: None})
    yield msgpack.packb([msgpack.ExtType(5, b"x"), msgpack.Timestamp(0)])


NOT_MSGPACK: Final = (
    b"\xc1", b"\xd9\x02\xff\xfe", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x81" * 3,
    b"\xdb\xff\xff\xff\xff", b"\x91" * 100_000 + b"\xc0",
)  # fmt: skip
HANDSHAKE: Final = msgpack.packb({"Command": "handshake", "Seq": 0}) + msgpack.packb(
    {"Version": 1}
)
ENDS: Final = ("failed to decode a request", "compile regex", "does not complete its request")
"""Why the agent may end a connection."""
RPC_PARAMETERS: Final = [
    *((command, name) for command, fields in BODIES.items() for name in fields),
    *(("event", name) for name in ("Unknown", "")),
    *((command, "") for command in sorted(BODILESS - {"leave"})),
]


@pytest.mark.parametrize(("command", "name"), RPC_PARAMETERS)
async def test_any_value_of_an_rpc_field_is_accepted_or_ends_the_connection(
    command: str, name: str, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty `name` means the seq of the header."""
    async with real_agent() as served:
        rpc = None
        for value in msgpack_values():
            head = {"Command": msgpack.packb(command), "Seq": msgpack.packb(7)}
            body = {k: msgpack.packb("list") for k in ("Key", "Name", "Type") if k != name}
            (body if name else head)[name or "Seq"] = value
            request = [packed_map(head), packed_map(body)][: 1 + (command in BODIES)]
            caplog.clear()
            if rpc is None:
                rpc = served.rpc_without_handshake()
                request.insert(0, HANDSHAKE)
            await rpc.send(*request, {"Command": "get-coordinate", "Seq": 99}, {"Node": "node-a"})
            if not await is_coordinate_next(rpc):
                assert any(reason in caplog.text for reason in ENDS), caplog.text
                rpc = None
            check_log(caplog)
            assert "internal" not in caplog.text


def packed_map(fields: Mapping[str, bytes]) -> bytes:
    """Encode a map whose values are encoded already."""
    packed = b"".join(msgpack.packb(name) + value for name, value in fields.items())
    return bytes([0x80 | len(fields)]) + packed


async def is_coordinate_next(rpc: RpcClient) -> bool:
    """Read up to the reply to `get-coordinate`; return False if the connection ends before."""
    while (message := await rpc.receive()) is not None:
        assert "internal" not in str(message.get("Error", ""))
        if message.get("Seq") == 99:
            return "Coord" in (await rpc.receive())
    return False
