"""The control socket of a real agent and node in a simulated cluster of two, in virtual time."""

import os
from typing import Any

import pytest
import trio

from tests.control.helpers import KEY, real_agent
from trioserf._version import __version__


async def test_members_info_and_coordinates_are_those_of_the_node(autojump_clock: object) -> None:
    async with real_agent() as served:
        client, rpc = served.json(), await served.rpc()
        found = (await client.ask(command="members", name="node-b"))["members"]
        assert [(member["name"], member["addr"], member["status"]) for member in found] == [
            ("node-b", "10.0.0.2", "alive")
        ]
        assert (await rpc.ask("members"))["Error"] == ""
        names = {member["Name"] for member in (await rpc.receive())["Members"]}
        assert names == {"node-a", "node-b"}
        info = await client.ask(command="info")
        uptime = info["agent"].pop("uptime")
        assert info["agent"] == {
            "name": "node-a",
            "version": __version__,
            "pid": os.getpid(),
            "advertise": "10.0.0.1:7946",
            "config_files": [],
        }
        await trio.sleep(5)
        later = await client.ask(command="info")
        assert later["agent"]["uptime"] == uptime + 5
        assert info["serf"]["members"] == 2
        assert len((await client.ask(command="coordinate"))["coordinate"]["vec"]) == 8
        unknown = await client.ask(command="coordinate", node="no-such-node")
        assert unknown["error"]["code"] == "no_such_member"


async def test_events_of_clients_reach_the_cluster_and_back(autojump_clock: object) -> None:
    async with real_agent() as served:
        client, rpc = served.json(), await served.rpc()
        assert (await client.ask(command="stream", types=["user", "member-update"]))["ok"]
        with served.other.subscribe() as events:
            reply = await rpc.ask("event", body={"Name": "deploy", "Payload": b"v1"})
            assert reply["Error"] == ""
            record = await client.receive()
            assert (record["event"], record["name"], record["payload"]) == ("user", "deploy", "v1")
            received = await events.receive()
            assert (received.kind, getattr(received, "payload", None)) == ("user", b"v1")
            await served.other.set_tags({"role": "db"})
            record = await client.receive()
            assert record["event"] == "member-update"
            assert record["members"][0]["tags"] == {"role": "db"}
        large = await client.ask(command="event", name="x" * 10_000)
        assert large["error"]["code"] == "too_large"


@pytest.mark.parametrize("response", ["0.42", None])
async def test_query_of_the_cluster_is_answered_by_a_client(
    response: str | None, autojump_clock: object
) -> None:
    async with real_agent() as served:
        client = served.json()
        assert (await client.ask(command="stream", types=["query:load"]))["ok"]
        async with served.other.query("load", nodes=["node-a"], timeout=5) as results:
            query = await client.receive()
            assert query["from"] == "node-b"
            if response is None:
                assert (await client.ask(command="decline", id=query["id"]))["ok"]
            else:
                reply = await client.ask(command="respond", id=query["id"], payload=response)
                assert reply == {"ok": True}
            found = [getattr(result, "payload", None) async for result in results]
        assert (b"0.42" in found) == (response is not None)
        if response is not None:
            second = await client.ask(command="respond", id=query["id"], payload="again")
            assert second["error"]["code"] == "no_such_query"


async def test_query_of_a_client_yields_acks_of_all_members(autojump_clock: object) -> None:
    async with real_agent() as served:
        client = served.json()
        assert (await client.ask(command="query", name="load", timeout=2))["ok"]
        records: list[dict[str, Any]] = []
        while not records or records[-1]["type"] != "done":
            records.append(await client.receive())
        acks = sorted(record["from"] for record in records if record["type"] == "ack")
        assert acks == ["node-a", "node-b"]
        assert (records[-1]["expected"], records[-1]["missing"]) == (2, [])


async def test_joins_of_clients_are_logged(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trioserf.agent")
    async with real_agent() as served:
        assert (await served.json().ask(command="join", addresses=["10.0.0.2"]))["joined"] == 1
        reply = await (await served.rpc()).ask(
            "join", body={"Existing": ["10.0.0.2"], "Replay": True}
        )
        assert reply["Error"] == ""
    lines = [record.getMessage() for record in caplog.records if "oin" in record.getMessage()]
    assert lines == [
        "joining: [10.0.0.2] replay: false",
        "joined: 1 nodes",
        "joining: [10.0.0.2] replay: true",
        "joined: 1 nodes",
    ]


async def test_failed_operations_are_errors_of_the_protocol(autojump_clock: object) -> None:
    async with real_agent() as served:
        client = served.json()
        for request, code in (
            ({"command": "join", "addresses": ["10.0.0.9"]}, "join_failed"),
            ({"command": "force-leave", "name": "no-such-node"}, "no_such_member"),
            ({"command": "keys", "action": "install", "key": KEY}, "key_failed"),
            ({"command": "query", "name": "x", "tags": {"a": "(["}}, "invalid_filter"),
            ({"command": "query", "name": "_serf_x"}, "bad_request"),
            ({"command": "tags", "set": {"a": "x" * 600}}, "too_large"),
        ):
            reply = await client.ask(**request)
            assert reply["error"]["code"] == code, request


async def test_tags_are_changed_and_leave_stops_the_agent(autojump_clock: object) -> None:
    async with real_agent() as served:
        client = served.json()
        reply = await client.ask(command="tags", set={"role": "web"})
        assert reply["tags"] == {"role": "web"}
        assert (await client.ask(command="leave"))["ok"]
        await served.agent.shutdown.wait()
        member = served.other.member("node-a")
        assert member is not None
        assert member.status == "left"
