"""The asyncio client, in a thread with an event loop of its own, against a fake agent."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.control.helpers import (
    FakeAgent,
    check_response_from_stream,
    check_results,
    recorded_agent,
    serve_until_shutdown,
)
from trioserf.control.client.asyncio_client import AgentClient, connect
from trioserf.control.client.records import (
    FailureCause,
    LogEntry,
    MemberEventRecord,
    UserEventRecord,
)
from trioserf.control.errors import ControlError
from trioserf.control.server.admission import Limits
from trioserf.control.server.listener import open_control
from trioserf.results import Dropped, QueryAck, QueryAnswer, QueryDone
from trioserf.serf import events
from trioserf.swim.events import Cause

Use = Callable[[AgentClient], Awaitable[None]]


def in_asyncio(address: str, use: Use, auth: str | None = None) -> None:
    async def main() -> None:
        async with connect(address, auth) as client:
            await use(client)

    asyncio.run(main())


async def run_with_agent(agent: FakeAgent, use: Use, auth: str = "") -> None:
    async with open_control(agent, ["127.0.0.1:0"], auth=auth) as server:
        run = partial(in_asyncio, server.addresses[0], use, auth or None)
        with trio.fail_after(20):
            await trio.to_thread.run_sync(run)


async def test_commands_return_typed_results() -> None:
    agent = recorded_agent()
    await run_with_agent(agent, partial(check_results, agent=agent), auth="sesame")
    assert agent.shutdown.is_set()


async def test_query_and_streams_share_a_connection_with_requests() -> None:
    agent = recorded_agent()
    agent.logs.write("INFO", "serf", "first")

    async def use(client: AgentClient) -> None:
        records = [record async for record in client.query("load", b"?", timeout=5)]
        assert records[:2] == [QueryAck("vec-a"), QueryAnswer("vec-a", b"0.42\n")]
        assert records[-1] == QueryDone(2, 1, 2, ())
        async with client.stream("user", "member-failed") as stream, client.monitor() as log:
            line = await anext(log)
            assert isinstance(line, LogEntry)
            assert line.message == "first"
            for number in range(10):
                await client.event("deploy", b"v%d" % number)
                record = await anext(stream)
                assert isinstance(record, UserEventRecord)
                assert record.payload == b"v%d" % number
            cause = Cause("c", "refused", "a")
            failed = events.MemberEvent("member-failed", agent.node.members(), cause)
            trio.from_thread.run_sync(agent.node.publish, failed)
            record = await anext(stream)
            assert isinstance(record, MemberEventRecord)
            assert record.kind == "member-failed"
            assert record.cause == FailureCause("c", "refused", "a")

    await run_with_agent(agent, use)
    assert agent.node.subscriptions == 0
    assert agent.logs.subscriptions == 0


async def test_query_is_answered_from_a_stream() -> None:
    agent = recorded_agent()
    agent.node.responses = {}
    await run_with_agent(agent, check_response_from_stream)


async def test_abandoned_stream_is_stopped() -> None:
    agent = recorded_agent()

    async def abandon(client: AgentClient) -> None:
        stream = client.stream("user")
        await stream.__aenter__()
        await client.event("first")
        assert not isinstance(await anext(stream), Dropped)
        del stream
        while trio.from_thread.run_sync(lambda: agent.node.subscriptions):
            await client.event("more")

    await run_with_agent(agent, abandon)


async def test_cancelled_call_does_not_affect_other_calls() -> None:
    agent = recorded_agent()
    agent.node.delay = 30

    async def use(client: AgentClient) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await client.join(["127.0.0.22"])
        assert await client.members()

    await run_with_agent(agent, use)


async def test_end_of_the_agent_fails_calls_and_streams() -> None:
    agent = recorded_agent()
    agent.node.delay = 30

    async def use(client: AgentClient) -> None:
        async with client.stream() as stream:
            join = asyncio.create_task(client.join(["127.0.0.22"]))
            assert await client.members()
            trio.from_thread.run_sync(agent.shutdown.set)
            with pytest.raises(ControlError, match="closed"):
                await anext(stream)
            with pytest.raises(ControlError) as caught:
                await join
            assert caught.value.code == "disconnected"
            with pytest.raises(ControlError) as caught:
                await client.members()
            assert caught.value.code == "disconnected"

    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve_until_shutdown, agent)
        await trio.to_thread.run_sync(in_asyncio, address, use)


async def do_nothing(client: AgentClient) -> None:
    pass


async def test_wrong_or_missing_key_is_an_error(tmp_path: Path) -> None:
    limits = Limits(wrong_key=0.01)
    address = f"unix:{tmp_path}/control"
    async with open_control(recorded_agent(), [address], auth="sesame", limits=limits):
        await trio.to_thread.run_sync(in_asyncio, address, do_nothing, "sesame")
        for wrong, code in (("simsalabim", "auth_failed"), (None, "auth_required")):
            with pytest.raises(ControlError) as caught:
                await trio.to_thread.run_sync(in_asyncio, address, do_nothing, wrong)
            assert caught.value.code == code


@pytest.mark.parametrize("address", ["127.15.255.1:9", "127.0.0.1:x", "unix:/nowhere/at/all"])
def test_missing_agent_is_unreachable(address: str) -> None:
    with pytest.raises(ControlError) as caught:
        in_asyncio(address, do_nothing)
    assert caught.value.code == "unreachable"


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 400 Bad Request\r\n", b"[]\n"])
async def test_other_protocol_is_an_error(reply: bytes) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        if reply:
            await stream.send_all(reply)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, answer, 0)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(ControlError) as caught:
            await trio.to_thread.run_sync(in_asyncio, f"127.0.0.1:{port}", do_nothing)
        assert caught.value.code == "protocol"
        nursery.cancel_scope.cancel()
