"""Programs of users for the type checker alone: `kind` narrows, and mistakes are found.

An ignored error that does not occur is an error for mypy, so each `type: ignore` here is a check.
"""

from typing import Literal, assert_never, assert_type

import trioserf
from trioserf.control.client import asyncio_client


async def read_events_of_a_node(node: trioserf.Node) -> None:
    with node.subscribe("member-failed", trioserf.EventFilter("query", "load")) as events:
        async for event in events:
            _ = event.name  # type: ignore[union-attr]
            if event.kind == "user":
                assert_type(event, trioserf.UserEventReceived)
                assert_type(event.payload, bytes)
            elif event.kind == "query":
                assert_type(event, trioserf.QueryReceived)
                await node.respond(event.id, event.source.encode())
            elif event.kind == "dropped":
                assert_type(event, trioserf.Dropped)
            elif event.kind == "member-failed":
                assert_type(event, trioserf.MemberEvent)
                assert_type(event.members[0].status, trioserf.MemberStatus)
            else:
                assert_type(event, trioserf.MemberEvent)
    node.subscribe(5)  # type: ignore[arg-type]
    await node.user_event("deploy", "v1")  # type: ignore[arg-type]
    await node.join("10.0.0.1", replay="no")  # type: ignore[arg-type]


def read_result(result: trioserf.QueryResult) -> str:
    if result.kind == "ack":
        return result.source
    if result.kind == "response":
        return f"{result.source}: {result.payload!r}"
    if result.kind == "done":
        return ", ".join(result.missing)
    assert_never(result)


async def read_events_of_an_agent(agent: trioserf.AgentClient) -> None:
    async for event in agent.stream("member-failed", "query:load"):
        if event.kind == "query":
            assert_type(event, trioserf.QueryEventRecord)
            await agent.respond(event.id, event.source.encode())
            await agent.decline(event.id)
        elif event.kind == "dropped":
            assert_type(event, trioserf.Dropped)
        elif event.kind == "user":
            assert_type(event, trioserf.UserEventRecord)
        else:
            assert_type(event, trioserf.MemberEventRecord)
            assert_type(event.members[0].address, trioserf.Address)
    async for result in agent.query("load"):
        assert_type(read_result(result), str)


async def use_other_clients(agent: asyncio_client.AgentClient) -> None:
    async for event in agent.stream():
        if event.kind == "query":
            assert_type(event, trioserf.QueryEventRecord)
    with trioserf.connect_any() as session:
        for result in session.query("load"):
            if result.kind == "done":
                assert_type(result, trioserf.QueryDone)
        session.decline(5)
        assert_type(session.protocol, Literal["json", "msgpack"])


def configure() -> None:
    config = trioserf.NodeConfig(bind="127.0.0.1:0", advertise=trioserf.Address("10.0.0.1", 0))
    assert_type(config.bind, trioserf.Address)
    assert_type(config.advertise, trioserf.Address | None)
    trioserf.NodeConfig(bind=7946)  # type: ignore[arg-type]


def status_of(member: trioserf.Member | trioserf.MemberInfo) -> str:
    assert_type(member.address, trioserf.Address)
    assert_type(member.status, trioserf.MemberStatus)
    return f"{member.name} {member.address} {member.status}"
