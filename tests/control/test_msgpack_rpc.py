from typing import Any

import msgpack
import pytest
import trio
import trio.testing

from tests.control.helpers import (
    RECORDED,
    RpcClient,
    messages,
    recorded_agent,
    serving,
    turns,
)
from trioserf.address import Address
from trioserf.serf.events import MemberEvent
from trioserf.serf.member import Member
from trioserf.wire.serf_messages import Status


def shape(value: Any, path: str = "") -> Any:
    """What must be equal: keys, their order, types and nils; not the values."""
    if isinstance(value, dict):
        if path in ("Tags", "Messages", "Keys") or path.startswith("stats"):
            return {"a map": sorted({str(shape(one)) for one in value.values()})}
        return [(key, shape(one, key)) for key, one in value.items()]
    if isinstance(value, list):
        kinds = {str(shape(one)) for one in value}
        return ["list of", *sorted(kinds)]
    return type(value).__name__


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda one: one["title"])
async def test_recorded_requests_get_replies_of_the_same_shape(
    recorded: dict[str, Any], autojump_clock: object
) -> None:
    async with serving(agent=recorded_agent()) as world:
        wire = RpcClient(world.pipe())
        for said, theirs in turns(recorded["exchange"]):
            await wire.send(said)
            expected = messages(theirs)
            heard = [await wire.receive() for _ in expected]
            for ours, reference in zip(heard, expected, strict=True):
                if "runtime" in reference:
                    assert set(ours) == set(reference)
                    assert {type(v) for group in ours.values() for v in group.values()} == {str}
                elif isinstance(reference.get("Type"), str):
                    assert list(ours) == list(reference)
                else:
                    assert shape(ours) == shape(reference)
                if "Error" in reference:
                    assert ours["Seq"] == reference["Seq"]
                    assert bool(ours["Error"]) == bool(reference["Error"])
        if recorded["title"] == "members bad regex":
            assert await wire.receive() is None


def test_all_the_recorded_kinds_of_requests_are_replayed() -> None:
    said = {
        message["Command"]
        for one in RECORDED
        for step in one["exchange"]
        if step["from"] == "client"
        for message in messages(bytes.fromhex(step["hex"]))
        if "Command" in message
    }
    assert len(said) >= 12


@pytest.mark.parametrize("seq", [0, 1, 2**63, 2**64 - 1])
async def test_seq_is_echoed(seq: int) -> None:
    async with serving() as world:
        wire = await world.rpc()
        assert await wire.ask("stop", seq, {"Stop": 1}) == {"Error": "", "Seq": seq}


async def test_a_handshake_comes_first_and_once() -> None:
    async with serving() as world:
        wire = RpcClient(world.pipe())
        assert (await wire.ask("handshake", 1, {"Version": 2}))["Error"] == (
            "Unsupported IPC version"
        )
        assert (await wire.ask("handshake", 2, {"Version": 1}))["Error"] == ""
        assert (await wire.ask("handshake", 3, {"Version": 1}))["Error"] == (
            "Handshake already performed"
        )
        assert (await wire.ask("nonsense", 4))["Error"] == "Unsupported command"
        assert await wire.receive() is None


@pytest.mark.parametrize(("command", "body"), [("members", None), ("event", {"Name": "x"})])
async def test_without_a_handshake_the_door_shuts(command: str, body: Any) -> None:
    async with serving() as world:
        wire = RpcClient(world.pipe())
        assert await wire.ask(command, 5, body) == {"Error": "Handshake required", "Seq": 5}
        assert await wire.receive() is None


async def test_a_key_is_asked_for() -> None:
    async with serving(auth="sesame") as world:
        wire = await world.rpc()
        required = {"Error": "Authentication required", "Seq": 7}
        assert await wire.ask("members") == required
        assert await wire.ask("event", body={"Name": "x"}) == required
        assert await wire.ask("nonsense") == required
        wrong = await wire.ask("auth", body={"AuthKey": "simsalabim"})
        assert wrong == {"Error": "Invalid authentication token", "Seq": 7}
        assert world.server.unauthenticated == 1
        assert (await wire.ask("auth", body={"AuthKey": "sesame"}))["Error"] == ""
        assert world.server.unauthenticated == 0
        assert (await wire.ask("event", body={"Name": "x"}))["Error"] == ""


async def test_a_key_where_none_is_asked_for_is_wrong() -> None:
    async with serving() as world:
        wire = await world.rpc()
        assert (await wire.ask("auth", body={"AuthKey": "x"}))["Error"] == (
            "Invalid authentication token"
        )


@pytest.mark.parametrize(
    "said",
    [
        [b"\xc1"], [[1, 2]], [{"Command": 5, "Seq": 1}], [{"Command": "members", "Seq": -1}],
        [{"Command": "members", "Seq": 1.5}], [{"Command": "event", "Seq": 1}, [1]],
        [{"Command": "event", "Seq": 1}, {"Name": 5}],
        [{"Command": "event", "Seq": 1}, {"Name": "x", "Coalesce": 2}],
        [{"Command": "query", "Seq": 1}, {"Name": "x", "RelayFactor": 300}],
        [{"Command": "query", "Seq": 1}, {"Name": "x", "FilterNodes": "a"}],
        [{"Command": "join", "Seq": 1}, {"Existing": [5]}], [{1: 2}],
        [{"Command": "tags", "Seq": 1}, {"Tags": []}],
        [b"\xdd\xff\xff\xff\xff" * 600], [b"\x91" * 5000], [b"\xd4\x01\x00"],
    ],
)  # fmt: skip
async def test_what_gos_decoder_refuses_ends_the_connection(said: list[Any]) -> None:
    async with serving() as world:
        wire = await world.rpc()
        await wire.send(*said)
        assert await wire.receive() is None


async def test_a_bad_expression_ends_the_connection() -> None:
    async with serving() as world:
        wire = await world.rpc()
        assert await wire.ask("members-filtered", body={"Name": "(["}) is None


async def test_nil_and_missing_fields_are_zero_values_and_bin_is_text() -> None:
    async with serving() as world:
        wire = await world.rpc()
        assert (await wire.ask("event", body={b"Name": b"x", "Payload": "v"}))["Error"] == ""
        await wire.send({"Command": "event", "Seq": 1, "More": 2}, None)
        assert (await wire.receive())["Error"] == ""
        assert (await wire.ask("tags", body={"Tags": None, "DeleteTags": None}))["Error"] == ""


async def test_filters_are_anchored_as_serf_does() -> None:
    async with serving() as world:
        node = world.agent.node
        node.put(Member("abc", Address("127.0.0.9", 1), {"x": "y"}, Status.ALIVE))
        wire = await world.rpc()

        async def names(**body: Any) -> list[str]:
            assert (await wire.ask("members-filtered", body=body))["Error"] == ""
            return [one["Name"] for one in (await wire.receive())["Members"]]

        assert await names() == ["node-a", "abc"]
        assert await names(Name="b") == []
        assert await names(Name="ab|x") == ["abc"]
        assert await names(Name="x|-a") == ["node-a"]
        assert await names(Tags={"x": ""}) == ["node-a"]
        assert await names(Status="alive", Tags={"x": "."}) == ["abc"]


async def test_events_are_streamed_as_serf_shows_them() -> None:
    async with serving() as world:
        wire = await world.rpc()
        node = world.agent.node
        assert (await wire.ask("stream", 5, {"Type": "nonsense"}))["Error"] == (
            "Invalid event filter"
        )
        assert (await wire.ask("stream", 5, {"Type": "user:deploy"}))["Error"] == ""
        assert (await wire.ask("stream", 5, {"Type": "*"}))["Error"] == (
            "Stream with given sequence exists"
        )
        await node.user_event("other")
        await node.user_event("deploy", b"v1", coalesce=True)
        assert await wire.receive() == {"Error": "", "Seq": 5}
        record = await wire.receive()
        assert list(record.items()) == [
            ("Coalesce", True), ("Event", "user"), ("LTime", 2), ("Name", "deploy"),
            ("Payload", b"v1"),
        ]  # fmt: skip
        assert (await wire.ask("stop", 6, {"Stop": 5}))["Error"] == ""
        await node.user_event("deploy")
        assert (await wire.ask("stream", 7, {"Type": ""}))["Error"] == ""
        await node.user_event("deploy")
        assert [await wire.receive(), (await wire.receive())["Payload"]] == [
            {"Error": "", "Seq": 7}, None,
        ]  # fmt: skip
        node.publish(MemberEvent("member-join", node.members()))
        await wire.receive()
        record = await wire.receive()
        assert list(record) == ["Event", "Members"]
        assert record["Members"][0]["Addr"] == b"\x7f\x00\x00\x01"


async def test_a_stream_answers_queries() -> None:
    async with serving() as world:
        answerer, asker = await world.rpc(), await world.rpc()
        await answerer.ask("stream", 5, {"Type": "query"})
        body = {"Name": "load", "Payload": b"?", "Timeout": 10**9, "RequestAck": True}
        assert await asker.ask("query", 6, body) == {"Error": "", "Seq": 6}
        assert await answerer.receive() == {"Error": "", "Seq": 5}
        assert list((await answerer.receive()).items()) == [
            ("Event", "query"), ("ID", 1), ("LTime", 1), ("Name", "load"), ("Payload", b"?"),
        ]  # fmt: skip
        reply = await answerer.ask("respond", 8, {"ID": 99, "Payload": b"x"})
        assert reply == {"Error": "No pending queries matching ID", "Seq": 8}
        reply = await answerer.ask("respond", 9, {"ID": 1, "Payload": b"!"})
        assert reply == {"Error": "", "Seq": 9}
        records = [await asker.receive() for _ in range(6)]
        assert records[::2] == [{"Error": "", "Seq": 6}] * 3
        assert [list(one.values()) for one in records[1::2]] == [
            ["node-a", None, "ack"], ["node-a", b"!", "response"], ["", None, "done"],
        ]  # fmt: skip


async def test_queries_pass_their_options_and_say_what_is_wrong(autojump_clock: object) -> None:
    async with serving() as world:
        wire = await world.rpc()
        reply = await wire.ask("query", 1, {"Name": "_serf_x"})
        assert reply["Error"] == "Queries cannot contain the '_serf_' prefix"
        body = {
            "FilterNodes": ["a"], "FilterTags": {"b": "c"}, "RequestAck": True, "RelayFactor": 3,
            "Timeout": 1_500_000_000, "Name": "q", "Payload": None,
        }  # fmt: skip
        assert (await wire.ask("query", 2, body))["Error"] == ""
        assert world.agent.node.asked[0] == {
            "name": "q", "payload": b"", "nodes": ["a"], "tags": {"b": "c"}, "timeout": 1.5,
            "ack": True, "relay_factor": 3, "first": None,
        }  # fmt: skip
        assert await wire.receive() == {"Error": "", "Seq": 2}
        done = await wire.receive()
        assert list(done.items()) == [("From", ""), ("Payload", None), ("Type", "done")]


async def test_the_log_is_monitored() -> None:
    async with serving() as world:
        logs = world.agent.logs
        for number in range(600):
            logs.say("INFO", "serf", f"line {number}")
        wire = await world.rpc()
        assert (await wire.ask("monitor", 5, {"LogLevel": "loud"}))["Error"] == (
            "Unknown log level: LOUD"
        )
        assert (await wire.ask("monitor", 5, {"LogLevel": "debug"}))["Error"] == ""
        for number in range(88, 600):
            assert await wire.receive() == {"Error": "", "Seq": 5}
            record = await wire.receive()
            assert record["Log"].endswith(f" [INFO] serf: line {number}")
        assert (await wire.ask("monitor", 6, {"LogLevel": "debug"}))["Error"] == (
            "Monitor already exists"
        )
        assert (await wire.ask("stream", 5, {"Type": "user"}))["Error"] == ""
        assert (await wire.ask("stop", 7, {"Stop": 5}))["Error"] == ""
        await trio.testing.wait_all_tasks_blocked()
        assert logs.subscriptions == 0
        assert world.agent.node.subscriptions == 0
        assert (await wire.ask("monitor", 6, {"LogLevel": "ERR"}))["Error"] == ""


async def test_bodies_stand_beside_errors() -> None:
    async with serving() as world:
        wire = await world.rpc()
        reply = await wire.ask("join", 1, {"Existing": ["x", "y"], "Replay": False})
        assert reply["Error"] == (
            "2 errors occurred:\n"
            "\t* Failed to join x: dial tcp x:7946: connect: connection refused\n"
            "\t* Failed to join y: dial tcp y:7946: connect: connection refused\n\n"
        )
        assert await wire.receive() == {"Num": 0}
        assert await wire.ask("join", 2, {"Existing": []}) == {"Error": "", "Seq": 2}
        assert await wire.receive() == {"Num": 0}
        assert (await wire.ask("install-key", 3, {"Key": "notakey"}))["Error"] != ""
        assert list((await wire.receive()).items()) == [
            ("Keys", None), ("Messages", {}), ("NumErr", 0), ("NumNodes", 0), ("NumResp", 0),
        ]  # fmt: skip
        key = "T9jncgl9mbLus+baTTa7q7nPSUrXwbDi2dhbtqir37s="
        assert (await wire.ask("use-key", 3, {"Key": key}))["Error"] == (
            "1/1 nodes reported failure"
        )
        said = await wire.receive()
        assert said["Keys"] is None
        assert said["Messages"] == {"node-a": "Keyring is empty (encryption not enabled)"}
        assert (await wire.ask("list-keys", 3))["Error"] != ""
        assert (await wire.receive())["Keys"] == {}
        world.agent.node.keys_held = [key]
        assert (await wire.ask("list-keys", 3))["Error"] == ""
        assert (await wire.receive())["Keys"] == {key: 1}


async def test_an_unknown_member_may_be_told_to_leave_and_has_no_place() -> None:
    async with serving() as world:
        wire = await world.rpc()
        assert (await wire.ask("force-leave", body={"Node": "x"}))["Error"] == ""
        for name in ("x", ""):
            assert (await wire.ask("get-coordinate", body={"Node": name}))["Error"] == ""
            place = {"Adjustment": 0.0, "Error": 0.0, "Height": 0.0, "Vec": None}
            assert await wire.receive() == {"Coord": place, "Ok": False}


async def test_errors_keep_the_connection_and_bugs_are_internal() -> None:
    async with serving() as world:
        wire = await world.rpc()
        reply = await wire.ask("event", body={"Name": "big", "Payload": b"x" * 600})
        assert reply["Error"] == (
            "user event exceeds configured limit of 512 bytes before encoding"
        )
        assert "internal error" in (await wire.ask("event", body={"Name": "crash"}))["Error"]
        assert (await wire.ask("event", body={"Name": "x"}))["Error"] == ""


async def test_messages_may_arrive_in_pieces() -> None:
    async with serving() as world:
        wire = await world.rpc()
        for byte in msgpack.packb({"Command": "stop", "Seq": 1}) + msgpack.packb({"Stop": 5}):
            await wire.send(bytes([byte]))
        assert await wire.receive() == {"Error": "", "Seq": 1}


async def test_leave_is_answered_and_then_the_agent_ends(autojump_clock: object) -> None:
    async with serving() as world:
        world.agent.leave_takes = 3
        wire = await world.rpc()
        assert await wire.ask("leave", 9) == {"Error": "", "Seq": 9}
        assert trio.current_time() >= 3
        await world.agent.shutdown.wait()


async def test_a_slow_client_loses_events_and_the_log_says_so(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as world:
        wire = await world.rpc()
        await wire.ask("stream", 5, {"Type": "user"})
        for _ in range(700):
            await world.agent.node.user_event("x", b"y")
        await trio.testing.wait_all_tasks_blocked()
        heard = 0
        with trio.move_on_after(1):
            while await wire.receive():
                heard += 1
        assert 512 * 2 <= heard < 700 * 2
        assert any("slow client" in one.getMessage() for one in caplog.records)


async def test_end_of_input_ends_everything() -> None:
    async with serving() as world:
        wire = await world.rpc()
        await wire.ask("stream", 5, {"Type": "user"})
        await wire.ask("monitor", 6, {"LogLevel": "INFO"})
        await wire.stream.send_eof()
        assert await wire.receive() is None
        assert await world.empty()


async def test_a_query_for_nobody_is_asked_in_vain(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as world:
        wire = await world.rpc()
        assert (await wire.ask("query", 1, {"Name": "q", "FilterTags": {"a": "(["}}))[
            "Error"
        ] == ""
        assert await wire.receive() == {"Error": "", "Seq": 1}
        assert (await wire.receive())["Type"] == "done"
    assert "'q' matches no member" in caplog.text
