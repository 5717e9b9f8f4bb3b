"""Serf's RPC, request by request: replies equal those of Serf's agent in shape and encoding.

The same bytes go to an agent of each program, in equal clusters: first the recorded requests of
Serf's command line, then invalid requests.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.control.helpers import RECORDED, messages, request_reply_pairs
from tests.interop.agents import TRIOSERF, agent, as_newest, net, until
from tests.interop.rpc_bytes import HANDSHAKE, Raw, encodings, header, pack, shape

pytestmark = pytest.mark.serf
KEY = "s3cret"
OPTIONS = ("-tag=role=web", "-tag=dc=east", "-event-handler=query:load=echo 0.42")
Messages = list[tuple[Any, bytes]]


class Agents(NamedTuple):
    """The addresses of an agent in a cluster of two, and of one that requires a key."""

    net: str
    open: str
    locked: str


def running(stack: ExitStack, number: int, config: Path, *program: str) -> Agents:
    here = net(number)
    config.write_text(json.dumps({"rpc_auth": KEY}))
    start = stack.enter_context
    first = start(agent(f"{here}.21", "vec-a", *OPTIONS, program=program))
    start(agent(f"{here}.22", "vec-b", f"-retry-join={here}.21", "-retry-interval=1s"))
    locked = start(agent(f"{here}.23", "vec-s", f"-config-file={config}", program=program))
    until(lambda: alive(first) == 2)
    until(lambda: alive(locked) == 1)
    return Agents(here, first, locked)


def alive(address: str) -> int:
    """Return how many members an agent sees alive; 0 until it has started."""
    body = {"Name": "", "Status": "alive", "Tags": {}}
    try:
        with Raw(address) as raw:
            raw.send(
                HANDSHAKE + pack(header("auth"), {"AuthKey": KEY if ".23:" in address else ""})
            )
            raw.send(pack(header("members-filtered"), body))
            raw.end_input()
            last, _ = raw.rest()[-1]
    except (ConnectionRefusedError, IndexError):
        return 0
    return len(last.get("Members", ()))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Agents, Agents]]:
    path = tmp_path_factory.mktemp("beside")
    with ExitStack() as stack:
        theirs = running(stack, 5, path / "theirs.json")
        ours = running(stack, 6, path / "ours.json", *TRIOSERF)
        yield theirs, ours


def ask_both(
    pair: tuple[Agents, Agents], ask: Callable[[Agents], Messages]
) -> tuple[Messages, Messages]:
    with ThreadPoolExecutor() as pool:
        theirs, ours = pool.map(ask, pair)
    return theirs, ours


def exchanged(exchange: list[dict[str, str]]) -> list[tuple[bytes, list[Any]]]:
    """Return pairs: the bytes that the client sent, and the messages of the agent."""
    return [(sent, messages(replies)) for sent, replies in request_reply_pairs(exchange)]


def replay(agents: Agents, exchange: list[dict[str, str]]) -> Messages:
    """Send recorded requests with own addresses; wait for as many messages, or a query's end."""
    found: Messages = []
    with Raw(agents.open) as raw:
        for sent, expected in exchanged(exchange):
            raw.send(with_own_addresses(sent, agents.net))
            streams = any(isinstance(one.get("Type"), str) for one in expected)
            count = 0
            while count < len(expected) or (streams and found[-1][0].get("Type") != "done"):
                message = raw.message()
                assert message is not None, "the agent closed the connection"
                found.append(message)
                count += 1
            if not expected:  # a request that ends the connection
                assert raw.message() is None
    return found


def with_own_addresses(data: bytes, here: str) -> bytes:
    """Replace the addresses of the recording by those of this test."""
    for number in ("22", "99"):
        data = data.replace(pack(f"127.0.0.{number}"), pack(f"{here}.{number}"))
    return data


def shapes_of(found: Messages) -> list[Any]:
    """Return the shapes of messages; acks and responses once each, because their number varies.

    A busy agent of Serf also sends some without a sender when a query's time is over.
    """
    shapes: list[Any] = []
    for message, _ in found:
        if isinstance(message.get("Type"), str):
            one = [message["Type"], shape(message)]
            if one in shapes or message.get("From") == "":
                del shapes[-1]  # with the header before it
                continue
            shapes.append(one)
        else:
            shapes.append(shape(message))
    return shapes


def assert_encoded_equally(theirs: Messages, ours: Messages) -> None:
    """Assert that each kind of value that both have is encoded with the same first byte."""
    expected, found = encodings_by_kind(theirs), encodings_by_kind(ours)
    both = expected.keys() & found.keys()
    assert {kind: found[kind] for kind in both} == {kind: expected[kind] for kind in both}
    assert {len(firsts) for firsts in found.values()} <= {1}


def encodings_by_kind(found: Messages) -> dict[str, set[str]]:
    firsts: dict[str, set[str]] = {}
    for _, data in found:
        for kind, first in encodings(data):
            firsts.setdefault(kind, set()).add(first)
    return firsts


REPLAYED = [one for one in RECORDED if one["title"] != "leave"]


@pytest.mark.parametrize("recorded", REPLAYED, ids=lambda one: one["title"])
def test_recorded_requests_get_the_same_replies(
    recorded: dict[str, Any], pair: tuple[Agents, Agents]
) -> None:
    theirs, ours = ask_both(pair, lambda agents: replay(agents, recorded["exchange"]))
    recording = [m for _, expected in exchanged(recorded["exchange"]) for m in expected]
    assert sorted(map(str, shapes_of(ours))) == sorted(map(str, shapes_of(theirs)))
    assert sorted(map(str, shapes_of(ours))) == sorted(
        map(str, shapes_of([(one, b"") for one in recording]))
    )
    from_serf, from_ours, recorded_errors = (
        [(one["Seq"], as_newest(at(one["Error"]))) for one in found if "Error" in one]
        for found, at in (
            ([m for m, _ in theirs], lambda text: text.replace(pair[0].net, "127.0.0")),
            ([m for m, _ in ours], lambda text: text.replace(pair[1].net, "127.0.0")),
            (recording, str),
        )
    )
    if "query" not in recorded["title"] and recorded["title"] != "reachability":
        assert from_ours == from_serf == recorded_errors
    else:
        assert set(from_ours) == set(from_serf) == set(recorded_errors)
    assert_encoded_equally(theirs, ours)


# --- invalid requests ---

END = [header("members", 9)]
"""A last request: a reply to it proves that the connection was still open."""
BIG, HUGE = b"y" * 600, b"y" * 300_000


def with_end(command: str, *bodies: Any) -> dict[str, list[Any]]:
    """Return requests of one command with each of these bodies, by name."""
    return {f"{command} {str(body)[:40]}": [header(command), body, *END] for body in bodies}


def fields(command: str, **wrong: tuple[Any, ...]) -> dict[str, list[Any]]:
    """Return requests of one command, each with one invalid field in its body."""
    return with_end(command, *({name: one} for name, many in wrong.items() for one in many))


def with_handshake(cases: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [HANDSHAKE, *requests] for name, requests in cases.items()}


HANDSHAKES: dict[str, list[Any]] = {
    **{f"{name} without handshake": [header(name), *END] for name in
       ("members", "event", "auth", "stop", "nonsense", "leave", "")},
    **{f"version {one!r}": [header("handshake", 3), {"Version": one}, *END] for one in
       (0, 2, -1, 2**31 - 1, 2**31, None, "1", 1.0, True)},
    "no version": [header("handshake"), {}, *END],
    "handshake of nil": [header("handshake"), None, *END],
    "auth before handshake": [header("auth"), {"AuthKey": KEY}, HANDSHAKE],
    "silence": [],
    "zeros only": [bytes(10)],
}  # fmt: skip

ORDER: dict[str, list[Any]] = {
    "handshake twice": [header("handshake"), {"Version": 1}, *END],
    "a later handshake of another version": [header("handshake"), {"Version": 9}, *END],
    "unknown command": [header("nonsense"), *END],
    "empty command": [header(""), *END],
    "command in capitals": [header("MEMBERS"), *END],
    "two at once": [header("members", 1), header("members", 2)],
    "slow requests keep their order": [
        header("join", 1), {"Existing": ["NET.99"]}, header("stop", 2), {"Stop": 1},
        header("force-leave", 3), {"Node": "no-such-node"}, header("respond", 4), {"ID": 99}, *END,
    ],
    "auth without a configured key": [header("auth"), {"AuthKey": "x"}, *END],
    "auth without a key": [header("auth"), {"AuthKey": ""}, header("auth"), None, *END],
    **{f"seq {one}": [header("stop", one), {"Stop": 1}] for one in
       (0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63, 2**64 - 1)},
    **{f"seq {one!r}": [header("stop", one), {"Stop": 1}, *END] for one in
       (-1, -(2**63), None, 1.5, "1", True)},
    "no seq": [{"Command": "stop"}, {"Stop": 1}, *END],
    "no command": [{"Seq": 1}, *END],
    "neither": [{}, *END],
    "small letters": [{"command": "members", "seq": 1}, *END],
    "a body where none is due": [header("members"), {}, *END],
    "command nil": [header(None), *END],
    "command 5": [header(5), *END],
    "a header of nil": [None, *END],
    "a header of 5": [5, *END],
    "a header of text": ["members", *END],
    "unknown fields": [{**header("stop"), "More": [1, {"a": 2}]}, {"a": {}}, *END],
    "keys that are numbers": [{1: 2, **header("members")}, *END],
    "an extension": [b"\xd4\x01\x00", *END],
    "invalid msgpack": [b"\xc1", *END],
    "half a header": [b"\x82\xa7Comm"],
    "half a body": [header("event"), b"\x82\xa4Na"],
    "no body": [header("event")],
    "very deep": [header("event"), b"\x81\xa1x" * 20_000],
}  # fmt: skip

BODIES: dict[str, list[Any]] = {
    **with_end("event", None, {}, 5, "x", True, b"x", 1.5, {"Name": "x", "More": {"a": [1]}},
               {"Name": "x", "Payload": BIG}, {"Name": "x", "Payload": HUGE},
               {"Name": "", "Payload": b"y"}, {"Name": "x", "Coalesce": 1}),
    **fields("event", Name=(5, ["x"], {"a": "b"}, True, 1.5), Payload=(5, {"a": "b"}, True, "y"),
             Coalesce=(2, "true", [], 1.5, 0)),
    **with_end("members-filtered", None, {"Name": "no-such-node"}, {"Tags": {"nosuch": ""}},
               {"Tags": {"role": "w.*"}}, {"Name": "a|vec"}),
    **fields("members-filtered", Name=("([",), Status=("([",),
             Tags=({"role": "(["}, {"a": 5}, ["a"], "x")),
    **fields("auth", AuthKey=(5, ["x"])),
    **fields("stop", Stop=(12345, None, "x", -1)),
    **with_end("stop", None, {}),
    **fields("stream", Type=("nonsense", "member-join, user", "member-join,", "user:a:b",
                             "member-join:x", ",", " ", "USER", 5)),
    **fields("monitor", LogLevel=("loud", "", "WARNING", 5)),
    **with_end("monitor", None),
    **fields("join", Existing=([], None, ["NET.99"], ["NET.98:1", "NET.99"], ["x/NET.99:12"],
                               ["[::1]:1", "::1"], "NET.99", [1])),
    **with_end("join", None, {"Existing": [], "Replay": 1}, {"Replay": "x"}),
    **with_end("force-leave", None, {"Node": "no-such"}, {"Node": "no-such", "Prune": True}),
    **with_end("respond", None, {"ID": 99, "Payload": b"x"}, {"ID": -1}),
    **with_end("get-coordinate", None, {"Node": "no-such-node"}, {"Node": "vec-a"}),
    **with_end("use-key", None, {"Key": "x"}, {"Key": "AAAA"}, {"Key": ""}, {"Key": 5}),
    **with_end("tags", None, {"DeleteTags": ["nosuch"]}, {"Tags": {"x": "y" * 600}},
               {"Tags": {"x": 5}}, {"DeleteTags": "dc"},
               {"Tags": {"dc": "east"}, "DeleteTags": ["nosuch"]}),
    **with_end("query", None, {"Name": "_serf_x"}, {"Name": "x", "Payload": b"y" * 1100},
               {"Name": "x", "Payload": HUGE}, {"Name": "x", "RelayFactor": 256},
               {"Name": "x", "RelayFactor": -1}, {"Name": "x", "Timeout": 1.0},
               {"Name": "x", "FilterNodes": "a"}),
}  # fmt: skip

STREAMS: dict[str, list[Any]] = {
    **{f"a stream of {one!r}": [header("stream", 5), {"Type": one}, header("stop"), {"Stop": 5}]
       for one in ("", "*", "user", "user:x", "member-join,user", "user:", "query:", "*,user")},
    "a stream of nil": [header("stream", 5), None, header("stop"), {"Stop": 5}],
    "two streams of one seq": [
        header("stream", 5), {"Type": "user:x"}, header("stream", 5), {"Type": "user:y"},
        header("stop", 6), {"Stop": 5}, header("stream", 5), {"Type": "user:z"},
    ],
    "the filter is checked before the seq": [
        header("stream", 5), {"Type": "user:x"}, header("stream", 5), {"Type": "nonsense"},
    ],
    "a stream is stopped by its own seq": [
        header("stream", 5), {"Type": "user:x"}, header("stop", 5), {"Stop": 5},
    ],
}  # fmt: skip

LOCKED: dict[str, list[Any]] = {
    **{f"key {str(one)[:9]!r}": [header("auth"), {"AuthKey": one}, *END] for one in
       (KEY, "", KEY.upper(), KEY + " ", None, 5, [KEY], "x" * 5000)},
    "right, then wrong": [
        header("auth"), {"AuthKey": KEY}, header("auth", 8), {"AuthKey": "x"}, *END,
    ],
    **{f"{name} needs a key": [header(name)] for name in
       ("members", "leave", "stats", "list-keys", "join", "query", "stream", "monitor", "tags",
        "respond", "force-leave", "get-coordinate", "install-key", "members-filtered", "x", "")},
    "rejected, then authenticated": [header("members"), header("auth", 8), {"AuthKey": KEY}, *END],
    "a second handshake needs none": [
        header("handshake"), {"Version": 1}, header("auth", 8), {"AuthKey": KEY}, *END,
    ],
}  # fmt: skip

INVALID = {
    **{name: (False, requests) for name, requests in HANDSHAKES.items()},
    **{
        name: (False, requests)
        for name, requests in with_handshake({**ORDER, **BODIES, **STREAMS}).items()
    },
    **{f"{name} (locked)": (True, requests) for name, requests in with_handshake(LOCKED).items()},
}


def replies_to(agents: Agents, requests: list[Any], *, locked: bool = False) -> Messages:
    """Send requests, end the input, and return everything until the agent closes."""
    data = pack(*(with_own_net(one, agents.net) for one in requests))
    with Raw(agents.locked if locked else agents.open) as raw:
        try:
            raw.send(data)
            raw.end_input()
        except OSError:
            assert len(data) > 10_000  # closed during a long request
        return raw.rest()


def with_own_net(value: Any, here: str) -> Any:
    """Put the test's own addresses into a request."""
    if isinstance(value, str):
        return value.replace("NET", here)
    if isinstance(value, list):
        return [with_own_net(one, here) for one in value]
    if isinstance(value, dict):
        return {name: with_own_net(one, here) for name, one in value.items()}
    return value


def comparable(found: Messages, here: str) -> list[Any]:
    """Return what must be equal: errors as in Serf 0.10, seqs as they are, bodies by shape."""
    return [
        (one["Seq"], as_newest(one["Error"].replace(here, "NET")))
        if "Error" in one
        else shape(one)
        for one, _ in found
    ]


@pytest.mark.parametrize("name", INVALID)
def test_replies_to_invalid_requests_equal_serf(name: str, pair: tuple[Agents, Agents]) -> None:
    locked, requests = INVALID[name]
    theirs, ours = ask_both(pair, lambda agents: replies_to(agents, requests, locked=locked))
    assert comparable(ours, pair[1].net) == comparable(theirs, pair[0].net)
    assert_encoded_equally(theirs, ours)


MEMBERS = "members"
DIFFERENT: dict[str, tuple[bool, list[Any], list[Any], list[Any]]] = {
    "the body of a request without a key is skipped": (
        True,
        [header("event"), {"Name": "x"}, header("stop", 8), {"Stop": 1}],
        [(7, "Authentication required")] * 2 + [(8, "Authentication required")] * 2,
        [(7, "Authentication required"), (8, "Authentication required")],
    ),
    "text may be bytes": (
        False,
        [header(b"members"), header("event", 8), {"Name": b"x"}],
        [],
        [(7, ""), MEMBERS, (8, "")],
    ),
    "maps are not lists": (False, [["members", 7]], [(7, ""), MEMBERS], []),
    "bytes are not lists": (
        False, [header("event"), {"Name": "x", "Payload": [1, 2]}], [(7, "")], [],
    ),
    "messages are limited": (
        False, [header("x" * 5_000_000)], [(7, "Unsupported command")], [],
    ),
    "suspicions are events": (
        False,
        [header("stream"), {"Type": "member-suspect"}],
        [(7, "Invalid event filter")],
        [(7, "")],
    ),
    "errors of addresses have other texts": (
        False,
        [header("join"), {"Existing": ["NET.99:x"]}],
        [(7, "1 error occurred:\n\t* failed to resolve NET.99:x: strconv.ParseUint: parsing"
             ' "x": invalid syntax\n\n'), [("Num", "int")]],
        [(7, "1 error occurred:\n\t* failed to resolve NET.99:x: expected a port from 1 to"
             " 65535, not 'x'\n\n"), [("Num", "int")]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_intended_differences(name: str, pair: tuple[Agents, Agents]) -> None:
    locked, requests, from_theirs, from_ours = DIFFERENT[name]
    sent = [HANDSHAKE, *requests]
    theirs, ours = ask_both(pair, lambda agents: replies_to(agents, sent, locked=locked))
    for found, here, expected in (
        (theirs, pair[0].net, from_theirs),
        (ours, pair[1].net, from_ours),
    ):
        first, *rest = (
            MEMBERS if isinstance(one, list) and one[0][0] == "Members" else one
            for one in comparable(found, here)
        )
        assert first == (0, "")
        assert rest == expected


def test_second_response_to_a_query_is_rejected_alike(pair: tuple[Agents, Agents]) -> None:
    def ask(agents: Agents) -> dict[int, str]:
        query = {"Name": "twice", "Payload": b"", "Timeout": 10**10, "RequestAck": False,
                 "RelayFactor": 0, "FilterNodes": ["vec-a"], "FilterTags": {}}  # fmt: skip
        with Raw(agents.open) as watcher, Raw(agents.open) as requester:
            watcher.send(pack(HANDSHAKE, header("stream", 1), {"Type": "query:twice"}))
            errors: dict[int, str] = {}
            while 4 not in errors:
                message = watcher.message()
                assert message is not None
                if "ID" in message[0]:
                    body = {"ID": message[0]["ID"], "Payload": b"x"}
                    for seq in (2, 3):
                        watcher.send(pack(header("respond", seq), body))
                    watcher.send(pack(header("respond", 4), {**body, "ID": 999_999}))
                elif message[0]["Seq"] == 1 and 1 not in errors:
                    requester.send(pack(HANDSHAKE, header("query", 9), query))
                errors.setdefault(message[0].get("Seq", 1), message[0].get("Error", ""))
            return errors

    theirs, ours = map(ask, pair)
    assert ours == theirs
    assert theirs[2] == ""
    assert "response already sent" in theirs[3]


LEAVE = next(one for one in RECORDED if one["title"] == "leave")


def test_leave_is_answered_before_the_agent_ends(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def ask(number: int, *program: str) -> Messages:
        here = net(number)
        with agent(f"{here}.24", "vec-l", program=program) as address:
            until(lambda: alive(address) == 1)
            with Raw(address) as raw:
                for sent, _ in exchanged(LEAVE["exchange"]):
                    raw.send(sent)
                return raw.rest()

    theirs, ours = ask(5), ask(6, *TRIOSERF)
    recording = [m for _, expected in exchanged(LEAVE["exchange"]) for m in expected]
    assert comparable(ours, "NET") == comparable(theirs, "NET")
    assert [m for m, _ in ours] == recording
    assert [data for _, data in ours] == [data for _, data in theirs]


def test_only_one_monitor_starts_with_earlier_lines(pair: tuple[Agents, Agents]) -> None:
    def ask(agents: Agents) -> Messages:
        twice = [
            header("monitor", 6),
            {"LogLevel": "INFO"},
            header("monitor", 7),
            {"LogLevel": "x"},
        ]
        with Raw(agents.open) as raw:
            raw.send(HANDSHAKE + pack(header("monitor", 5), {"LogLevel": "info"}))
            found: Messages = []
            while len(found) < 5:
                message = raw.message()
                assert message is not None
                found.append(message)
            raw.send(pack(*twice, header("stop", 8), {"Stop": 5}, *twice[:2]))
            while found[-1][0].get("Seq") != 6 or found[-1][0]["Error"]:
                message = raw.message()
                assert message is not None
                found.append(message)
            return found

    theirs, ours = ask_both(pair, ask)

    def without_lines(found: Messages) -> list[Any]:
        return [one for one in comparable(found, "NET") if isinstance(one, tuple) and one[0] != 5]

    assert without_lines(ours) == without_lines(theirs) == [
        (0, ""), (6, "Monitor already exists"), (7, "Unknown log level: X"), (8, ""), (6, ""),
    ]  # fmt: skip
    for found in (theirs, ours):
        assert comparable(found[1:4], "NET") == [(5, ""), (5, ""), [("Log", "str")]]
    assert_encoded_equally(theirs, ours)
