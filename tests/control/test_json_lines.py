import json
import logging

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.control.helpers import KEY, JsonClient, serving
from trioserf.address import Address
from trioserf.control.errors import CODES
from trioserf.node.event_hub import Subscription
from trioserf.serf.events import MemberEvent, UserEventReceived
from trioserf.serf.member import Member
from trioserf.swim.events import Cause
from trioserf.wire.serf_messages import Status


def member(name: str, **tags: str) -> Member:
    return Member(name, Address("127.0.0.9", 7946), tags, Status.ALIVE)


async def test_handshake_names_protocol_version_and_node() -> None:
    async with serving() as served:
        reply = await served.connect().ask(command="handshake", seq=1)
        assert reply.pop("version")
        assert reply == {"seq": 1, "ok": True, "protocol": 1, "node": "node-a"}


@pytest.mark.parametrize(
    "seq",
    ["1", "0", "-0", "-7", "1.0", "1e3", "1.50", "12345678901234567890123", '"a"', '""', '"7"',
     '"é"', "1e999", "0.1000000000000000000001"],
)  # fmt: skip
async def test_seq_is_echoed_unchanged(seq: str) -> None:
    async with serving() as served:
        client = served.connect()
        await client.send(f'{{"command":"stop","stop":0,"seq":{seq}}}')
        assert await client.line() == f'{{"seq":{seq},"ok":true}}'.encode()


async def test_reply_to_request_without_seq_has_none() -> None:
    async with serving() as served:
        assert await served.connect().ask(command="stop", stop=1) == {"ok": True}


@pytest.mark.parametrize("seq", ["null", "true", "[]", "{}"])
async def test_seq_of_another_type_is_rejected(seq: str) -> None:
    async with serving() as served:
        client = served.connect()
        await client.send(f'{{"command":"handshake","seq":{seq}}}')
        reply = await client.receive()
        assert reply["error"]["code"] == "bad_request"
        assert "seq" not in reply
        assert reply["error"]["message"].startswith("seq:")


@pytest.mark.parametrize(
    "line",
    [b"{", b"{]", b"{} {}", b"  [1]", b" 7", b" \xff", b'{"command":"\xff"}', b' "x"', b" null",
     b'{"a":NaN}', b'{"a":' + b"[" * 100_000, b" \xef\xbb\xbf{}", b'{"a":' + b"1" * 5000 + b"}"],
)  # fmt: skip
async def test_later_malformed_line_is_rejected_and_connection_stays(line: bytes) -> None:
    async with serving() as served:
        client = served.connect()
        assert (await client.ask(command="handshake"))["ok"]
        await client.send(line)
        reply = await client.receive()
        assert reply["ok"] is False
        assert reply["error"]["code"] == "bad_request"
        assert (await client.ask(command="handshake"))["ok"]


async def test_failed_join_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trioserf.agent")
    async with serving() as served:
        reply = await served.connect().ask(command="join", addresses=["127.0.0.9"])
        assert reply["error"]["code"] == "join_failed"
    assert caplog.messages[1:] == [  # after the line of the client
        "joining: [127.0.0.9] replay: false",
        "error joining: failed to join 127.0.0.9: connection refused",
    ]


EVENT = b'{"command":"event","name":"smuggled"}'


async def assert_nothing_ran(client: JsonClient, events: Subscription) -> None:
    """Assert that an event of this client is the first one."""
    assert (await client.ask(command="event", name="later"))["ok"]
    event = await events.receive()
    assert isinstance(event, UserEventReceived)
    assert event.name == "later"


@pytest.mark.parametrize(
    "start", [b"nonsense", b"{", b" \xff", b" [1]", b" 7", b"GET /", b'\n "x"']
)
@pytest.mark.parametrize("pieces", ["together", "apart"])
async def test_connection_ends_after_a_first_line_that_is_no_request(
    start: bytes, pieces: str
) -> None:
    async with serving() as served:
        client = served.connect()
        with served.agent.node.subscribe() as events:
            if pieces == "apart":
                await client.send(start)
            else:
                await client.send(start, EVENT)
            reply = await client.receive()
            assert reply["error"]["code"] == "bad_request"
            assert await client.receive() is None
            if pieces == "apart":
                await client.send(EVENT)
            await assert_nothing_ran(served.connect(), events)


@pytest.mark.parametrize("before", [b"", b"\r\n", b" ", b"\n\t\n"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PRI"])
@pytest.mark.parametrize("auth", ["", "sesame"])
async def test_http_request_gets_one_line_and_its_body_is_not_executed(
    before: bytes, method: str, auth: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(auth) as served:
        stream = served.pipe()
        with served.agent.node.subscribe() as events:
            head = f"{method} /path HTTP/1.1\r\nHost: a\r\n\r\n".encode()
            await stream.send_all(before + head + EVENT + b"\n")
            reply = b""
            with trio.fail_after(5):
                while data := await stream.receive_some(65536):
                    reply += data
            status, *_, body = reply.decode("ascii").split("\r\n")
            assert status == "HTTP/1.1 400 Bad Request"
            assert body == (
                "This is the control port of a trioserf agent: expected JSON lines or Serf's RPC,"
                " not HTTP.\n"
            )
            assert f"Content-Length: {len(body)}\r\n" in reply.decode("ascii")
            client = served.connect()
            if auth:
                assert (await client.ask(command="auth", key=auth))["ok"]
            await assert_nothing_ran(client, events)
    assert "A client at loopback sent an HTTP request" in caplog.text


async def test_blank_lines_and_carriage_returns_are_skipped() -> None:
    async with serving() as served:
        client = served.connect()
        await client.send("", "  \t", '\r\n{"command":"handshake","seq":1}\r')
        assert (await client.receive())["seq"] == 1


async def test_lines_are_handled_in_pieces_or_together() -> None:
    async with serving() as served:
        client = served.connect()
        for byte in b'{"command":"stop","stop":1,"seq":1}\n{"command":"st':
            await client.stream.send_all(bytes([byte]))
        assert (await client.receive())["seq"] == 1
        await client.send('op","stop":1,"seq":2}\n{"command":"stop","stop":1,"seq":3}')
        assert [(await client.receive())["seq"], (await client.receive())["seq"]] == [2, 3]


@pytest.mark.parametrize("ending", [b"\n", b""])
async def test_line_over_one_mebibyte_ends_the_connection(ending: bytes) -> None:
    async with serving() as served:
        client = served.connect()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with trio.move_on_after(5):
                    await client.stream.send_all(b"{" + b" " * (1024 * 1024) + ending)
                    await client.stream.send_eof()

            nursery.start_soon(send)
            assert (await client.receive())["error"]["code"] == "line_too_long"
            assert await client.receive() is None


async def test_line_of_one_mebibyte_is_accepted() -> None:
    async with serving() as served:
        client = served.connect()
        text = b'{"command":"handshake"}'
        await client.send(text + b" " * (1024 * 1024 - len(text)))
        assert (await client.receive())["ok"]


INVALID_REQUESTS = [
    ({}, "bad_request", "command:"),
    ({"command": 7}, "bad_request", "command:"),
    ({"command": "nonsense"}, "unknown_command", "nonsense"),
    ({"command": "members", "nome": "x"}, "bad_request", "nome:"),
    ({"command": "members", "name": 7}, "bad_request", "name:"),
    ({"command": "members", "tags": {"a": 1}}, "bad_request", "tags.a:"),
    ({"command": "members", "tags": ["a"]}, "bad_request", "tags:"),
    ({"command": "members", "name": "(["}, "invalid_filter", "name:"),
    ({"command": "members", "tags": {"a": "(["}}, "invalid_filter", "tags.a:"),
    ({"command": "event"}, "bad_request", "name:"),
    ({"command": "event", "name": "x", "coalesce": 1}, "bad_request", "coalesce:"),
    ({"command": "event", "name": "x", "coalesce": "true"}, "bad_request", "coalesce:"),
    ({"command": "event", "name": None}, "bad_request", "name:"),
    ({"command": "event", "name": "\ud800"}, "bad_request", "name:"),
    ({"command": "event", "name": "x", "payload": 7}, "bad_request", "payload:"),
    ({"command": "event", "name": "x", "payload": "\udcff"}, "bad_request", "payload:"),
    (
        {"command": "event", "name": "x", "payload": "", "payload_base64": ""},
        "bad_request",
        "not both",
    ),
    ({"command": "event", "name": "x", "payload_base64": "%"}, "bad_request", "payload_base64:"),
    ({"command": "event", "name": "x", "payload_base64": "YQ"}, "bad_request", "payload_base64:"),
    ({"command": "event", "name": "x", "payload": "x" * 600}, "too_large", "512"),
    ({"command": "query"}, "bad_request", "name:"),
    ({"command": "query", "name": "x", "timeout": 0}, "bad_request", "timeout:"),
    ({"command": "query", "name": "x", "timeout": "1s"}, "bad_request", "timeout:"),
    ({"command": "query", "name": "x", "timeout": True}, "bad_request", "timeout:"),
    ({"command": "query", "name": "x", "relay_factor": 256}, "bad_request", "relay_factor:"),
    ({"command": "query", "name": "x", "relay_factor": 1.5}, "bad_request", "relay_factor:"),
    ({"command": "query", "name": "x", "first": 0}, "bad_request", "first:"),
    ({"command": "query", "name": "x", "nodes": ["a", 7]}, "bad_request", "nodes[1]:"),
    ({"command": "query", "name": "_serf_x"}, "bad_request", "_serf_"),
    ({"command": "query", "name": "x", "payload": "x" * 2000}, "too_large", "1024"),
    ({"command": "respond", "payload": "x"}, "bad_request", "id:"),
    ({"command": "respond", "id": -1}, "bad_request", "id:"),
    ({"command": "respond", "id": 2**64}, "bad_request", "id:"),
    ({"command": "respond", "id": 99, "payload": "x"}, "no_such_query", "99"),
    ({"command": "decline", "id": 99}, "no_such_query", "99"),
    ({"command": "stream", "types": ["nonsense"]}, "invalid_filter", "nonsense"),
    ({"command": "stream", "types": "user"}, "bad_request", "types:"),
    ({"command": "monitor", "level": "LOUD"}, "bad_request", "level:"),
    ({"command": "stop"}, "bad_request", "stop:"),
    ({"command": "stop", "stop": True}, "bad_request", "stop:"),
    ({"command": "join"}, "bad_request", "addresses:"),
    ({"command": "join", "addresses": []}, "bad_request", "addresses:"),
    ({"command": "join", "addresses": ["x"]}, "join_failed", "x"),
    ({"command": "leave", "now": True}, "bad_request", "now:"),
    ({"command": "force-leave"}, "bad_request", "name:"),
    ({"command": "force-leave", "name": "x"}, "no_such_member", "x"),
    ({"command": "tags", "set": {"a": None}}, "bad_request", "set.a:"),
    ({"command": "tags", "set": {"a": "x" * 600}}, "too_large", "512"),
    ({"command": "keys"}, "bad_request", "action:"),
    ({"command": "keys", "action": "eat"}, "bad_request", "action:"),
    ({"command": "keys", "action": "use"}, "bad_request", "key:"),
    ({"command": "keys", "action": "list", "key": KEY}, "bad_request", "key:"),
    ({"command": "keys", "action": "use", "key": "YQ=="}, "bad_request", "key:"),
    ({"command": "keys", "action": "list"}, "key_failed", "1/1"),
    ({"command": "coordinate", "node": "x"}, "no_such_member", "x"),
    ({"command": "rtt", "node": "x"}, "no_such_member", "x"),
    ({"command": "rtt"}, "bad_request", "node:"),
    ({"command": "event", "name": "crash"}, "internal", "a bug"),
]


@pytest.mark.parametrize(("request_", "code", "text"), INVALID_REQUESTS)
async def test_error_has_code_and_path(request_: dict[str, object], code: str, text: str) -> None:
    assert code in CODES
    async with serving() as served:
        client = served.connect()
        reply = await client.ask(seq="s", **request_)
        assert reply["seq"] == "s"
        assert reply["ok"] is False
        assert reply["error"]["code"] == code
        assert text in reply["error"]["message"]
        assert (await client.ask(command="handshake"))["ok"]
        assert served.agent.node.subscriptions == 0


async def test_members_are_selected_by_anchored_expressions() -> None:
    async with serving() as served:
        served.agent.node.put(member("web-1", role="web", dc="east"))
        served.agent.node.put(member("web-2", role="webby"))
        client = served.connect()
        shown = (await client.ask(command="members"))["members"]
        assert [member["name"] for member in shown] == ["node-a", "web-1", "web-2"]
        assert shown[1] == {
            "name": "web-1",
            "addr": "127.0.0.9",
            "port": 7946,
            "tags": {"role": "web", "dc": "east"},
            "status": "alive",
            "protocol": {"min": 2, "max": 5, "version": 5},
            "release": "",
        }

        async def names(**filters: object) -> list[str]:
            reply = await client.ask(command="members", **filters)
            return [member["name"] for member in reply["members"]]

        assert await names(name="web") == []
        assert await names(name="web-.*") == ["web-1", "web-2"]
        assert await names(tags={"role": "web"}) == ["web-1"]
        assert await names(tags={"dc": ""}) == ["node-a", "web-2"]
        assert await names(status="failed") == []
        assert await names(status="alive", name=".*-2") == ["web-2"]


async def test_member_list_follows_every_change() -> None:
    async with serving() as served:
        client = served.connect()
        assert len((await client.ask(command="members", seq=1))["members"]) == 1
        served.agent.node.put(member("b"))
        reply = await client.ask(command="members", seq=2)
        assert reply["seq"] == 2
        assert len(reply["members"]) == 2


async def test_name_that_is_not_utf8_survives_the_round_trip() -> None:
    async with serving() as served:
        served.agent.node.put(member("caf\udce9", x="é\udcff"))
        client = served.connect()
        await client.send({"command": "members", "name": "caf.", "seq": 1})
        line = await client.line()
        assert rb"caf\udce9" in line
        (found,) = json.loads(line)["members"]
        assert found["name"] == "caf\udce9"
        assert (await client.ask(command="force-leave", name=found["name"]))["ok"]


async def test_text_is_sent_as_utf8() -> None:
    async with serving() as served:
        served.agent.node.put(member("café"))
        client = served.connect()
        await client.send({"command": "members"})
        assert "café".encode() in await client.line()


async def test_user_events_are_streamed(autojump_clock: object) -> None:
    async with serving() as served:
        watcher, sender = served.connect(), served.connect()
        assert await watcher.ask(command="stream", seq="s") == {"seq": "s", "ok": True}
        reply = await sender.ask(command="event", name="deploy", payload="v1é", coalesce=True)
        assert reply == {"ok": True, "ltime": 1}
        assert await watcher.receive() == {
            "seq": "s",
            "event": "user",
            "time": "2026-11-23T20:00:00.123Z",
            "ltime": 1,
            "name": "deploy",
            "payload": "v1é",
            "coalesce": True,
        }
        await sender.ask(command="event", name="x", payload_base64="/w==")
        record = await watcher.receive()
        assert record["payload_base64"] == "/w=="
        assert "payload" not in record


async def test_member_events_are_streamed_as_they_happen() -> None:
    async with serving() as served:
        client = served.connect()
        await client.ask(command="stream", types=["member-join", "member-suspect"])
        for kind in ("member-join", "member-leave", "member-suspect"):
            served.agent.node.publish(MemberEvent(kind, (member("b"),)))
        join, suspect = await client.receive(), await client.receive()
        assert join["event"] == "member-join"
        assert join["members"][0]["name"] == "b"
        assert suspect["event"] == "member-suspect"
        assert "cause" not in join


async def test_failure_is_streamed_with_its_cause() -> None:
    async with serving() as served:
        client = served.connect()
        await client.ask(command="stream", types=["member-failed"])
        for cause in (Cause("c", "refused", "a"), Cause("", None, "c")):
            served.agent.node.publish(MemberEvent("member-failed", (member("b"),), cause))
        assert [(await client.receive())["cause"] for _ in range(2)] == [
            {"suspected_by": "c", "reason": "refused", "declared_by": "a"},
            {"suspected_by": "", "reason": None, "declared_by": "c"},
        ]


async def test_bursts_are_coalesced_on_request(autojump_clock: object) -> None:
    async with serving() as served:
        client, node = served.connect(), served.agent.node
        await client.ask(command="stream", coalesce=True)
        for name in "bcd":
            node.publish(MemberEvent("member-join", (member(name),)))
            await trio.sleep(0.5)
        await node.user_event("now")
        assert (await client.receive())["name"] == "now"
        gathered = await client.receive()
        assert [member["name"] for member in gathered["members"]] == ["b", "c", "d"]
        assert trio.current_time() == 2
        node.publish(MemberEvent("member-failed", (member("b"),)))
        await trio.testing.wait_all_tasks_blocked()
        node.close()
        assert (await client.receive())["event"] == "member-failed"


async def test_suspicions_are_streamed_only_if_named() -> None:
    async with serving() as served:
        client = served.connect()
        await client.ask(command="stream")
        served.agent.node.publish(MemberEvent("member-suspect", (member("b"),)))
        served.agent.node.publish(MemberEvent("member-failed", (member("b"),)))
        assert (await client.receive())["event"] == "member-failed"


async def test_query_yields_acks_responses_and_done(autojump_clock: object) -> None:
    async with serving() as served:
        node = served.agent.node
        node.responses = {"a": b"0.42", "b": None, "c": b"\xff"}
        client = served.connect()
        assert await client.ask(command="query", seq=1, name="load") == {"seq": 1, "ok": True}
        records = [await client.receive() for _ in range(6)]
        assert all(record.pop("seq") == 1 for record in records)
        assert records == [
            {"type": "ack", "from": "a"},
            {"type": "response", "from": "a", "payload": "0.42"},
            {"type": "ack", "from": "b"},
            {"type": "ack", "from": "c"},
            {"type": "response", "from": "c", "payload_base64": "/w=="},
            {"type": "done", "acks": 3, "responses": 2, "expected": 3, "missing": []},
        ]
        await client.ask(
            command="query", name="q", payload_base64="/w==", nodes=["a"], tags={"x": "y"},
            timeout=2.5, ack=False, relay_factor=3, first=1,
        )  # fmt: skip
        assert node.queries[-1] == {
            "name": "q", "payload": b"\xff", "nodes": ["a"], "tags": {"x": "y"}, "timeout": 2.5,
            "ack": False, "relay_factor": 3, "first": 1,
        }  # fmt: skip


async def test_stream_client_responds_to_queries(autojump_clock: object) -> None:
    async with serving() as served:
        responder, requester = served.connect(), served.connect()
        await responder.ask(command="stream", types=["query:load"])
        await requester.ask(command="query", name="load", payload="?", timeout=5)
        assert (await requester.receive())["type"] == "ack"
        query = await responder.receive()
        assert query == {
            "event": "query",
            "time": "2026-11-23T20:00:00.123Z",
            "id": 1,
            "ltime": 1,
            "name": "load",
            "payload": "?",
            "from": "node-a",
            "deadline": "2026-11-23T20:00:05.123Z",
        }
        assert await responder.ask(command="respond", id=1, payload="0.1") == {"ok": True}
        assert (await requester.receive())["payload"] == "0.1"
        assert (await requester.receive())["type"] == "done"
        await requester.ask(command="query", name="load", timeout=5)
        await responder.receive()
        assert await responder.ask(command="decline", id=2) == {"ok": True}
        assert (await requester.receive())["type"] == "ack"
        assert (await requester.receive())["type"] == "done"


async def test_query_does_not_wait_for_client_that_only_watches() -> None:
    async with serving() as served:
        client = served.connect()
        await client.ask(command="stream", answers=False, types=["query"])
        await client.ask(command="query", seq=1, name="load")
        kinds = {(await client.receive()).get("type", "event") for _ in range(3)}
        assert kinds == {"event", "ack", "done"}


async def test_requests_overlap(autojump_clock: object) -> None:
    async with serving() as served:
        served.agent.node.delay = 10
        served.agent.node.reachable = {"x"}
        client = served.connect()
        await client.send({"command": "join", "addresses": ["x", "y"], "seq": 1})
        assert await client.ask(command="stop", stop=0, seq=2) == {"seq": 2, "ok": True}
        assert await client.receive() == {"seq": 1, "ok": True, "joined": 1}
        assert trio.current_time() >= 10


async def test_failed_join_lists_causes() -> None:
    async with serving() as served:
        reply = await served.connect().ask(command="join", addresses=["x", "y"])
        assert reply["error"]["causes"] == [
            {"address": "x", "reason": "connection refused"},
            {"address": "y", "reason": "connection refused"},
        ]


async def test_failed_key_operation_lists_messages() -> None:
    async with serving() as served:
        reply = await served.connect().ask(command="keys", action="list", seq=1)
        messages = {"node-a": "Keyring is empty (encryption not enabled)"}
        assert reply["messages"] == messages
        assert (reply["nodes"], reply["responses"], reply["errors"]) == (1, 1, 1)


async def test_keys_are_installed_used_and_listed() -> None:
    async with serving() as served:
        served.agent.node.installed_keys = ["old"]
        client = served.connect()
        assert (await client.ask(command="keys", action="install", key=KEY))["ok"]
        assert (await client.ask(command="keys", action="use", key=KEY))["ok"]
        assert await client.ask(command="keys", action="list") == {
            "ok": True,
            "messages": {},
            "keys": {KEY: 1, "old": 1},
            "primary_keys": {KEY: 1},
            "nodes": 1,
            "responses": 1,
            "errors": 0,
        }


async def test_tags_info_coordinate_and_rtt_are_returned() -> None:
    async with serving() as served:
        client = served.connect()
        reply = await client.ask(command="tags", set={"role": "web", "dc": "x"}, delete=[])
        assert reply == {"ok": True, "tags": {"role": "web", "dc": "x"}}
        reply = await client.ask(command="tags", delete=["dc", "none"])
        assert reply["tags"] == {"role": "web"}
        info = await client.ask(command="info")
        assert info["serf"] == {"encrypted": False, "members": 1}
        assert info["tags"] == {"role": "web"}
        origin = (await client.ask(command="coordinate"))["coordinate"]
        assert origin == {"vec": [0.0] * 8, "error": 1.5, "adjustment": 0.0, "height": 1e-05}
        assert (await client.ask(command="coordinate", node="node-a"))["coordinate"] == origin
        assert 0 < (await client.ask(command="rtt", node="node-a"))["seconds"] < 1e-3


async def test_monitor_begins_with_last_512_lines(autojump_clock: object) -> None:
    async with serving() as served:
        logs = served.agent.logs
        for number in range(600):
            logs.write("DEBUG" if number % 2 else "WARN", "serf", f"line {number}")
        client = served.connect()
        assert await client.ask(command="monitor", level="info", seq=1) == {"seq": 1, "ok": True}
        lines = [await client.receive() for _ in range(256)]
        assert lines[0] == {
            "seq": 1,
            "log": {
                "time": "2026-11-23T20:00:00.123Z",
                "level": "WARN",
                "source": "serf",
                "message": "line 88",
            },
        }
        logs.write("ERR", "agent", "late")
        assert (await client.receive())["log"]["message"] == "late"


async def test_stopped_stream_sends_no_more_records() -> None:
    async with serving() as served:
        client = served.connect()
        await client.ask(command="stream", seq=1)
        await client.ask(command="stream", seq="1", types=["user:b"])
        served.agent.node.publish(MemberEvent("member-join", (member("b"),)))
        assert (await client.receive())["seq"] == 1
        served.agent.node.publish(MemberEvent("member-join", (member("b"),)))
        replies = [await client.ask(command="stop", stop=1, seq=2)]
        while "ok" not in replies[-1]:
            replies.append(await client.receive())
        served.agent.node.publish(MemberEvent("member-join", (member("b"),)))
        assert await client.ask(command="event", name="b", seq=3) == {
            "seq": 3, "ok": True, "ltime": 1,
        }  # fmt: skip
        assert (await client.receive())["seq"] == "1"
        assert await client.ask(command="stream", seq=1) == {"seq": 1, "ok": True}
        assert await client.ask(command="stop", stop=99, seq=4) == {"seq": 4, "ok": True}


async def test_seq_of_open_stream_is_rejected() -> None:
    async with serving() as served:
        client = served.connect()
        await client.ask(command="stream", seq=1)
        reply = await client.ask(command="monitor", seq=1)
        assert reply["error"]["code"] == "bad_request"
        assert (await client.ask(command="stream"))["ok"]
        assert (await client.ask(command="stream"))["ok"]


async def test_requests_in_flight_finish_after_end_of_input(autojump_clock: object) -> None:
    async with serving() as served:
        served.agent.node.delay = 10
        served.agent.node.reachable = {"x"}
        client = served.connect()
        await client.send(
            {"command": "stream", "seq": "s"},
            {"command": "join", "addresses": ["x"], "seq": 1},
            {"command": "query", "name": "q", "seq": 2},
        )
        await client.stream.send_eof()
        received = []
        while (reply := await client.receive()) is not None:
            received.append((reply["seq"], reply.get("type", reply.get("event", "ok"))))
        assert received[0] == ("s", "ok")
        assert {(1, "ok"), (2, "ok"), (2, "ack"), (2, "done")} <= set(received)
        await trio.testing.wait_all_tasks_blocked()
        assert served.server.connections == 0
        assert served.agent.node.subscriptions == 0


async def test_line_without_newline_is_not_a_request() -> None:
    async with serving() as served:
        client = served.connect()
        await client.stream.send_all(b'{"command":"leave"}')
        await client.stream.send_eof()
        assert await client.receive() is None
        assert not served.agent.node.left


async def test_agent_replies_to_leave_when_done_and_then_stops(
    autojump_clock: object,
) -> None:
    async with serving() as served:
        served.agent.leave_duration = 3
        client = served.connect()
        assert await client.ask(command="leave", seq=1) == {"seq": 1, "ok": True}
        assert trio.current_time() >= 3
        with trio.fail_after(1):
            await served.agent.shutdown.wait()


async def test_leave_continues_when_client_disconnects(autojump_clock: object) -> None:
    async with serving() as served:
        served.agent.leave_duration = 3
        client = served.connect()
        await client.send({"command": "leave"})
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        with trio.fail_after(10):
            await served.agent.shutdown.wait()
        assert served.agent.node.left


async def test_second_leave_is_an_error_and_agent_keeps_running() -> None:
    async with serving() as served:
        served.agent.node.left = True
        client = served.connect()
        assert (await client.ask(command="leave"))["error"]["code"] == "leaving"
        assert (await client.ask(command="event", name="x"))["error"]["code"] == "leaving"
        assert not served.agent.shutdown.is_set()


@given(
    st.dictionaries(
        st.sampled_from(["command", "seq", "name", "payload", "id", "types", "stop", "junk"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.text(),
            st.lists(st.text()),
            st.sampled_from(["members", "event", "stream", "stop", "query", "respond", "info"]),
        ),
    )
)
def test_every_object_gets_a_reply(request_: dict[str, object]) -> None:
    async def main() -> None:
        async with serving() as served:
            client = served.connect()
            reply = await client.ask(**request_)
            assert reply["ok"] or reply["error"]["code"] in CODES
            if isinstance(request_.get("seq"), str):
                assert reply["seq"] == request_["seq"]

    trio.run(main)
