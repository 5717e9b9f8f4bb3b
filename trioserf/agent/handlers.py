"""Event handlers: scripts that run when something happens (spec: event handlers).

Each handler has a worker of its own with a bounded queue: its events stay in order, and a script
that sleeps for an hour delays nobody else. How many scripts run at a time is limited for all of
them together. Members and user events are gathered first, as Serf's agent does it; queries are
not. What a script prints is a query's answer; when all scripts that a query concerns have ended
without a word, its asker is told that no answer will follow.
"""

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol, Self

import attrs
import trio

from trioserf.agent.config import HANDLER_QUEUE
from trioserf.agent.script_runner import (
    Result,
    ScriptRunner,
    ShellRunner,
    environment,
    standard_input,
)
from trioserf.counters import Counters
from trioserf.errors import ConfigError, InvalidFilter, Leaving, NoSuchQuery, TooLarge
from trioserf.node.event_hub import Responder, Subscription
from trioserf.serf.coalesce import EventCoalescer
from trioserf.serf.events import MEMBER_EVENT_KINDS, Dropped, Event, QueryReceived
from trioserf.serf.filters import EventFilter

_log = logging.getLogger("trioserf.agent")

WARN_AFTER: Final = 1.0
"""Seconds of running after which a script is called slow."""
_DROPS_BETWEEN_WARNINGS: Final = 100
_SHOWN: Final = 200
"""Characters of a failed script's last line that go into the log."""
_WATCHED: Final = tuple(EventFilter(kind) for kind in (*MEMBER_EVENT_KINDS, "user"))


class HandlerNode(Protocol):
    """What handlers ask of a node (see `trioserf.node.Node`)."""

    @property
    def name(self) -> str:
        """This node's name."""
        ...

    @property
    def tags(self) -> Mapping[str, str]:
        """This node's own tags."""
        ...

    def subscribe(
        self, *filters: EventFilter, answers: Responder, buffer: int = ...
    ) -> AbstractContextManager[Subscription]:
        """Deliver events while a block lasts."""
        ...

    async def respond(
        self,
        id: int,  # noqa: A002
        payload: bytes,
        by: Responder | None = None,
    ) -> None:
        """Answer a query."""
        ...

    async def decline(self, id: int, by: Responder | None = None) -> None:  # noqa: A002
        """Say that no answer will follow."""
        ...


@attrs.frozen(slots=True)
class Handler:
    """A script and the events it is for."""

    filters: tuple[EventFilter, ...]
    script: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[FILTER=]SCRIPT`; what stands before the first `=` is the filter.

        Raises:
            ConfigError: an unknown event, or no script.
        """
        wanted, equals, script = text.partition("=")
        if not equals:
            wanted, script = "", text
        try:
            filters = EventFilter.parse(wanted)
        except InvalidFilter as error:
            raise ConfigError(f"Invalid event script: {text!r}: {error}") from None
        if not script.strip():
            raise ConfigError(f"Invalid event script: {text!r}: expected [FILTER=]SCRIPT")
        return cls(tuple(filters), script)

    def wants(self, event: Event) -> bool:
        """Tell whether the script runs for this event."""
        return any(one.matches(event) for one in self.filters)


@attrs.define(slots=True)
class _PendingQuery:
    """A query and the scripts that may still answer it."""

    query: QueryReceived
    undecided: int
    answered: bool = False


_Job = tuple[Event, _PendingQuery | None]


class _Worker:
    """Runs one handler's script, event by event."""

    def __init__(self, handler: Handler, depth: int) -> None:
        self.handler = handler
        self.runs = 0
        self.failures = 0
        self.dropped = 0
        self.running = False
        self.last_duration = 0.0
        self.send, self.receive = trio.open_memory_channel[_Job](depth)

    def stats(self) -> dict[str, object]:
        return {
            "runs": self.runs,
            "failures": self.failures,
            "dropped": self.dropped,
            "running": self.running,
            "last_duration": round(self.last_duration, 3),
            "queue": self.receive.statistics().current_buffer_used,
        }


class Handlers:
    """All handlers of an agent.

    Args:
        handlers: the scripts.
        node: whose events they are for.
        timeout: seconds after which a script is killed with all that it started; None for never.
        limit: scripts that run at a time, 1 or more.
        depth: events that wait for one script, 1 or more; what comes then is dropped and counted.
        runner: runs the scripts.
        environ: the environment that they start from.
        tally: takes how long scripts run, for metrics.
    """

    def __init__(
        self,
        handlers: Iterable[Handler],
        node: HandlerNode,
        *,
        timeout: float | None = None,
        limit: int = 16,
        depth: int = HANDLER_QUEUE,
        runner: ScriptRunner | None = None,
        environ: Mapping[str, str] = os.environ,
        tally: Counters | None = None,
    ) -> None:
        self._node = node
        self._timeout = timeout or math.inf
        self._limiter = trio.CapacityLimiter(limit)
        self._depth = depth
        self._runner = runner or ShellRunner()
        self._environ = environ
        self._tally = tally or Counters()
        self._workers = [_Worker(handler, depth) for handler in handlers]
        self._nursery: trio.Nursery | None = None
        self._answerer = Responder(has_responded=True)
        self._events: Subscription | None = None

    def configured(self) -> dict[str, str]:
        """Give the script of every filter, as `info` shows them."""
        return {
            f"{one.kind}:{one.name}": worker.handler.script
            for worker in self._workers
            for one in worker.handler.filters
        }

    def stats(self) -> dict[str, dict[str, object]]:
        """Tell of every handler how it fares, by its filters and script."""
        return {
            f"{','.join(map(str, worker.handler.filters))}={worker.handler.script}": worker.stats()
            for worker in self._workers
        }

    def replace(self, handlers: Sequence[Handler]) -> None:
        """Use these handlers from now on.

        Those that stay keep their queues; those that go finish what they have been given.
        """
        there = {worker.handler: worker for worker in self._workers}
        fresh = {one: _Worker(one, self._depth) for one in handlers if one not in there}
        self._workers = [there.get(one) or fresh[one] for one in handlers]
        for one, worker in there.items():
            if one not in handlers:
                worker.send.close()
        if self._nursery is not None:
            for worker in fresh.values():
                self._nursery.start_soon(self._work, worker)
        if self._events is not None:
            self._events.change(*self._wanted())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run scripts until the node ends or this is cancelled, which ends the scripts too."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for worker in self._workers:
                nursery.start_soon(self._work, worker)
            try:
                with self._node.subscribe(*self._wanted(), answers=self._answerer) as self._events:
                    task_status.started()
                    await self._read(self._events)
            finally:
                self._nursery = self._events = None
                nursery.cancel_scope.cancel()

    def _wanted(self) -> list[EventFilter]:
        """All but queries, which only those shall get who may answer."""
        queries = {
            EventFilter("query", one.name)
            for worker in self._workers
            for one in worker.handler.filters
            if one.kind in ("query", "*")
        }
        suspicions = {
            one
            for worker in self._workers
            for one in worker.handler.filters
            if one.kind in ("member-suspect", "member-recovered")
        }
        return [*_WATCHED, *sorted(queries | suspicions, key=str)]

    async def _read(self, events: Subscription) -> None:
        coalescer = EventCoalescer()
        while True:
            event: Event | Dropped | None = None
            deadline = coalescer.deadline
            try:
                if deadline is None:
                    event = await events.receive()
                else:
                    with trio.move_on_at(deadline):
                        event = await events.receive()
            except trio.EndOfChannel:
                return
            now = trio.current_time()
            if isinstance(event, Dropped):
                _log.warning("event handlers: %d events were dropped", event.count)
            elif event is not None and not coalescer.feed(event, now):
                self._dispatch(event)
            for gathered in coalescer.flush(now):
                self._dispatch(gathered)

    def _dispatch(self, event: Event) -> None:
        name = "" if not hasattr(event, "name") else f": {event.name}"
        kind = "user-event" if event.kind == "user" else event.kind
        _log.info("Received event: %s%s", kind, name)
        concerned = [worker for worker in self._workers if worker.handler.wants(event)]
        asked = _PendingQuery(event, len(concerned)) if isinstance(event, QueryReceived) else None
        for worker in concerned:
            try:
                worker.send.send_nowait((event, asked))
            except trio.WouldBlock:
                worker.dropped += 1
                if worker.dropped % _DROPS_BETWEEN_WARNINGS == 1:
                    _log.warning(
                        "handler %r is too slow: %d events dropped so far",
                        worker.handler.script,
                        worker.dropped,
                    )
                if asked is not None and self._nursery is not None:
                    self._nursery.start_soon(self._decline_if_last, asked)

    # --- running ---

    async def _work(self, worker: _Worker) -> None:
        async for event, asked in worker.receive:
            async with self._limiter:
                result = await self._run(worker, event)
            if asked is None:
                continue
            if result is not None and result.status == 0 and result.output:
                await self._answer(asked, result.output)
            else:
                await self._decline_if_last(asked)

    async def _run(self, worker: _Worker, event: Event) -> Result | None:
        """Run a script; None if it did not start or did not end in time."""
        script = worker.handler.script
        env = environment(event, self._node.name, self._node.tags, self._environ)
        worker.runs += 1
        worker.running = True
        began = trio.current_time()
        result: Result | None = None
        try:
            with trio.move_on_after(self._timeout) as deadline:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_warn_if_slow, script)
                    result = await self._runner(script, env, standard_input(event))
                    nursery.cancel_scope.cancel()
        finally:
            worker.running = False
            worker.last_duration = trio.current_time() - began
            took = worker.last_duration * 1000
            self._tally.values(f"agent.invoke.{script}").append(took)
        if result is None:
            why = f"killed after {self._timeout:g} s" if deadline.cancelled_caught else "not run"
        else:
            why = result.failure
            last = result.output.decode("utf-8", "backslashreplace").strip()[-_SHOWN:]
            if why and last:
                # What a script says last is most often why it fails.
                why += f": {last.splitlines()[-1]}"
            if result.lost:
                _log.warning("Script %r generated %d bytes too much output", script, result.lost)
            text = result.output.decode("utf-8", "backslashreplace")
            _log.debug("Event %r script output: %s", event.kind, text)
        if why:
            worker.failures += 1
            _log.error("Error invoking script '%s': %s", script, why)
        return result

    async def _answer(self, asked: _PendingQuery, output: bytes) -> None:
        query = asked.query
        try:
            await self._node.respond(query.id, output, self._answerer)
        except (NoSuchQuery, TooLarge, Leaving) as error:
            _log.warning("Failed to respond to query '%s': %s", query.name, error)
            await self._decline_if_last(asked)
        else:
            asked.answered = True
            asked.undecided -= 1

    async def _decline_if_last(self, asked: _PendingQuery) -> None:
        asked.undecided -= 1
        if asked.undecided > 0 or asked.answered:
            return
        try:
            await self._node.decline(asked.query.id, self._answerer)
        except (NoSuchQuery, Leaving) as error:
            _log.debug("query '%s' needs no answer any more: %s", asked.query.name, error)


async def _warn_if_slow(script: str) -> None:
    await trio.sleep(WARN_AFTER)
    _log.warning("Script '%s' slow, execution exceeding %gs", script, WARN_AFTER)
