"""Event handlers in virtual time: order, limits, statistics, responses to queries, reloads."""

import itertools
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trioserf.address import Address
from trioserf.agent.config import HandlerOptions
from trioserf.agent.handlers import Handler, Handlers
from trioserf.agent.script_runner import Result
from trioserf.errors import Leaving, NoSuchQuery, TooLarge
from trioserf.event_filter import EventFilter
from trioserf.node.event_hub import EventHub, Responder, Subscription
from trioserf.serf.events import MemberEvent, QueryReceived, UserEventReceived
from trioserf.serf.member import Member
from trioserf.wire.serf_messages import Status

HOUR = 3600.0


class FakeScriptRunner:
    """Runs no process: a script is a list of instructions.

    `sleep:SECONDS` takes time, `say:TEXT` is output, `exit:STATUS` is the exit code.

    Attributes:
        runs: script, name or kind of the event, start, end, and whether it was cancelled.
        running: the scripts that run.
        peak: the greatest number of them so far.
    """

    def __init__(self) -> None:
        self.runs: list[tuple[str, str, float, float, bool]] = []
        self.running: list[str] = []
        self.peak = 0

    async def __call__(self, script: str, env: Mapping[str, str], stdin: bytes) -> Result:
        began = trio.current_time()
        event = env.get("SERF_USER_EVENT") or env.get("SERF_QUERY_NAME") or env["SERF_EVENT"]
        instructions = dict(word.partition(":")[::2] for word in script.split())
        self.running.append(script)
        self.peak = max(self.peak, len(self.running))
        was_cancelled = True
        try:
            await trio.sleep(float(instructions.get("sleep", 0)))
            was_cancelled = False
        finally:
            self.running.remove(script)
            self.runs.append((script, event, began, trio.current_time(), was_cancelled))
        status = int(instructions.get("exit", 0))
        failure = f"exit status {status}" if status else ""
        return Result(status, instructions.get("say", "").encode(), failure=failure)

    def of(self, script: str) -> list[str]:
        return [event for other, event, *_ in self.runs if other == script]


@attrs.define
class FakeNode:
    """A node with an event hub; records responses and declined queries."""

    hub: EventHub = attrs.field(factory=EventHub)
    answers: list[tuple[int, bytes]] = attrs.field(factory=list)
    declines: list[int] = attrs.field(factory=list)
    error: Exception | None = None
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
        if self.error is not None:
            raise self.error
        self.answers.append((id, payload))
        self.hub.mark_answered(id, by)

    async def decline(self, id: int, by: Responder | None = None) -> None:  # noqa: A002
        await trio.lowlevel.checkpoint()
        if self.error is not None and not isinstance(self.error, TooLarge):
            raise self.error
        if any(number == id for number, _ in self.answers):
            raise NoSuchQuery("No pending queries matching ID")
        if self.hub.mark_declined(id, by):
            self.declines.append(id)

    async def event(self, name: str) -> None:
        self._number += 1
        self.hub.publish(UserEventReceived(self._number, name, b"", coalesce=False))
        await wait_all_tasks_blocked()

    async def query(self, name: str, deadline: float = 1e9) -> int:
        self._number += 1
        self.hub.publish(QueryReceived(self._number, 1, 1, name, b"", "x", deadline))
        await wait_all_tasks_blocked()
        return self._number


@attrs.frozen
class HandlersUnderTest:
    node: FakeNode
    runner: FakeScriptRunner
    handlers: Handlers
    ended: trio.Event


@asynccontextmanager
async def open_handlers(
    *texts: str, timeout: float = 0.0, limit: int = 16, queue: int = 256
) -> AsyncIterator[HandlersUnderTest]:
    node, runner = FakeNode(), FakeScriptRunner()
    options = HandlerOptions(timeout=timeout, limit=limit, queue=queue)
    handlers = Handlers(map(Handler.parse, texts), node, options, runner=runner, environ={})
    ended = trio.Event()

    async def run(task_status: trio.TaskStatus[None]) -> None:
        await handlers.run(task_status=task_status)
        ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield HandlersUnderTest(node, runner, handlers, ended)
        nursery.cancel_scope.cancel()


@contextmanager
def takes(seconds: float) -> Iterator[None]:
    began = trio.current_time()
    yield
    assert trio.current_time() - began == pytest.approx(seconds, abs=1e-6)


# --- order and limits ---


async def test_handlers_keep_order_and_do_not_wait_for_each_other(
    autojump_clock: MockClock,
) -> None:
    async with open_handlers("user=sleep:10", "user=sleep:1", "user=sleep:0.1") as t:
        for name in ("one", "two", "three"):
            await t.node.event(name)
        await trio.sleep(0.35)
        assert t.runner.of("sleep:0.1") == ["one", "two", "three"]
        await trio.sleep(2.7)
        assert t.runner.of("sleep:1") == ["one", "two", "three"]
        await trio.sleep(27)
        assert t.runner.of("sleep:10") == ["one", "two", "three"]
        for script in ("sleep:10", "sleep:1"):
            runs = [run for run in t.runner.runs if run[0] == script]
            for (*_, ended, _), (_, _, began, *_) in itertools.pairwise(runs):
                assert began == ended


async def test_running_scripts_are_limited(
    autojump_clock: MockClock,
) -> None:
    async with open_handlers(*(f"user=sleep:{n}" for n in range(1, 7)), limit=2) as t:
        await t.node.event("go")
        await trio.sleep(60)
        assert len(t.runner.runs) == 6
        assert t.runner.peak == 2


async def test_slow_script_delays_only_its_own_events(autojump_clock: MockClock) -> None:
    async with open_handlers(f"*=sleep:{HOUR}", "user=sleep:0", "query:load=say:0.42") as t:
        with takes(0):
            await t.node.event("go")
            await t.node.event("on")
            number = await t.node.query("load")
        assert t.runner.of("sleep:0") == ["go", "on"]
        assert t.node.answers == [(number, b"0.42")]
        await trio.sleep(3 * HOUR + 1)
        assert t.runner.of(f"sleep:{HOUR}") == ["go", "on", "load"]


async def test_member_events_are_coalesced_and_queries_are_not(autojump_clock: MockClock) -> None:
    async with open_handlers("*=say:x") as t:
        for name in "abc":
            member = Member(name, Address("10.0.0.1", 7946), {}, Status.ALIVE)
            t.node.hub.publish(MemberEvent("member-join", (member,)))
        await t.node.query("load")
        assert t.runner.of("say:x") == ["load"]
        await trio.sleep(1.1)
        assert t.runner.of("say:x") == ["load", "member-join"]


# --- timeouts, failures, drops ---


async def test_script_over_timeout_is_killed_and_next_event_runs(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_handlers("user=sleep:9", timeout=5) as t:
        await t.node.event("one")
        await t.node.event("two")
        await trio.sleep(10.5)
        assert [(event, end - start, ended) for _, event, start, end, ended in t.runner.runs] == [
            ("one", 5, True),
            ("two", 5, True),
        ]
        [stats] = t.handlers.stats().values()
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


def test_script_has_an_hour_by_default() -> None:
    assert HandlerOptions().timeout == HOUR


async def test_hung_handlers_do_not_silence_queries(autojump_clock: MockClock) -> None:
    hung = [f"user:go=sleep:{HOUR} exit:{n}" for n in range(16)]
    async with open_handlers(*hung, "user:late=say:late", "query=say:yes", timeout=HOUR / 2) as t:
        await t.node.event("go")
        await t.node.event("late")
        assert t.handlers.totals() == {"running": 16, "waiting": 1}
        late = t.handlers.stats()["user:late=say:late"]
        assert (late["runs"], late["running"], late["queue"]) == (0, False, 1)
        number = await t.node.query("load")
        assert t.node.answers == [(number, b"yes")]
        await trio.sleep(HOUR / 2 + 1)
        assert t.runner.of("say:late") == ["late"]
        assert t.handlers.totals() == {"running": 0, "waiting": 0}


async def test_script_of_query_runs_past_its_deadline(autojump_clock: MockClock) -> None:
    async with open_handlers("query=sleep:50 say:late", timeout=60) as t:
        number = await t.node.query("load", trio.current_time() + 5)
        await trio.sleep(49)
        assert t.runner.running == ["sleep:50 say:late"]
        await trio.sleep(2)
        assert t.node.answers == [(number, b"late")]


async def test_queries_wait_for_a_script_until_a_deadline(autojump_clock: MockClock) -> None:
    """Until that of the query which has the place, or their own one."""
    async with open_handlers("query:one=sleep:50", "query:two=say:two", limit=1) as t:
        now = trio.current_time()
        await t.node.query("one", now + 5)
        await t.node.query("two", now + 9)
        await trio.sleep(4)
        assert t.handlers.totals() == {"running": 1, "waiting": 1}
        await trio.sleep(2)
        assert t.runner.of("say:two") == ["two"]
        await t.node.query("one", now + 8)
        await trio.sleep(95)
        assert t.runner.of("sleep:50") == ["one", "one"]


async def test_last_line_of_failed_script_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_handlers("user:plain=say:why exit:3", "user:mute=exit:4") as t:
        await t.node.event("plain")
        await t.node.event("mute")
        await trio.sleep(1)
        logged = [text for text in caplog.messages if text.startswith("Error")]
        assert logged == [
            "Error invoking script 'say:why exit:3': exit status 3: why",
            "Error invoking script 'exit:4': exit status 4",
        ]


async def test_stats_of_running_handler(autojump_clock: MockClock) -> None:
    async with open_handlers("user:deploy,query=sleep:2 exit:3") as t:
        for _ in range(3):
            await t.node.event("deploy")
        await t.node.event("other")
        assert t.handlers.configured() == {
            "user:deploy": "sleep:2 exit:3",
            "query:": "sleep:2 exit:3",
        }
        stats = t.handlers.stats()["user:deploy,query=sleep:2 exit:3"]
        assert (stats["runs"], stats["running"], stats["queue"]) == (1, True, 2)
        await trio.sleep(2)
        await wait_all_tasks_blocked()
        stats = t.handlers.stats()["user:deploy,query=sleep:2 exit:3"]
        assert (stats["runs"], stats["failures"], stats["last_duration"]) == (2, 1, 2.0)


async def test_events_beyond_queue_depth_are_dropped_counted_and_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_handlers(f"*=sleep:{HOUR}", "user=say:fast", queue=3) as t:
        for number in range(250):
            await t.node.event(f"e{number}")
        slow, fast = t.handlers.stats().values()
        assert (slow["queue"], slow["dropped"]) == (3, 250 - 4)
        assert (fast["runs"], fast["dropped"]) == (250, 0)
        logged = [text for text in caplog.messages if "too slow" in text]
        assert logged == [
            f"handler 'sleep:{HOUR}' is too slow: {count} events dropped so far"
            for count in (1, 101, 201)
        ]
        number = await t.node.query("load")
        assert t.node.declines == [number]
        await trio.sleep(4 * HOUR + 1)
        assert t.runner.of(f"sleep:{HOUR}") == ["e0", "e1", "e2", "e3"]


async def test_events_dropped_by_node_are_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_handlers("user=say:x") as t:
        for number in range(1500):  # before any task can read
            t.node.hub.publish(UserEventReceived(number, "flood", b"", coalesce=False))
        await wait_all_tasks_blocked()
        [stats] = t.handlers.stats().values()
        assert len(t.runner.runs) == stats["runs"] == 1024 - int(str(stats["dropped"]))
        assert "event handlers: 476 events were dropped" in caplog.messages


async def test_bug_in_runner_propagates() -> None:
    class BrokenRunner(FakeScriptRunner):
        async def __call__(self, script: str, env: Mapping[str, str], stdin: bytes) -> Result:
            raise RuntimeError("a bug")

    node = FakeNode()
    broken = [Handler.parse("x")]
    handlers = Handlers(broken, node, HandlerOptions(), runner=BrokenRunner(), environ={})
    with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(handlers.run)
            await node.event("go")


# --- responses to queries ---


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
async def test_query_is_answered_or_declined_with_last_script(
    autojump_clock: MockClock, texts: list[str], answers: list[bytes], declines: int
) -> None:
    async with open_handlers(*texts, timeout=5) as t:
        expected = any(f.kind != "user" and f.name != "other" for f in _filters(texts))
        query = QueryReceived(1, 1, 1, "load", b"", "x", 1e9)
        assert t.node.hub.has_responder(query) == expected
        await t.node.query("load")
        await trio.sleep(10)
        assert [payload for _, payload in t.node.answers] == answers
        assert len(t.node.declines) == declines


def _filters(texts: list[str]) -> list[EventFilter]:
    return [chosen for text in texts for chosen in Handler.parse(text).filters]


async def test_handlers_decline_only_for_themselves(autojump_clock: MockClock) -> None:
    async with open_handlers("query=exit:0", "query=exit:0") as t:
        client = Responder(has_responded=True)
        with t.node.subscribe(answers=client):
            number = await t.node.query("load")
            assert t.node.declines == []
            await t.node.decline(number, client)
            assert t.node.declines == [number]
            number = await t.node.query("load")
            await t.node.respond(number, b"yes", client)
    assert t.node.declines == [1]


@pytest.mark.parametrize(
    "error", [NoSuchQuery("No pending queries matching ID"), TooLarge("too large"), Leaving("bye")]
)
async def test_rejected_response_is_logged_and_next_event_runs(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_handlers("query=say:yes", "query:quiet=exit:0") as t:
        t.node.error = error
        await t.node.query("load")
        assert f"Failed to respond to query 'load': {error}" in caplog.messages
        assert t.node.declines == ([1] if isinstance(error, TooLarge) else [])
        await t.node.query("quiet")
        t.node.error = None
        number = await t.node.query("load")
        assert t.node.answers == [(number, b"yes")]


# --- reload ---


async def test_replaced_handlers_finish_running_scripts(autojump_clock: MockClock) -> None:
    async with open_handlers(
        "query:load=sleep:2 say:old", "user=sleep:1", "user=say:removed"
    ) as t:
        number = await t.node.query("load")
        for name in ("one", "two"):
            await t.node.event(name)
        t.handlers.replace([Handler.parse("user=sleep:1"), Handler.parse("query:load=say:new")])
        await t.node.event("three")
        assert t.node.declines == []
        assert await t.node.query("load") == number + 4
        assert t.node.answers == [(number + 4, b"new")]
        await trio.sleep(5)
        # The removed script still responded, and the kept one still has its queue.
        assert t.node.answers == [(number + 4, b"new"), (number, b"old")]
        assert t.node.declines == []
        assert t.runner.of("sleep:1") == ["one", "two", "three"]
        assert t.runner.of("say:removed") == ["one", "two"]
        assert list(t.handlers.stats()) == ["user=sleep:1", "query:load=say:new"]
        assert t.handlers.stats()["user=sleep:1"]["runs"] == 3


async def test_unread_events_survive_reload(autojump_clock: MockClock) -> None:
    async with open_handlers("user=say:x") as t:
        for number in range(5):  # before any task can read
            t.node.hub.publish(UserEventReceived(number, f"e{number}", b"", coalesce=False))
        t.handlers.replace([Handler.parse("user=say:x"), Handler.parse("query=say:y")])
        await wait_all_tasks_blocked()
        assert t.runner.of("say:x") == ["e0", "e1", "e2", "e3", "e4"]
        number = await t.node.query("load")
        assert t.node.answers == [(number, b"y")]


async def test_removed_handlers_respond_to_no_query(autojump_clock: MockClock) -> None:
    async with open_handlers("query=say:y") as t:
        query = QueryReceived(1, 1, 1, "load", b"", "x", 1e9)
        assert t.node.hub.has_responder(query)
        t.handlers.replace([])
        assert not t.node.hub.has_responder(query)
        assert (t.handlers.stats(), t.handlers.configured()) == ({}, {})


# --- the end ---


async def test_end_of_node_ends_running_scripts(autojump_clock: MockClock) -> None:
    async with open_handlers(f"user=sleep:{HOUR}", f"*=sleep:{HOUR}", f"query=sleep:{HOUR}") as t:
        await t.node.event("go")
        await t.node.query("load")
        assert len(t.runner.running) == 3
        with takes(0):
            t.node.hub.close()
            await t.ended.wait()
        assert t.runner.running == []
        assert {ended for *_, ended in t.runner.runs} == {True}


async def test_cancellation_ends_running_scripts(autojump_clock: MockClock) -> None:
    with takes(0):
        async with open_handlers(*(f"user=sleep:{HOUR}" for _ in range(5)), limit=3) as t:
            await t.node.event("go")
            assert len(t.runner.running) == 3
    assert t.runner.running == []
    assert len(t.runner.runs) == 3
