"""Handlers supervised: who runs when, what is counted, what queries are told. In virtual time."""

import itertools
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trioserf.address import Address
from trioserf.agent.handlers import Handler, Handlers
from trioserf.agent.script_runner import Result
from trioserf.errors import Leaving, NoSuchQuery, TooLarge
from trioserf.node.event_hub import EventHub, Responder, Subscription
from trioserf.serf.events import MemberEvent, QueryReceived, UserEventReceived
from trioserf.serf.filters import EventFilter
from trioserf.serf.member import Member
from trioserf.wire.serf_messages import Status

HOUR = 3600.0


class FakeScriptRunner:
    """Runs no process: a script is a list of words, which say what it does.

    `sleep:SECONDS` takes time, `say:TEXT` is its output, `exit:STATUS` how it ends.

    Attributes:
        runs: script, what it was run for, start, end, and whether it was ended from outside.
    """

    def __init__(self) -> None:
        self.runs: list[tuple[str, str, float, float, bool]] = []
        self.running: list[str] = []
        self.most = 0

    async def __call__(self, script: str, env: Mapping[str, str], stdin: bytes) -> Result:
        began = trio.current_time()
        about = env.get("SERF_USER_EVENT") or env.get("SERF_QUERY_NAME") or env["SERF_EVENT"]
        words = dict(word.partition(":")[::2] for word in script.split())
        self.running.append(script)
        self.most = max(self.most, len(self.running))
        was_ended = True
        try:
            await trio.sleep(float(words.get("sleep", 0)))
            was_ended = False
        finally:
            self.running.remove(script)
            self.runs.append((script, about, began, trio.current_time(), was_ended))
        status = int(words.get("exit", 0))
        failure = f"exit status {status}" if status else ""
        return Result(status, words.get("say", "").encode(), failure=failure)

    def of(self, script: str) -> list[str]:
        return [about for which, about, *_ in self.runs if which == script]


@attrs.define
class FakeNode:
    """A hub, and a list of what was answered and declined."""

    hub: EventHub = attrs.field(factory=EventHub)
    answers: list[tuple[int, bytes]] = attrs.field(factory=list)
    declines: list[int] = attrs.field(factory=list)
    fault: Exception | None = None
    name: str = "me"
    tags: Mapping[str, str] = attrs.field(factory=dict)
    _number: int = 0

    def __attrs_post_init__(self) -> None:
        self.hub.on_no_responder = self.declines.extend

    def subscribe(
        self, *filters: EventFilter, answers: Responder, buffer: int = 1024
    ) -> AbstractContextManager[Subscription]:
        return self.hub.subscribe(filters, answers=answers, buffer=buffer)

    async def respond(
        self,
        id: int,  # noqa: A002
        payload: bytes,
        by: Responder | None = None,
    ) -> None:
        await trio.lowlevel.checkpoint()
        if self.fault is not None:
            raise self.fault
        self.answers.append((id, payload))
        self.hub.mark_answered(id, by)

    async def decline(self, id: int, by: Responder | None = None) -> None:  # noqa: A002
        await trio.lowlevel.checkpoint()
        if self.fault is not None and not isinstance(self.fault, TooLarge):
            raise self.fault
        if any(number == id for number, _ in self.answers):
            raise NoSuchQuery("No pending queries matching ID")
        if self.hub.mark_declined(id, by):
            self.declines.append(id)

    async def event(self, name: str) -> None:
        self._number += 1
        self.hub.publish(UserEventReceived(self._number, name, b"", coalesce=False))
        await wait_all_tasks_blocked()

    async def query(self, name: str) -> int:
        self._number += 1
        self.hub.publish(QueryReceived(self._number, 1, 1, name, b"", "x", 1e9))
        await wait_all_tasks_blocked()
        return self._number


@attrs.frozen
class HandlerRig:
    node: FakeNode
    twin: FakeScriptRunner
    handlers: Handlers
    ended: trio.Event


@asynccontextmanager
async def running(
    *texts: str, timeout: float | None = None, limit: int = 16, depth: int = 256
) -> AsyncIterator[HandlerRig]:
    node, twin = FakeNode(), FakeScriptRunner()
    handlers = Handlers(
        map(Handler.parse, texts),
        node,
        timeout=timeout,
        limit=limit,
        depth=depth,
        runner=twin,
        environ={},
    )
    ended = trio.Event()

    async def run(task_status: trio.TaskStatus[None]) -> None:
        await handlers.run(task_status=task_status)
        ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield HandlerRig(node, twin, handlers, ended)
        nursery.cancel_scope.cancel()


@contextmanager
def takes(seconds: float) -> Iterator[None]:
    began = trio.current_time()
    yield
    assert trio.current_time() - began == pytest.approx(seconds, abs=1e-6)


# --- who runs when ---


async def test_each_keeps_the_order_and_none_waits_for_another(autojump_clock: MockClock) -> None:
    async with running("user=sleep:10", "user=sleep:1", "user=sleep:0.1") as w:
        for name in ("one", "two", "three"):
            await w.node.event(name)
        await trio.sleep(0.35)
        assert w.twin.of("sleep:0.1") == ["one", "two", "three"]
        await trio.sleep(2.7)
        assert w.twin.of("sleep:1") == ["one", "two", "three"]
        await trio.sleep(27)
        assert w.twin.of("sleep:10") == ["one", "two", "three"]
        for script in ("sleep:10", "sleep:1"):
            runs = [run for run in w.twin.runs if run[0] == script]
            for (*_, ended, _), (_, _, began, *_) in itertools.pairwise(runs):
                assert began == ended


async def test_only_so_many_run_at_once_and_the_rest_wait_their_turn(
    autojump_clock: MockClock,
) -> None:
    async with running(*(f"user=sleep:{n}" for n in range(1, 7)), limit=2) as w:
        await w.node.event("go")
        await trio.sleep(60)
        assert len(w.twin.runs) == 6
        assert w.twin.most == 2


async def test_one_that_sleeps_for_an_hour_delays_nobody(autojump_clock: MockClock) -> None:
    async with running(f"*=sleep:{HOUR}", "user=sleep:0", "query:load=say:0.42") as w:
        with takes(0):
            await w.node.event("go")
            await w.node.event("on")
            number = await w.node.query("load")
        assert w.twin.of("sleep:0") == ["go", "on"]
        assert w.node.answers == [(number, b"0.42")]
        await trio.sleep(3 * HOUR + 1)
        assert w.twin.of(f"sleep:{HOUR}") == ["go", "on", "load"]


async def test_members_are_gathered_and_queries_are_not(autojump_clock: MockClock) -> None:
    async with running("*=say:x") as w:
        for name in "abc":
            member = Member(name, Address("10.0.0.1", 7946), {}, Status.ALIVE)
            w.node.hub.publish(MemberEvent("member-join", (member,)))
        await w.node.query("load")
        assert w.twin.of("say:x") == ["load"]
        await trio.sleep(1.1)
        assert w.twin.of("say:x") == ["load", "member-join"]


# --- timeouts, failures, drops ---


async def test_one_that_takes_too_long_is_ended_and_the_next_event_runs(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running("user=sleep:9", timeout=5) as w:
        await w.node.event("one")
        await w.node.event("two")
        await trio.sleep(10.5)
        assert [(about, end - start, ended) for _, about, start, end, ended in w.twin.runs] == [
            ("one", 5, True),
            ("two", 5, True),
        ]
        [stats] = w.handlers.stats().values()
        assert stats == {
            "runs": 2,
            "failures": 2,
            "dropped": 0,
            "running": False,
            "last_duration": 5.0,
            "queue": 0,
        }
        assert caplog.messages.count("Error invoking script 'sleep:9': killed after 5 s") == 2
        assert caplog.messages.count("Script 'sleep:9' slow, execution exceeding 1s") == 2


async def test_one_that_fails_has_its_last_line_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running("user:plain=say:why exit:3", "user:mute=exit:4") as w:
        await w.node.event("plain")
        await w.node.event("mute")
        await trio.sleep(1)
        told = [text for text in caplog.messages if text.startswith("Error")]
        assert told == [
            "Error invoking script 'say:why exit:3': exit status 3: why",
            "Error invoking script 'exit:4': exit status 4",
        ]


async def test_what_is_told_of_one_that_runs(autojump_clock: MockClock) -> None:
    async with running("user:deploy,query=sleep:2 exit:3") as w:
        for _ in range(3):
            await w.node.event("deploy")
        await w.node.event("other")
        assert w.handlers.configured() == {
            "user:deploy": "sleep:2 exit:3",
            "query:": "sleep:2 exit:3",
        }
        stats = w.handlers.stats()["user:deploy,query=sleep:2 exit:3"]
        assert (stats["runs"], stats["running"], stats["queue"]) == (1, True, 2)
        await trio.sleep(2)
        await wait_all_tasks_blocked()
        stats = w.handlers.stats()["user:deploy,query=sleep:2 exit:3"]
        assert (stats["runs"], stats["failures"], stats["last_duration"]) == (2, 1, 2.0)


async def test_what_finds_no_room_is_dropped_counted_and_told(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(f"*=sleep:{HOUR}", "user=say:quick", depth=3) as w:
        for number in range(250):
            await w.node.event(f"e{number}")
        slow, quick = w.handlers.stats().values()
        assert (slow["queue"], slow["dropped"]) == (3, 250 - 4)
        assert (quick["runs"], quick["dropped"]) == (250, 0)
        told = [text for text in caplog.messages if "too slow" in text]
        assert told == [
            f"handler 'sleep:{HOUR}' is too slow: {count} events dropped so far"
            for count in (1, 101, 201)
        ]
        number = await w.node.query("load")
        assert w.node.declines == [number]
        await trio.sleep(4 * HOUR + 1)
        assert w.twin.of(f"sleep:{HOUR}") == ["e0", "e1", "e2", "e3"]


async def test_what_the_node_dropped_is_told(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running("user=say:x") as w:
        for number in range(1500):  # before anybody can read
            w.node.hub.publish(UserEventReceived(number, "flood", b"", coalesce=False))
        await wait_all_tasks_blocked()
        [stats] = w.handlers.stats().values()
        assert len(w.twin.runs) == stats["runs"] == 1024 - int(str(stats["dropped"]))
        assert "event handlers: 476 events were dropped" in caplog.messages


async def test_a_fault_of_ours_is_not_hidden() -> None:
    class BrokenTwin(FakeScriptRunner):
        async def __call__(self, script: str, env: Mapping[str, str], stdin: bytes) -> Result:
            raise RuntimeError("a bug")

    node = FakeNode()
    handlers = Handlers([Handler.parse("x")], node, runner=BrokenTwin(), environ={})
    with pytest.RaisesGroup(pytest.RaisesGroup(pytest.RaisesGroup(RuntimeError))):
        async with trio.open_nursery() as nursery:
            await nursery.start(handlers.run)
            await node.event("go")


# --- answers ---


@pytest.mark.parametrize(
    ("texts", "answers", "declines"),
    [
        (["query=say:yes"], [b"yes"], 0),
        (["query=exit:0"], [], 1),
        (["query=say:no exit:1"], [], 1),
        (["query=sleep:99"], [], 1),
        (["query=exit:0", "*=exit:1", "query:load=exit:0"], [], 1),
        (["query=exit:0", "query=say:yes"], [b"yes"], 0),
        (["query=say:yes", "query=sleep:1"], [b"yes"], 0),
        (["query:other=say:no", "user=say:no"], [], 0),
    ],
)
async def test_a_query_is_answered_or_declined_by_the_last(
    autojump_clock: MockClock, texts: list[str], answers: list[bytes], declines: int
) -> None:
    async with running(*texts, timeout=5) as w:
        wanted = any(one.kind != "user" and one.name != "other" for one in _filters(texts))
        question = QueryReceived(1, 1, 1, "load", b"", "x", 1e9)
        assert w.node.hub.has_responder(question) == wanted
        await w.node.query("load")
        await trio.sleep(10)
        assert [payload for _, payload in w.node.answers] == answers
        assert len(w.node.declines) == declines


def _filters(texts: list[str]) -> list[EventFilter]:
    return [one for text in texts for one in Handler.parse(text).filters]


async def test_handlers_decline_for_themselves_alone(autojump_clock: MockClock) -> None:
    async with running("query=exit:0", "query=exit:0") as w:
        client = Responder(has_responded=True)
        with w.node.subscribe(answers=client):
            number = await w.node.query("load")
            assert w.node.declines == []
            await w.node.decline(number, client)
            assert w.node.declines == [number]
            number = await w.node.query("load")
            await w.node.respond(number, b"yes", client)
    assert w.node.declines == [1]


@pytest.mark.parametrize(
    "fault", [NoSuchQuery("No pending queries matching ID"), TooLarge("too large"), Leaving("bye")]
)
async def test_answers_that_nobody_takes_are_told_and_the_next_runs(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running("query=say:yes", "query:quiet=exit:0") as w:
        w.node.fault = fault
        await w.node.query("load")
        assert f"Failed to respond to query 'load': {fault}" in caplog.messages
        assert w.node.declines == ([1] if isinstance(fault, TooLarge) else [])
        await w.node.query("quiet")
        w.node.fault = None
        number = await w.node.query("load")
        assert w.node.answers == [(number, b"yes")]


# --- reload ---


async def test_other_handlers_take_over_and_what_runs_goes_on(autojump_clock: MockClock) -> None:
    async with running("query:load=sleep:2 say:old", "user=sleep:1", "user=say:gone") as w:
        number = await w.node.query("load")
        for name in ("one", "two"):
            await w.node.event(name)
        w.handlers.replace([Handler.parse("user=sleep:1"), Handler.parse("query:load=say:new")])
        await w.node.event("three")
        assert w.node.declines == []
        assert await w.node.query("load") == number + 4
        assert w.node.answers == [(number + 4, b"new")]
        await trio.sleep(5)
        # The old script's query was not given up, and the kept one's queue neither.
        assert w.node.answers == [(number + 4, b"new"), (number, b"old")]
        assert w.node.declines == []
        assert w.twin.of("sleep:1") == ["one", "two", "three"]
        assert w.twin.of("say:gone") == ["one", "two"]
        assert list(w.handlers.stats()) == ["user=sleep:1", "query:load=say:new"]
        assert w.handlers.stats()["user=sleep:1"]["runs"] == 3


async def test_events_that_wait_unread_survive_a_reload(autojump_clock: MockClock) -> None:
    async with running("user=say:x") as w:
        for number in range(5):  # before anybody can read
            w.node.hub.publish(UserEventReceived(number, f"e{number}", b"", coalesce=False))
        w.handlers.replace([Handler.parse("user=say:x"), Handler.parse("query=say:y")])
        await wait_all_tasks_blocked()
        assert w.twin.of("say:x") == ["e0", "e1", "e2", "e3", "e4"]
        number = await w.node.query("load")
        assert w.node.answers == [(number, b"y")]


async def test_without_handlers_nobody_answers(autojump_clock: MockClock) -> None:
    async with running("query=say:y") as w:
        question = QueryReceived(1, 1, 1, "load", b"", "x", 1e9)
        assert w.node.hub.has_responder(question)
        w.handlers.replace([])
        assert not w.node.hub.has_responder(question)
        assert (w.handlers.stats(), w.handlers.configured()) == ({}, {})


# --- the end ---


async def test_the_end_of_the_node_ends_all_that_run(autojump_clock: MockClock) -> None:
    async with running(f"user=sleep:{HOUR}", f"*=sleep:{HOUR}", f"query=sleep:{HOUR}") as w:
        await w.node.event("go")
        await w.node.query("load")
        assert len(w.twin.running) == 3
        with takes(0):
            w.node.hub.close()
            await w.ended.wait()
        assert w.twin.running == []
        assert {ended for *_, ended in w.twin.runs} == {True}


async def test_cancelling_ends_all_that_run(autojump_clock: MockClock) -> None:
    with takes(0):
        async with running(*(f"user=sleep:{HOUR}" for _ in range(5)), limit=3) as w:
            await w.node.event("go")
            assert len(w.twin.running) == 3
    assert w.twin.running == []
    assert len(w.twin.runs) == 3
