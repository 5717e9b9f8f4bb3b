import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.control.helpers import (
    FakeAgent,
    check_response_from_stream,
    check_results,
    recorded_agent,
    serve_until_shutdown,
    wall,
)
from trioserf.control.client.async_client import RecordBuffer
from trioserf.control.client.records import MemberEventRecord, UserEventRecord
from trioserf.control.client.trio_client import AgentClient, connect
from trioserf.control.errors import ControlError
from trioserf.control.server.admission import Limits
from trioserf.control.server.listener import open_control
from trioserf.results import Dropped, QueryAck, QueryAnswer, QueryDone
from trioserf.serf import events
from trioserf.serf.member import Member


@asynccontextmanager
async def connected(agent: FakeAgent) -> AsyncIterator[AgentClient]:
    async with (
        open_control(agent, ["127.0.0.1:0"], wall=wall) as server,
        connect(server.addresses[0]) as client,
    ):
        yield client


def own(agent: FakeAgent) -> Member:
    found = agent.node.member(agent.node.name)
    assert found is not None
    return found


async def test_commands_return_typed_results() -> None:
    agent = recorded_agent()
    async with connected(agent) as client:
        await check_results(client, agent)
    assert agent.shutdown.is_set()


async def test_errors_are_exceptions_with_code_and_message() -> None:
    agent = recorded_agent()
    async with connected(agent) as client:
        with pytest.raises(ControlError, match="no-such-node") as caught:
            await client.force_leave("no-such-node")
        assert caught.value.code == "no_such_member"
        with pytest.raises(ControlError) as caught:
            await client.join(["x"])
        assert caught.value.causes == (("x", "connection refused"),)
        with pytest.raises(ControlError) as caught:
            await client.keys("list")
        assert caught.value.code == "key_failed"
        assert caught.value.details["nodes"] == 2
        with pytest.raises(ControlError) as caught:
            async with client.stream("nonsense"):
                pass
        assert caught.value.code == "invalid_filter"
        with pytest.raises(ControlError) as caught:
            async with client.query("_serf_x"):
                pass
        assert caught.value.code == "bad_request"
        assert await client.members()


async def test_errors_of_the_block_are_not_wrapped() -> None:
    with pytest.raises(ZeroDivisionError):
        async with connected(recorded_agent()):
            raise ZeroDivisionError
    with trio.move_on_after(0.01) as scope:
        async with connected(recorded_agent()):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_query_yields_its_records() -> None:
    agent = recorded_agent()
    async with connected(agent) as client:
        async with client.query("load", b"?", timeout=5) as results:
            records = [record async for record in results]
        assert records == [
            QueryAck("vec-a"),
            QueryAnswer("vec-a", b"0.42\n"),
            QueryAck("vec-b"),
            QueryDone(2, 1, 2, ()),
        ]
        async with client.query(
            "load", nodes=["vec-a"], tags={"x": "y"}, ack=False, first=1
        ) as results:
            async for record in results:
                assert record == QueryAnswer("vec-a", b"0.42\n")
                break
        assert agent.node.queries[-1]["first"] == 1
        assert await client.members()


async def test_streams_and_requests_share_a_connection() -> None:
    agent = recorded_agent()
    async with connected(agent) as client, client.stream("user", "member-failed") as records:
        async with client.stream(answers=False) as everything:
            for number in range(10):
                await client.event("deploy", b"v%d" % number)
                record = await anext(records)
                assert isinstance(record, UserEventRecord)
                assert record.payload == b"v%d" % number
                same = await anext(everything)
                assert isinstance(same, UserEventRecord)
                assert (same.ltime, same.payload) == (record.ltime, record.payload)
            agent.node.publish(events.MemberEvent("member-failed", (own(agent),)))
            record = await anext(records)
            assert isinstance(record, MemberEventRecord)
            assert record.kind == "member-failed"
            assert record.members[0].name == "vec-a"
        assert await client.members()
        with trio.fail_after(5):
            while agent.node.subscriptions > 1:
                await trio.lowlevel.checkpoint()


async def test_abandoned_stream_is_stopped() -> None:
    agent = recorded_agent()
    async with connected(agent) as client:
        records = [record async for record in client.query("load")]
        assert isinstance(records[-1], QueryDone)
        with pytest.raises(ControlError):
            async for _ in client.stream("nonsense"):
                pass
        agent.logs.write("INFO", "serf", "first")
        async for line in client.monitor():
            assert not isinstance(line, Dropped)
            assert line.message == "first"
            break
        with trio.fail_after(5):
            while agent.logs.subscriptions:
                agent.logs.write("INFO", "serf", "more")
                await client.members()
        stream = client.stream()
        async with stream as same:
            await stream.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(same)


async def test_query_is_answered_from_a_stream() -> None:
    agent = recorded_agent()
    agent.node.responses = {}
    async with connected(agent) as client:
        await check_response_from_stream(client)


async def test_monitor_yields_old_and_new_lines() -> None:
    agent = recorded_agent()
    agent.logs.write("INFO", "serf", "first")
    agent.logs.write("DEBUG", "serf", "hidden")
    async with connected(agent) as client, client.monitor() as lines:
        line = await anext(lines)
        assert not isinstance(line, Dropped)
        assert (line.level, line.source, line.message) == ("INFO", "serf", "first")
        agent.logs.write("ERR", "agent", "late")
        line = await anext(lines)
        assert not isinstance(line, Dropped)
        assert line.message == "late"


async def test_requests_of_many_tasks_overlap() -> None:
    agent = recorded_agent()
    agent.node.delay = 0.05
    order: list[str] = []
    async with connected(agent) as client, trio.open_nursery() as nursery:

        async def join() -> None:
            await client.join(["127.0.0.22"])
            order.append("join")

        nursery.start_soon(join)
        await trio.testing.wait_all_tasks_blocked()
        await client.members()
        order.append("members")
    assert order == ["members", "join"]


async def test_cancelled_call_does_not_affect_other_calls() -> None:
    agent = recorded_agent()
    agent.node.delay = 30
    async with connected(agent) as client:
        with trio.move_on_after(0.02) as scope:
            await client.join(["127.0.0.22"])
        assert scope.cancelled_caught
        assert await client.members()


async def test_slow_reader_receives_dropped_count() -> None:
    buffer = RecordBuffer(3, trio.Event, trio.lowlevel.checkpoint)
    for number in range(10):
        buffer.put({"n": number})
    got = [await buffer.get() for _ in range(4)]
    assert got == [{"n": 0}, {"n": 1}, {"n": 2}, {"event": "dropped", "count": 7}]
    buffer.put({"n": 10})
    assert await buffer.get() == {"n": 10}
    buffer.fail(ControlError("disconnected", "closed"))
    with pytest.raises(ControlError, match="closed"):
        await buffer.get()


async def test_end_of_the_agent_fails_calls_and_streams() -> None:
    agent = recorded_agent()
    agent.node.delay = 30
    async with trio.open_nursery() as nursery:
        codes: list[str] = []
        address = await nursery.start(serve_until_shutdown, agent)
        async with connect(address) as client, client.stream() as records:

            async def wait() -> None:
                try:
                    await client.join(["127.0.0.22"])
                except ControlError as error:
                    codes.append(error.code)

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            agent.shutdown.set()
            with pytest.raises(ControlError, match="closed"):
                await anext(records)
            with pytest.raises(ControlError) as caught:
                await client.members()
            assert caught.value.code == "disconnected"
    assert codes == ["disconnected"]


async def test_wrong_or_missing_key_is_an_error(tmp_path: Path) -> None:
    limits = Limits(wrong_key=0.01)
    address = f"unix:{tmp_path}/control"
    async with open_control(recorded_agent(), [address], auth="sesame", limits=limits):
        async with connect(address, "sesame") as client:
            assert await client.members()
        for wrong, code in (("simsalabim", "auth_failed"), (None, "auth_required")):
            with pytest.raises(ControlError) as caught:
                async with connect(address, wrong):
                    pass
            assert caught.value.code == code


@pytest.mark.parametrize("address", ["127.15.255.1:9", "127.0.0.1:x", "unix:/nowhere/at/all"])
async def test_missing_agent_is_unreachable(address: str) -> None:
    with pytest.raises(ControlError) as caught:
        async with connect(address):
            pass
    assert caught.value.code == "unreachable"


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ((), "protocol"),
        ((b"HTTP/1.1 400 Bad Request\r\n",), "protocol"),
        ((b"[]\n",), "protocol"),
        ((json.dumps({"seq": 9, "ok": True}).encode() + b"\n",), "protocol"),
    ],
)
async def test_server_of_another_protocol_is_an_error(lines: Sequence[bytes], code: str) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        for line in lines:
            await stream.send_all(line)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, answer, 0)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(ControlError) as caught:
            async with connect(f"127.0.0.1:{port}"):
                pass
        assert caught.value.code == code
        nursery.cancel_scope.cancel()


async def test_silent_agent_is_a_timeout() -> None:
    async def listen(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, listen, 0)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(ControlError) as caught:
            async with connect(f"127.0.0.1:{port}", timeout=0.05):
                pass
        assert caught.value.code == "timeout"
        nursery.cancel_scope.cancel()
