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
    request_reply_pairs,
    serving,
)
from trioserf.address import Address
from trioserf.serf.events import MemberEvent
from trioserf.serf.member import Member
from trioserf.wire.serf_messages import Status


def structure_of(value: Any, path: str = "") -> Any:
    """Return the keys, their order, the types and nils of a value, without its data."""
    if isinstance(value, dict):
        if path in ("Tags", "Messages", "Keys") or path.startswith("stats"):
            return {"a map": sorted({str(structure_of(item)) for item in value.values()})}
        return [(key, structure_of(item, key)) for key, item in value.items()]
    if isinstance(value, list):
        kinds = {str(structure_of(item)) for item in value}
        return ["list of", *sorted(kinds)]
    return type(value).__name__


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["title"])
async def test_recorded_requests_get_replies_of_the_same_shape(
    recorded: dict[str, Any], autojump_clock: object
) -> None:
    async with serving(agent=recorded_agent()) as served:
        client = RpcClient(served.pipe())
        for request, recorded_reply in request_reply_pairs(recorded["exchange"]):
            await client.send(request)
            expected = messages(recorded_reply)
            received = [await client.receive() for _ in expected]
            for reply, reference in zip(received, expected, strict=True):
                if "runtime" in reference:
                    assert set(reply) == set(reference)
                    assert {type(v) for group in reply.values() for v in group.values()} == {str}
                elif isinstance(reference.get("Type"), str):
                    assert list(reply) == list(reference)
                else:
                    assert structure_of(reply) == structure_of(reference)
                if "Error" in reference:
                    assert reply["Seq"] == reference["Seq"]
                    assert bool(reply["Error"]) == bool(reference["Error"])
        if recorded["title"] == "members bad regex":
            assert await client.receive() is None


def test_recorded_exchanges_cover_the_commands() -> None:
    commands = {
        message["Command"]
        for recorded in RECORDED
        for step in recorded["exchange"]
        if step["from"] == "client"
        for message in messages(bytes.fromhex(step["hex"]))
        if "Command" in message
    }
    assert len(commands) >= 12


@pytest.mark.parametrize("seq", [0, 1, 2**63, 2**64 - 1])
async def test_seq_is_echoed(seq: int) -> None:
    async with serving() as served:
        client = await served.rpc()
        assert await client.ask("stop", seq, {"Stop": 1}) == {"Error": "", "Seq": seq}


async def test_handshake_is_required_once_with_version_1() -> None:
    async with serving() as served:
        client = RpcClient(served.pipe())
        assert (await client.ask("handshake", 1, {"Version": 2}))["Error"] == (
            "Unsupported IPC version"
        )
        assert (await client.ask("handshake", 2, {"Version": 1}))["Error"] == ""
        assert (await client.ask("handshake", 3, {"Version": 1}))["Error"] == (
            "Handshake already performed"
        )
        assert (await client.ask("nonsense", 4))["Error"] == "Unsupported command"
        assert await client.receive() is None


@pytest.mark.parametrize(("command", "body"), [("members", None), ("event", {"Name": "x"})])
async def test_request_before_handshake_ends_the_connection(command: str, body: Any) -> None:
    async with serving() as served:
        client = RpcClient(served.pipe())
        assert await client.ask(command, 5, body) == {"Error": "Handshake required", "Seq": 5}
        assert await client.receive() is None


async def test_auth_is_required_if_rpc_auth_is_set(autojump_clock: object) -> None:
    async with serving(auth="sesame") as served:
        client = await served.rpc()
        required = {"Error": "Authentication required", "Seq": 7}
        assert await client.ask("members") == required
        assert await client.ask("event", body={"Name": "x"}) == required
        assert await client.ask("nonsense") == required
        wrong = await client.ask("auth", body={"AuthKey": "simsalabim"})
        assert wrong == {"Error": "Invalid authentication token", "Seq": 7}
        assert served.server.unauthenticated == 1
        assert (await client.ask("auth", body={"AuthKey": "sesame"}))["Error"] == ""
        assert served.server.unauthenticated == 0
        assert (await client.ask("event", body={"Name": "x"}))["Error"] == ""


async def test_any_key_is_wrong_if_rpc_auth_is_not_set() -> None:
    async with serving() as served:
        client = await served.rpc()
        assert (await client.ask("auth", body={"AuthKey": "x"}))["Error"] == (
            "Invalid authentication token"
        )


@pytest.mark.parametrize(
    "sent",
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
async def test_input_that_go_rejects_ends_the_connection(sent: list[Any]) -> None:
    async with serving() as served:
        client = await served.rpc()
        await client.send(*sent)
        assert await client.receive() is None


async def test_invalid_expression_ends_the_connection() -> None:
    async with serving() as served:
        client = await served.rpc()
        assert await client.ask("members-filtered", body={"Name": "(["}) is None


async def test_nil_and_missing_fields_are_zero_values_and_bin_is_accepted_as_text() -> None:
    async with serving() as served:
        client = await served.rpc()
        assert (await client.ask("event", body={b"Name": b"x", "Payload": "v"}))["Error"] == ""
        await client.send({"Command": "event", "Seq": 1, "More": 2}, None)
        assert (await client.receive())["Error"] == ""
        assert (await client.ask("tags", body={"Tags": None, "DeleteTags": None}))["Error"] == ""


async def test_member_filters_are_anchored_as_in_serf() -> None:
    async with serving() as served:
        node = served.agent.node
        node.put(Member("abc", Address("127.0.0.9", 1), {"x": "y"}, Status.ALIVE))
        client = await served.rpc()

        async def names(**body: Any) -> list[str]:
            assert (await client.ask("members-filtered", body=body))["Error"] == ""
            return [member["Name"] for member in (await client.receive())["Members"]]

        assert await names() == ["node-a", "abc"]
        assert await names(Name="b") == []
        assert await names(Name="ab|x") == ["abc"]
        assert await names(Name="x|-a") == ["node-a"]
        assert await names(Tags={"x": ""}) == ["node-a"]
        assert await names(Status="alive", Tags={"x": "."}) == ["abc"]


async def test_streamed_events_have_fields_of_serf() -> None:
    async with serving() as served:
        client = await served.rpc()
        node = served.agent.node
        assert (await client.ask("stream", 5, {"Type": "nonsense"}))["Error"] == (
            "Invalid event filter"
        )
        assert (await client.ask("stream", 5, {"Type": "user:deploy"}))["Error"] == ""
        assert (await client.ask("stream", 5, {"Type": "*"}))["Error"] == (
            "Stream with given sequence exists"
        )
        await node.user_event("other")
        await node.user_event("deploy", b"v1", coalesce=True)
        assert await client.receive() == {"Error": "", "Seq": 5}
        record = await client.receive()
        assert list(record.items()) == [
            ("Coalesce", True), ("Event", "user"), ("LTime", 2), ("Name", "deploy"),
            ("Payload", b"v1"),
        ]  # fmt: skip
        assert (await client.ask("stop", 6, {"Stop": 5}))["Error"] == ""
        await node.user_event("deploy")
        assert (await client.ask("stream", 7, {"Type": ""}))["Error"] == ""
        await node.user_event("deploy")
        assert [await client.receive(), (await client.receive())["Payload"]] == [
            {"Error": "", "Seq": 7}, None,
        ]  # fmt: skip
        node.publish(MemberEvent("member-join", node.members()))
        await client.receive()
        record = await client.receive()
        assert list(record) == ["Event", "Members"]
        assert record["Members"][0]["Addr"] == b"\x7f\x00\x00\x01"


async def test_rpc_stream_client_responds_to_queries() -> None:
    async with serving() as served:
        responder, requester = await served.rpc(), await served.rpc()
        await responder.ask("stream", 5, {"Type": "query"})
        body = {"Name": "load", "Payload": b"?", "Timeout": 10**9, "RequestAck": True}
        assert await requester.ask("query", 6, body) == {"Error": "", "Seq": 6}
        assert await responder.receive() == {"Error": "", "Seq": 5}
        assert list((await responder.receive()).items()) == [
            ("Event", "query"), ("ID", 1), ("LTime", 1), ("Name", "load"), ("Payload", b"?"),
        ]  # fmt: skip
        reply = await responder.ask("respond", 8, {"ID": 99, "Payload": b"x"})
        assert reply == {"Error": "No pending queries matching ID", "Seq": 8}
        reply = await responder.ask("respond", 9, {"ID": 1, "Payload": b"!"})
        assert reply == {"Error": "", "Seq": 9}
        reply = await responder.ask("respond", 9, {"ID": 1, "Payload": b"!"})
        assert reply == {
            "Error": "failed to respond to key query: response already sent", "Seq": 9
        }  # fmt: skip
        records = [await requester.receive() for _ in range(6)]
        assert records[::2] == [{"Error": "", "Seq": 6}] * 3
        assert [list(record.values()) for record in records[1::2]] == [
            ["node-a", None, "ack"], ["node-a", b"!", "response"], ["", None, "done"],
        ]  # fmt: skip


async def test_query_passes_its_options_and_reports_errors(autojump_clock: object) -> None:
    async with serving() as served:
        client = await served.rpc()
        reply = await client.ask("query", 1, {"Name": "_serf_x"})
        assert reply["Error"] == "Queries cannot contain the '_serf_' prefix"
        body = {
            "FilterNodes": ["a"], "FilterTags": {"b": "c"}, "RequestAck": True, "RelayFactor": 3,
            "Timeout": 1_500_000_000, "Name": "q", "Payload": None,
        }  # fmt: skip
        assert (await client.ask("query", 2, body))["Error"] == ""
        assert served.agent.node.queries[0] == {
            "name": "q", "payload": b"", "nodes": ["a"], "tags": {"b": "c"}, "timeout": 1.5,
            "ack": True, "relay_factor": 3, "first": None,
        }  # fmt: skip
        assert await client.receive() == {"Error": "", "Seq": 2}
        done = await client.receive()
        assert list(done.items()) == [("From", ""), ("Payload", None), ("Type", "done")]


async def test_monitor_sends_log_and_rejects_second_monitor() -> None:
    async with serving() as served:
        logs = served.agent.logs
        for number in range(600):
            logs.write("INFO", "serf", f"line {number}")
        client = await served.rpc()
        assert (await client.ask("monitor", 5, {"LogLevel": "loud"}))["Error"] == (
            "Unknown log level: LOUD"
        )
        assert (await client.ask("monitor", 5, {"LogLevel": "debug"}))["Error"] == ""
        for number in range(88, 600):
            assert await client.receive() == {"Error": "", "Seq": 5}
            record = await client.receive()
            assert record["Log"].endswith(f" [INFO] serf: line {number}")
        assert (await client.ask("monitor", 6, {"LogLevel": "debug"}))["Error"] == (
            "Monitor already exists"
        )
        assert (await client.ask("stream", 5, {"Type": "user"}))["Error"] == ""
        assert (await client.ask("stop", 7, {"Stop": 5}))["Error"] == ""
        await trio.testing.wait_all_tasks_blocked()
        assert logs.subscriptions == 0
        assert served.agent.node.subscriptions == 0
        assert (await client.ask("monitor", 6, {"LogLevel": "ERR"}))["Error"] == ""


async def test_error_replies_have_bodies_as_in_serf() -> None:
    async with serving() as served:
        client = await served.rpc()
        reply = await client.ask("join", 1, {"Existing": ["x", "y"], "Replay": False})
        assert reply["Error"] == (
            "2 errors occurred:\n"
            "\t* failed to join x:7946: dial tcp x:7946: connect: connection refused\n"
            "\t* failed to join y:7946: dial tcp y:7946: connect: connection refused\n\n"
        )
        assert await client.receive() == {"Num": 0}
        assert await client.ask("join", 2, {"Existing": []}) == {"Error": "", "Seq": 2}
        assert await client.receive() == {"Num": 0}
        assert (await client.ask("install-key", 3, {"Key": "notakey"}))["Error"] != ""
        assert list((await client.receive()).items()) == [
            ("Keys", None), ("Messages", {}), ("NumErr", 0), ("NumNodes", 0), ("NumResp", 0),
        ]  # fmt: skip
        key = "T9jncgl9mbLus+baTTa7q7nPSUrXwbDi2dhbtqir37s="
        assert (await client.ask("use-key", 3, {"Key": key}))["Error"] == (
            "1/1 nodes reported failure"
        )
        body = await client.receive()
        assert body["Keys"] is None
        assert body["Messages"] == {"node-a": "Keyring is empty (encryption not enabled)"}
        assert (await client.ask("list-keys", 3))["Error"] != ""
        assert (await client.receive())["Keys"] == {}
        served.agent.node.installed_keys = [key]
        assert (await client.ask("list-keys", 3))["Error"] == ""
        assert (await client.receive())["Keys"] == {key: 1}


async def test_unknown_member_is_no_error_for_force_leave_and_coordinate() -> None:
    async with serving() as served:
        client = await served.rpc()
        assert (await client.ask("force-leave", body={"Node": "x"}))["Error"] == ""
        for name in ("x", ""):
            assert (await client.ask("get-coordinate", body={"Node": name}))["Error"] == ""
            place = {"Adjustment": 0.0, "Error": 0.0, "Height": 0.0, "Vec": None}
            assert await client.receive() == {"Coord": place, "Ok": False}


async def test_errors_keep_the_connection_and_bugs_are_internal_errors() -> None:
    async with serving() as served:
        client = await served.rpc()
        reply = await client.ask("event", body={"Name": "big", "Payload": b"x" * 600})
        assert reply["Error"] == (
            "user event exceeds configured limit of 512 bytes before encoding"
        )
        assert "internal error" in (await client.ask("event", body={"Name": "crash"}))["Error"]
        assert (await client.ask("event", body={"Name": "x"}))["Error"] == ""


async def test_rpc_messages_are_handled_in_pieces() -> None:
    async with serving() as served:
        client = await served.rpc()
        for byte in msgpack.packb({"Command": "stop", "Seq": 1}) + msgpack.packb({"Stop": 5}):
            await client.send(bytes([byte]))
        assert await client.receive() == {"Error": "", "Seq": 1}


async def test_agent_replies_to_rpc_leave_and_then_stops(autojump_clock: object) -> None:
    async with serving() as served:
        served.agent.leave_duration = 3
        client = await served.rpc()
        assert await client.ask("leave", 9) == {"Error": "", "Seq": 9}
        assert trio.current_time() >= 3
        await served.agent.shutdown.wait()


async def test_events_dropped_for_slow_client_are_logged(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as served:
        client = await served.rpc()
        await client.ask("stream", 5, {"Type": "user"})
        for _ in range(700):
            await served.agent.node.user_event("x", b"y")
        await trio.testing.wait_all_tasks_blocked()
        received = 0
        with trio.move_on_after(1):
            while await client.receive():
                received += 1
        assert 512 * 2 <= received < 700 * 2
        assert any("slow client" in text for text in caplog.messages)


async def test_end_of_input_stops_streams_and_monitor() -> None:
    async with serving() as served:
        client = await served.rpc()
        await client.ask("stream", 5, {"Type": "user"})
        await client.ask("monitor", 6, {"LogLevel": "INFO"})
        await client.stream.send_eof()
        assert await client.receive() is None
        assert await served.is_empty()


async def test_query_with_invalid_filter_is_done_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        client = await served.rpc()
        assert (await client.ask("query", 1, {"Name": "q", "FilterTags": {"a": "(["}}))[
            "Error"
        ] == ""
        assert await client.receive() == {"Error": "", "Seq": 1}
        assert (await client.receive())["Type"] == "done"
    assert "'q' matches no member" in caplog.text
