"""Queries among nodes in virtual time: expected responders, and paths of responses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trioserf.errors import InvalidFilter, InvalidQuery, NoSuchQuery, TooLarge
from trioserf.event_filter import EventFilter
from trioserf.node.event_hub import RESPONSE_WAIT, Responder
from trioserf.node.node import Node
from trioserf.results import QueryAck, QueryAnswer, QueryDone, QueryResult
from trioserf.serf.events import QueryReceived
from trioserf.sim.cluster import SimCluster
from trioserf.testing import LinkConditions, cluster, cluster_seed

__all__ = ["cluster", "cluster_seed"]

QUERY = EventFilter("query")
PROMPT = 0.3
"""Seconds for a query that waits for no silent member."""


@asynccontextmanager
async def answering(
    *nodes: Node, payload: bytes | None = b"yes", after: float = 0.0
) -> AsyncIterator[None]:
    """Make nodes respond to every query, or decline it."""
    async with trio.open_nursery() as nursery:

        async def respond(node: Node, task_status: trio.TaskStatus[None]) -> None:
            with node.subscribe(QUERY, answers=True) as queries:
                task_status.started()
                async for query in queries:
                    assert isinstance(query, QueryReceived)
                    await trio.sleep(after)
                    if payload is None:
                        await node.decline(query.id)
                    else:
                        await node.respond(query.id, payload)

        for node in nodes:
            await nursery.start(respond, node)
        yield
        nursery.cancel_scope.cancel()


async def run_query(
    node: Node, **options: Any
) -> tuple[set[str], dict[str, bytes], QueryDone, float]:
    """Return acks, responses, the end, and the duration."""
    began = trio.current_time()
    acks: set[str] = set()
    responses: dict[str, bytes] = {}
    results: list[QueryResult] = []
    async with node.query("load", **options) as found:
        results = [result async for result in found]
    *results, done = results
    for result in results:
        if isinstance(result, QueryAck):
            acks.add(result.source)
        elif isinstance(result, QueryAnswer):
            responses[result.source] = result.payload
    assert isinstance(done, QueryDone)
    return acks, responses, done, trio.current_time() - began


async def form_cluster(cluster: SimCluster, size: int = 4) -> list[Node]:
    """Start nodes without randomness in deliveries.

    A first round of gossip reaches all of four; no response overtakes an ack.
    """
    cluster.network.link = LinkConditions(jitter=0)
    ids = await cluster.grow(size)
    await cluster.settle()
    return [cluster.node(member) for member in ids]


async def test_query_finishes_with_last_response(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    nodes = await form_cluster(cluster)
    names = {node.name for node in nodes}
    async with answering(*nodes):
        acks, responses, done, took = await run_query(nodes[2])
    assert acks == set(responses) == names
    assert done == QueryDone(4, 4, 4, ())
    assert took < PROMPT


async def test_query_does_not_wait_for_members_without_responder_or_declining(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    nodes = await form_cluster(cluster)
    async with answering(nodes[1]), answering(nodes[3], payload=None):
        acks, responses, done, took = await run_query(nodes[0])
    assert (len(acks), responses) == (4, {nodes[1].name: b"yes"})
    assert (done.responses, done.missing) == (1, ())
    assert took < PROMPT


async def test_query_waits_for_slow_response_and_until_deadline_for_silent_member(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    nodes = await form_cluster(cluster)
    async with answering(nodes[1], after=2.0):
        _, responses, _, took = await run_query(nodes[0], timeout=5)
        assert responses == {nodes[1].name: b"yes"}
        assert 2 <= took < 2 + PROMPT
        with nodes[2].subscribe(QUERY, answers=True):
            _, responses, done, took = await run_query(nodes[0], timeout=5)
        assert took == pytest.approx(5, abs=0.01)
        assert (done.acks, done.responses, done.missing) == (4, 1, ())


async def test_silent_watcher_delays_query_by_a_second(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    nodes = await form_cluster(cluster)
    with nodes[2].subscribe(answers=Responder()):
        _, _, done, took = await run_query(nodes[0], timeout=5)
        assert (done.acks, done.responses) == (4, 0)
        assert RESPONSE_WAIT <= took < RESPONSE_WAIT + PROMPT
    with nodes[2].subscribe(answers=False):
        assert (await run_query(nodes[0], timeout=5))[3] < PROMPT


async def test_member_that_dies_is_missing_from_responses(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    nodes = await form_cluster(cluster)
    await cluster.crash("n4")
    acks, _, done, took = await run_query(nodes[0], timeout=100)
    assert "n4" not in acks
    assert (done.acks, done.expected, done.missing) == (3, 4, ("n4",))
    assert took < 30  # the query does not wait for a member that is marked dead


async def test_query_finishes_after_first_responses(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    nodes = await form_cluster(cluster)
    async with answering(*nodes[:2]), answering(*nodes[2:], after=3.0):
        _, responses, done, took = await run_query(nodes[0], first=2, timeout=10)
        assert (len(responses), done.responses) == (2, 2)
        assert took < PROMPT
        await trio.sleep(5)  # the slow responders have finished
        _, responses, _, took = await run_query(nodes[0], first=3, timeout=10)
        assert len(responses) == 3
        assert 3 <= took < 3 + PROMPT


async def test_filters_match_tags_and_select_expected_responders(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    nodes = await form_cluster(cluster)
    for node, role in zip(nodes, ["web-1", "db", "cweb", ""], strict=True):
        await node.set_tags({"role": role})
    await cluster.settle()
    async with answering(*nodes):
        _, responses, done, took = await run_query(nodes[1], tags={"role": "web"})
        assert set(responses) == {"n1", "n3"}
        assert (done.expected, took < PROMPT) == (2, True)
        _, responses, _, _ = await run_query(
            nodes[1], tags={"role": "^web|^$"}, nodes=["n1", "n4", "n9"]
        )
        assert set(responses) == {"n1", "n4"}
        _, responses, done, took = await run_query(nodes[1], tags={"other": "."})
        assert (responses, done, took) == ({}, QueryDone(0, 0, 0, ()), 0)
        with pytest.raises(InvalidFilter):
            await run_query(nodes[1], tags={"role": "(?=look-ahead)"})


async def test_internal_ping_needs_no_responder_and_other_internal_names_are_refused(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    nodes = await form_cluster(cluster)
    with nodes[1].subscribe(answers=True):
        async with nodes[0].query("_serf_ping") as results:
            found = [result async for result in results]
    assert found[-1] == QueryDone(4, 0, 4, ())
    for name, payload in (("_serf_ping", b"x"), ("_serf_install-key", b"")):
        with pytest.raises(InvalidQuery, match="Queries cannot contain the '_serf_' prefix"):
            async with nodes[0].query(name, payload):
                pass


# --- paths of responses ---


@pytest.mark.parametrize("size", [1024, 20_000, 65_000])
async def test_large_responses_are_delivered(
    cluster: SimCluster, autojump_clock: MockClock, size: int
) -> None:
    nodes = await form_cluster(cluster, 3)
    payload = bytes(range(256)) * (size // 256)
    async with answering(*nodes, payload=payload):
        _, responses, _, took = await run_query(nodes[0])
    assert responses == {node.name: payload for node in nodes}
    assert took < 1


async def test_oversized_response_is_refused_and_a_smaller_one_accepted(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    nodes = await form_cluster(cluster, 3)
    with nodes[1].subscribe(QUERY, answers=True) as queries:
        async with nodes[0].query("load", timeout=5) as results:
            query = await queries.receive()
            assert isinstance(query, QueryReceived)
            with pytest.raises(TooLarge, match="response exceeds limit of 65536 bytes"):
                await nodes[1].respond(query.id, bytes(65_536))
            await nodes[1].respond(query.id, bytes(65_000))
            with pytest.raises(NoSuchQuery, match="response already sent"):
                await nodes[1].respond(query.id, b"again")
            found = [result async for result in results]
    assert QueryAnswer("n2", bytes(65_000)) in found


@pytest.mark.parametrize("relays", [0, 2])
async def test_relays_deliver_response_of_unreachable_member(
    cluster: SimCluster, autojump_clock: MockClock, relays: int
) -> None:
    """The query reaches all by gossip; one response cannot reach the requester directly."""
    nodes = await form_cluster(cluster)
    cluster.cut("n4", "n1")
    async with answering(nodes[3]):
        acks, responses, done, _ = await run_query(nodes[0], relay_factor=relays, timeout=3)
    assert ("n4" in acks, "n4" in responses, "n4" in done.missing) == (
        bool(relays),
        bool(relays),
        not relays,
    )
    cluster.mend("n4", "n1")
    await cluster.settle()


async def test_results_for_a_cancelled_request_are_dropped(
    cluster: SimCluster, autojump_clock: MockClock
) -> None:
    """The request is often in the owner's inbox already when its task is cancelled."""
    nodes = await form_cluster(cluster)

    async def query_forever() -> None:
        async with nodes[0].query("load"):
            await trio.sleep_forever()

    for _ in range(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(query_forever)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    async with answering(*nodes):
        acks, responses, done, _ = await run_query(nodes[0])
    assert acks == set(responses) == {node.name for node in nodes}
    assert done == QueryDone(4, 4, 4, ())
