"""Serf's RPC, request by request: our agent answers what the real one answers, byte kind by kind.

The same bytes go to an agent of each program, in clusters that are alike. First the recorded
requests of Serf's command line, then everything that a client may do wrong.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.control.helpers import RECORDED, messages, request_reply_pairs
from tests.interop.go_agents import OURS, SERF, agent, net, until
from tests.interop.rpc_bytes import SHAKE, Raw, header, pack, shape, spellings

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(SERF is None, reason="the real serf program is NOT INSTALLED"),
]
KEY = "s3cret"
OPTIONS = ("-tag=role=web", "-tag=dc=east", "-event-handler=query:load=echo 0.42")
Messages = list[tuple[Any, bytes]]


class Agents(NamedTuple):
    """An agent with a friend, one that asks for a key; and their addresses."""

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
    """How many members an agent sees alive; 0 as long as it is not up."""
    body = {"Name": "", "Status": "alive", "Tags": {}}
    try:
        with Raw(address) as raw:
            raw.say(SHAKE + pack(header("auth"), {"AuthKey": KEY if ".23:" in address else ""}))
            raw.say(pack(header("members-filtered"), body))
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
        ours = running(stack, 6, path / "ours.json", *OURS)
        yield theirs, ours


def of_both(
    pair: tuple[Agents, Agents], ask: Callable[[Agents], Messages]
) -> tuple[Messages, Messages]:
    with ThreadPoolExecutor() as pool:
        theirs, ours = pool.map(ask, pair)
    return theirs, ours


def exchanged(exchange: list[dict[str, str]]) -> list[tuple[bytes, list[Any]]]:
    """Pairs of what the client said and the messages that the agent said to it."""
    return [(said, messages(heard)) for said, heard in request_reply_pairs(exchange)]


def replay(agents: Agents, exchange: list[dict[str, str]]) -> Messages:
    """Say what was recorded, at our addresses; wait for as many messages, or a query's end."""
    found: Messages = []
    with Raw(agents.open) as raw:
        for said, expected in exchanged(exchange):
            raw.say(at_home(said, agents.net))
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


def at_home(data: bytes, here: str) -> bytes:
    """Replace the addresses of the recording by those of this test."""
    for number in ("22", "99"):
        data = data.replace(pack(f"127.0.0.{number}"), pack(f"{here}.{number}"))
    return data


def kinds(found: Messages) -> list[Any]:
    """The shapes of messages; acks and answers of a query once each, as their number varies.

    A busy Go agent tells some of nobody, too, when a query's time is over.
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


def assert_spelled_alike(theirs: Messages, ours: Messages) -> None:
    """Each kind of value that both have is spelled with the same first byte."""
    told, said = spelled(theirs), spelled(ours)
    both = told.keys() & said.keys()
    assert {kind: said[kind] for kind in both} == {kind: told[kind] for kind in both}
    assert {len(firsts) for firsts in said.values()} <= {1}


def spelled(found: Messages) -> dict[str, set[str]]:
    firsts: dict[str, set[str]] = {}
    for _, data in found:
        for kind, first in spellings(data):
            firsts.setdefault(kind, set()).add(first)
    return firsts


REPLAYED = [one for one in RECORDED if one["title"] != "leave"]


@pytest.mark.parametrize("recorded", REPLAYED, ids=lambda one: one["title"])
def test_recorded_requests_get_the_same_replies(
    recorded: dict[str, Any], pair: tuple[Agents, Agents]
) -> None:
    theirs, ours = of_both(pair, lambda agents: replay(agents, recorded["exchange"]))
    recording = [m for _, expected in exchanged(recorded["exchange"]) for m in expected]
    assert sorted(map(str, kinds(ours))) == sorted(map(str, kinds(theirs)))
    assert sorted(map(str, kinds(ours))) == sorted(
        map(str, kinds([(one, b"") for one in recording]))
    )
    told, said, written = (
        [(one["Seq"], at(one["Error"])) for one in found if "Error" in one]
        for found, at in (
            ([m for m, _ in theirs], lambda text: text.replace(pair[0].net, "127.0.0")),
            ([m for m, _ in ours], lambda text: text.replace(pair[1].net, "127.0.0")),
            (recording, str),
        )
    )
    if "query" not in recorded["title"] and recorded["title"] != "reachability":
        assert said == told == written
    else:
        assert set(said) == set(told) == set(written)
    assert_spelled_alike(theirs, ours)


# --- what a client may do wrong ---

END = [header("members", 9)]
"""A last request: whether it is answered tells whether the connection was still open."""
BIG, HUGE = b"y" * 600, b"y" * 300_000


def with_end(command: str, *bodies: Any) -> dict[str, list[Any]]:
    """The same command with each of these bodies, by what they are."""
    return {f"{command} {str(body)[:40]}": [header(command), body, *END] for body in bodies}


def fields(command: str, **wrong: tuple[Any, ...]) -> dict[str, list[Any]]:
    """A command with one field of its body at a time set to something odd."""
    return with_end(command, *({name: one} for name, many in wrong.items() for one in many))


def shaken(cases: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [SHAKE, *said] for name, said in cases.items()}


NOBODY_SHOOK_HANDS: dict[str, list[Any]] = {
    **{f"{name} without handshake": [header(name), *END] for name in
       ("members", "event", "auth", "stop", "nonsense", "leave", "")},
    **{f"version {one!r}": [header("handshake", 3), {"Version": one}, *END] for one in
       (0, 2, -1, 2**31 - 1, 2**31, None, "1", 1.0, True)},
    "no version": [header("handshake"), {}, *END],
    "handshake of nil": [header("handshake"), None, *END],
    "auth before handshake": [header("auth"), {"AuthKey": KEY}, SHAKE],
    "silence": [],
    "nothing but zeros": [bytes(10)],
}  # fmt: skip

ORDER: dict[str, list[Any]] = {
    "handshake twice": [header("handshake"), {"Version": 1}, *END],
    "a later handshake of another version": [header("handshake"), {"Version": 9}, *END],
    "unknown command": [header("nonsense"), *END],
    "empty command": [header(""), *END],
    "command in capitals": [header("MEMBERS"), *END],
    "two at once": [header("members", 1), header("members", 2)],
    "slow ones keep their order": [
        header("join", 1), {"Existing": ["NET.99"]}, header("stop", 2), {"Stop": 1},
        header("force-leave", 3), {"Node": "nobody"}, header("respond", 4), {"ID": 99}, *END,
    ],
    "auth where none is asked for": [header("auth"), {"AuthKey": "x"}, *END],
    "auth without a key": [header("auth"), {"AuthKey": ""}, header("auth"), None, *END],
    **{f"seq {one}": [header("stop", one), {"Stop": 1}] for one in
       (0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63, 2**64 - 1)},
    **{f"seq {one!r}": [header("stop", one), {"Stop": 1}, *END] for one in
       (-1, -(2**63), None, 1.5, "1", True)},
    "no seq": [{"Command": "stop"}, {"Stop": 1}, *END],
    "no command": [{"Seq": 1}, *END],
    "neither": [{}, *END],
    "small letters": [{"command": "members", "seq": 1}, *END],
    "a body too many": [header("members"), {}, *END],
    "command nil": [header(None), *END],
    "command 5": [header(5), *END],
    "a header of nil": [None, *END],
    "a header of 5": [5, *END],
    "a header of text": ["members", *END],
    "fields that nobody knows": [{**header("stop"), "More": [1, {"a": 2}]}, {"a": {}}, *END],
    "keys that are numbers": [{1: 2, **header("members")}, *END],
    "an extension": [b"\xd4\x01\x00", *END],
    "what is no msgpack": [b"\xc1", *END],
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
    **with_end("members-filtered", None, {"Name": "nobody"}, {"Tags": {"nosuch": ""}},
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
    **with_end("force-leave", None, {"Node": "nobody"}, {"Node": "nobody", "Prune": True}),
    **with_end("respond", None, {"ID": 99, "Payload": b"x"}, {"ID": -1}),
    **with_end("get-coordinate", None, {"Node": "nobody"}, {"Node": "vec-a"}),
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
    "the filter is looked at before the seq": [
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
    "refused, then let in": [header("members"), header("auth", 8), {"AuthKey": KEY}, *END],
    "a second handshake needs none": [
        header("handshake"), {"Version": 1}, header("auth", 8), {"AuthKey": KEY}, *END,
    ],
}  # fmt: skip

WRONG = {
    **{name: (False, said) for name, said in NOBODY_SHOOK_HANDS.items()},
    **{name: (False, said) for name, said in shaken({**ORDER, **BODIES, **STREAMS}).items()},
    **{f"{name} (locked)": (True, said) for name, said in shaken(LOCKED).items()},
}


def heard(agents: Agents, said: list[Any], *, locked: bool = False) -> Messages:
    """Everything that an agent says to this, until it closes; our input ends at once."""
    data = pack(*(placed(one, agents.net) for one in said))
    with Raw(agents.locked if locked else agents.open) as raw:
        try:
            raw.say(data)
            raw.end_input()
        except OSError:
            assert len(data) > 10_000  # closed in the middle of something long
        return raw.rest()


def placed(value: Any, here: str) -> Any:
    """Put the test's own addresses into a request."""
    if isinstance(value, str):
        return value.replace("NET", here)
    if isinstance(value, list):
        return [placed(one, here) for one in value]
    if isinstance(value, dict):
        return {name: placed(one, here) for name, one in value.items()}
    return value


def told(found: Messages, here: str) -> list[Any]:
    """Replies by what must be equal: errors and seqs as they are, bodies by their shape."""
    return [
        (one["Seq"], one["Error"].replace(here, "NET")) if "Error" in one else shape(one)
        for one, _ in found
    ]


@pytest.mark.parametrize("name", WRONG)
def test_both_take_it_alike(name: str, pair: tuple[Agents, Agents]) -> None:
    locked, said = WRONG[name]
    theirs, ours = of_both(pair, lambda agents: heard(agents, said, locked=locked))
    assert told(ours, pair[1].net) == told(theirs, pair[0].net)
    assert_spelled_alike(theirs, ours)


MEMBERS = "members"
DIFFERENT: dict[str, tuple[bool, list[Any], list[Any], list[Any]]] = {
    "the body of a request that needs a key is no request": (
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
    "a message has an end": (
        False, [header("x" * 5_000_000)], [(7, "Unsupported command")], [],
    ),
    "who doubts whom is an event": (
        False,
        [header("stream"), {"Type": "member-suspect"}],
        [(7, "Invalid event filter")],
        [(7, "")],
    ),
    "what is wrong with an address is told in other words": (
        False,
        [header("join"), {"Existing": ["NET.99:x"]}],
        [(7, "1 error occurred:\n\t* Failed to resolve NET.99:x: strconv.ParseUint: parsing"
             ' "x": invalid syntax\n\n'), [("Num", "int")]],
        [(7, "1 error occurred:\n\t* Failed to resolve NET.99:x: expected a port from 1 to"
             " 65535, not 'x'\n\n"), [("Num", "int")]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_on_purpose(name: str, pair: tuple[Agents, Agents]) -> None:
    locked, said, theirs_say, ours_say = DIFFERENT[name]
    theirs, ours = of_both(pair, lambda agents: heard(agents, [SHAKE, *said], locked=locked))
    for found, here, wanted in ((theirs, pair[0].net, theirs_say), (ours, pair[1].net, ours_say)):
        said_first, *rest = (
            MEMBERS if isinstance(one, list) and one[0][0] == "Members" else one
            for one in told(found, here)
        )
        assert said_first == (0, "")
        assert rest == wanted


LEAVE = next(one for one in RECORDED if one["title"] == "leave")


def test_leave_is_answered_and_then_the_agent_is_gone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def ask(number: int, *program: str) -> Messages:
        here = net(number)
        with agent(f"{here}.24", "vec-l", program=program) as address:
            until(lambda: alive(address) == 1)
            with Raw(address) as raw:
                for said, _ in exchanged(LEAVE["exchange"]):
                    raw.say(said)
                return raw.rest()

    theirs, ours = ask(5), ask(6, *OURS)
    recording = [m for _, expected in exchanged(LEAVE["exchange"]) for m in expected]
    assert told(ours, "NET") == told(theirs, "NET")
    assert [m for m, _ in ours] == recording
    assert [data for _, data in ours] == [data for _, data in theirs]


def test_the_monitor_comes_once_and_begins_with_what_was(pair: tuple[Agents, Agents]) -> None:
    def ask(agents: Agents) -> Messages:
        twice = [
            header("monitor", 6),
            {"LogLevel": "INFO"},
            header("monitor", 7),
            {"LogLevel": "x"},
        ]
        with Raw(agents.open) as raw:
            raw.say(SHAKE + pack(header("monitor", 5), {"LogLevel": "info"}))
            found: Messages = []
            while len(found) < 5:
                message = raw.message()
                assert message is not None
                found.append(message)
            raw.say(pack(*twice, header("stop", 8), {"Stop": 5}, *twice[:2]))
            while found[-1][0].get("Seq") != 6 or found[-1][0]["Error"]:
                message = raw.message()
                assert message is not None
                found.append(message)
            return found

    theirs, ours = of_both(pair, ask)

    def without_lines(found: Messages) -> list[Any]:
        return [one for one in told(found, "NET") if isinstance(one, tuple) and one[0] != 5]

    assert without_lines(ours) == without_lines(theirs) == [
        (0, ""), (6, "Monitor already exists"), (7, "Unknown log level: X"), (8, ""), (6, ""),
    ]  # fmt: skip
    for found in (theirs, ours):
        assert told(found[1:4], "NET") == [(5, ""), (5, ""), [("Log", "str")]]
    assert_spelled_alike(theirs, ours)
