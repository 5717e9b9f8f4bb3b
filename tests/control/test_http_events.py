"""The streams of events over HTTP: ids, continuation, bounds."""

import sys
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from tests.control.helpers import FakeNode
from tests.control.http_agents import HttpAgent, event_stream, http_agent
from trioserf.control.errors import ControlError
from trioserf.control.server.http_api import app
from trioserf.control.server.http_api.event_log import EventLog
from trioserf.control.server.json_records import utc_now
from trioserf.event_filter import EventFilter
from trioserf.serf.events import UserEventReceived

assert sys.platform != "win32"


@pytest.fixture
async def served() -> AsyncIterator[HttpAgent]:
    async with http_agent() as found:
        yield found


async def test_events_are_streamed_with_ids(served: HttpAgent) -> None:
    node = served.agent.node
    async with event_stream(served, "?type=user:deploy,member-update") as events:
        await node.user_event("other", b"x")
        await node.user_event("deploy", b"v1")
        await node.set_tags({"role": "db"})
        (first, kind, record), (second, update, changed) = await events.events(2)
    assert (kind, record["event"], record["name"], record["payload"]) == (
        "user", "user", "deploy", "v1",
    )  # fmt: skip
    assert (update, changed["members"][0]["tags"]["role"]) == ("member-update", "db")
    run, _, number = first.partition("-")
    assert second == f"{run}-{int(number) + 1}"


async def test_client_continues_after_its_last_event(served: HttpAgent) -> None:
    node = served.agent.node
    async with event_stream(served, "?type=user") as events:
        await node.user_event("one")
        ((last, _, _),) = await events.events(1)
    await node.user_event("two")
    await node.user_event("three")
    async with event_stream(served, "?type=user", last) as events:
        found = await events.events(2)
        assert [record["name"] for _, _, record in found] == ["two", "three"]
        await node.user_event("four")
        ((_, _, record),) = await events.events(1)
        assert record["name"] == "four"


async def test_id_of_an_earlier_run_is_answered_with_dropped(served: HttpAgent) -> None:
    await served.agent.node.user_event("one")
    async with event_stream(served, "?type=user", "1abc-7") as events:
        (_, kind, record), (_, _, user) = await events.events(2)
    assert (kind, record, user["name"]) == ("dropped", {"event": "dropped"}, "one")


@pytest.mark.parametrize("after", ["x", "1abc", "1abc-x", "-1", "\xff-1", "1" * 30 + "-1"])
async def test_malformed_id_is_rejected(served: HttpAgent, after: str) -> None:
    answer = await served.get("/v1/events", {"Last-Event-ID": after})
    assert answer.error[:2] == (400, "bad_request")
    assert answer.error[2] == "Last-Event-ID: expected the id of an event of this path"


async def test_kept_events_are_bounded() -> None:
    node = FakeNode("us")
    everything = [EventFilter("user")]

    async def publish(log: EventLog, *events: tuple[str, bytes]) -> None:
        expected = log.next + len(events)
        for name, payload in events:
            node.publish(UserEventReceived(1, name, payload, False))
        while log.next < expected:
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        log = EventLog(node, utc_now, max_events=3, max_bytes=100_000)
        await nursery.start(log.run)
        await publish(log, *((f"e{number}", b"") for number in range(5)))
        position, data = await log.read(2, everything)
        assert position == 6
        run = log._run
        expected = f'id: {run}-2\nevent: dropped\ndata: {{"event":"dropped","count":1}}\n\n'
        assert data.startswith(expected.encode())
        assert data.count(b"event: user") == 3
        assert log.start_after(f"{run}-5") == 6
        with pytest.raises(ControlError, match="no event has this id yet"):
            log.start_after(f"{run}-6")
        small = EventLog(node, utc_now, max_events=9, max_bytes=1)
        await nursery.start(small.run)
        await publish(small, ("large", b"x" * 100), ("last", b"x" * 100))
        _, data = await small.read(1, everything)
        assert (data.count(b"event: dropped"), data.count(b'"name":"last"')) == (1, 1)
        assert b'"name":"large"' not in data
        nursery.cancel_scope.cancel()


async def test_idle_stream_gets_comments(
    served: HttpAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "HEARTBEAT", 0.05)
    async with event_stream(served) as events:
        assert await events.chunk() == b": \n\n"
        assert await events.chunk() == b": \n\n"


async def test_streams_are_bounded(served: HttpAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_STREAMS", 1)
    async with event_stream(served):
        answer = await served.get("/v1/events")
        assert answer.error[:2] == (503, "too_many_streams")
        assert (await served.get("/v1/events", method="HEAD")).status == 503
    with trio.fail_after(30):
        while (await served.get("/v1/events", method="HEAD")).status == 503:
            await trio.testing.wait_all_tasks_blocked()
