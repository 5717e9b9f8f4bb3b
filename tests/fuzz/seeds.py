"""Inputs from which fuzzing starts: captured bytes of the real program, in each target's form."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.fuzz import requests, sequence
from tests.fuzz.state_driver import EXCHANGE, PACKET, TIME, TURN, USER
from tests.fuzz.targets import INSTANCE, SERVICE, TARGETS, step
from tests.wire.helpers import load
from trioserf.agent.mdns import encode_question

CORPUS: Final = Path(__file__).parent / "corpus"
"""One file for each target, with one input per line, in hexadecimal."""

_JSON_LINES: Final = (
    b'{"command":"handshake","seq":1}',
    b'{"command":"auth","key":"sesame"}',
    b'{"command":"members","name":"n.*","status":"alive","tags":{"role":"web"},"seq":"x"}',
    b'{"command":"event","name":"deploy","payload":"v1","coalesce":true,"seq":2}',
    b'{"command":"event","name":"deploy","payload_base64":"djE="}',
    b'{"command":"query","name":"load","nodes":["node-a"],"tags":{"a":"^b$"},"timeout":0.5,'
    b'"ack":true,"relay_factor":1,"first":1,"seq":3}',
    b'{"command":"respond","id":1,"payload":"0.42"}',
    b'{"command":"join","addresses":["127.0.0.1:7946"],"replay":true,"seq":1e9}',
    b'{"command":"force_leave","name":"b","prune":true}',
    b'{"command":"tags","set":{"a":"\\ud83d\\ude00"},"delete":["c"]}',
    b'{"command":"keys","action":"install","key":"AAAAAAAAAAAAAAAAAAAAAA=="}',
    b'{"command":"keys","action":"list"}',
    b'{"command":"stream","types":["member-join","user:deploy","*"],"coalesce":false,"seq":9}',
    b'{"command":"monitor","level":"DEBUG","seq":10}',
    b'{"command":"stop","stop":9}',
    b'{"command":"info"}',
    b'{"command":"coordinate","node":"node-a"}',
    b'{"command":"rtt","node":"node-a","other":"node-a"}',
    b'{"command":"leave"}',
)
_SNAPSHOT: Final = (
    b"alive: a 127.0.0.1:7946\nalive: b c [::1]:7946\nclock: 5\nevent-clock: 7\nquery-clock: 2\n"
    b"not-alive: a\n# of old\ncoordinate: {}\nalive: a 127.0.0.1:1\nleave\nalive: z 1.2.3.4:5\n"
    b"\0\0"
)


def seeds() -> Mapping[str, list[bytes]]:
    """Return the initial inputs of every target."""
    return {
        "packet": list(_packets()),
        "stream": list(_streams()),
        "messages": [bytes.fromhex(one["wire"]) for one in load("serf")["messages"]],
        "state": list(_states()),
        "sequence": list(sequence.seeds()),
        "control": list(_controls()),
        "requests": list(requests.seeds()),
        "mdns": list(_mdns()),
        "snapshot": [_SNAPSHOT, _SNAPSHOT.replace(b"leave\n", b"")],
    }


def words() -> set[bytes]:
    """Return parts of messages that coverage cannot find, such as names of fields."""
    known = b"".join(
        bytes.fromhex(one["wire"])
        for name, part in (("serf", "messages"), ("memberlist", "memberlist_messages"))
        for one in load(name)[part]
    )
    known += b"".join(data[2:] for data in seeds()["control"])
    fields = set(re.findall(rb"[\xa1-\xbf][A-Z][A-Za-z]+", known))
    texts = set(re.findall(rb'"[a-z0-9_]+"', known))
    sizes = {
        b"\xcf" + b"\xff" * 8,
        b"\xcf\x80" + bytes(7),
        b"\xd3\x80" + bytes(7),
        b"\xcb\x7f\xf8" + bytes(6),
    }
    headers = {
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\x7f\xff\xff\xff",
        b"\xdc\x10\x00",
    }
    lines = {
        b"alive: ",
        b"not-alive: ",
        b"clock: ",
        b"event-clock: ",
        b"query-clock: ",
        b"leave\n",
    }
    return (
        {word for word in fields if word[0] - 0xA0 == len(word) - 1}
        | texts
        | sizes
        | headers
        | lines
    )


def kept(target: str) -> list[bytes]:
    """Return the inputs that earlier runs kept."""
    path = CORPUS / f"{target}.hex"
    return [bytes.fromhex(line) for line in path.read_text().split()] if path.exists() else []


def keep(target: str, inputs: Collection[bytes]) -> None:
    """Write the inputs to keep."""
    lines = sorted((one.hex() for one in inputs), key=lambda line: (len(line), line))
    (CORPUS / f"{target}.hex").write_text("".join(f"{line}\n" for line in lines))


def inputs(target: str) -> list[bytes]:
    """Return all known inputs of a target."""
    assert target in TARGETS
    return seeds()[target] + kept(target)


def _packets() -> Iterator[bytes]:
    captured = load("packets")
    for kind in ("plain", "lzw"):
        for one in captured[kind][::4]:
            yield b"\x00" + bytes.fromhex(one["hex"])
            yield b"\x06" + bytes.fromhex(one["hex"])
    for one in load("memberlist")["memberlist_messages"]:
        yield b"\x00" + bytes.fromhex(one["wire"])


def _streams() -> Iterator[bytes]:
    for one in load("streams")["streams"]:
        yield b"\x00\x00" + bytes.fromhex(one["hex"])
        yield b"\x00\x07" + bytes.fromhex(one["hex"])
        yield b"\x06\x00" + bytes.fromhex(one["hex"])
    for one in load("memberlist")["memberlist_messages"]:
        yield b"\x00\x00" + bytes.fromhex(one["wire"])


def _states() -> Iterator[bytes]:
    captured = [bytes.fromhex(one["hex"]) for one in load("packets")["plain"]]
    turn = step(TURN, b"x") + step(TIME, (1000).to_bytes(4, "big"))
    for start in range(0, len(captured), 12):
        yield b"".join(step(PACKET, one) + turn for one in captured[start : start + 12])
    messages = [bytes.fromhex(one["wire"]) for one in load("serf")["messages"]]
    yield b"".join(step(USER, one) for one in messages) + turn
    for one in load("memberlist")["memberlist_messages"]:
        yield step(PACKET, bytes.fromhex(one["wire"])) + turn
    for one in load("streams")["streams"]:
        yield step(EXCHANGE, bytes.fromhex(one["hex"])) + turn + step(TIME, b"\x7f" * 4)


def _mdns() -> Iterator[bytes]:
    query = encode_question(SERVICE)
    yield query
    for port in (40_000, 5353):
        answer = INSTANCE.answer(query, port)
        assert answer is not None
        yield answer.data
    long = b"\x01a" * 126 + b"\0" + query[-4:]  # 127 labels, which pointers repeat
    yield (
        query[:4] + (100).to_bytes(2, "big") + query[6:12] + long + (b"\xc0\x0c" + query[-4:]) * 99
    )
    many = query[:4] + (1490).to_bytes(2, "big") + query[6:]
    yield many + (b"\xc0\x0c" + query[-4:]) * 1489


def _controls() -> Iterator[bytes]:
    for locked in (b"\x00", b"\x01"):
        yield b"\x00" + locked + b"\n".join(_JSON_LINES) + b"\n"
        for line in _JSON_LINES:
            yield b"\x00" + locked + _JSON_LINES[1] + b"\n" + line + b"\n"
    for one in load("rpc")["exchanges"]:
        sent = b"".join(
            bytes.fromhex(part["hex"]) for part in one["exchange"] if part["from"] == "client"
        )
        yield b"\x00\x00" + sent
        yield b"\x05\x00" + sent
