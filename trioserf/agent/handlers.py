"""Event handlers: scripts that run on events (see agent/README.md, § Event handlers).

Each handler has a worker with a bounded queue: its events keep their order, and a slow script
delays only its own events. One limit applies to all scripts that run on events, and one to those
that run on queries, so that queries do not wait for events of other handlers. Member and user
events are coalesced first, as in Serf's agent; queries are not. The output of a script is the
response to a query. When all scripts of a query have ended without output, the query is declined,
so that the requester does not wait for a response.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol, Self

import attrs
import trio

from trioserf.agent.config import HandlerOptions
from trioserf.agent.script_log import log_of, log_run
from trioserf.agent.script_runner import (
    Result,
    ScriptRunner,
    ShellRunner,
    environment,
    standard_input,
)
from trioserf.counters import Counters, Histogram
from trioserf.errors import ConfigError, InvalidFilter, Leaving, NoSuchQuery, TooLarge
from trioserf.event_filter import MEMBER_EVENT_KINDS, EventFilter
from trioserf.node.event_hub import Responder, Subscription
from trioserf.operating_system import host
from trioserf.printable import short_name
from trioserf.results import Dropped
from trioserf.serf.coalesce import EventCoalescer
from trioserf.serf.events import Event, QueryReceived
from trioserf.value_objects import ValueObject

_log = logging.getLogger("trioserf.agent")

WARN_AFTER: Final = 1.0
"""Seconds after which a running script is reported as slow."""
_DROPS_BETWEEN_WARNINGS: Final = 100
_AT_ONCE: Final = 32
"""Events that are given to handlers before other tasks run."""
DURATIONS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds: the bounds of the histogram of each handler."""
_ALWAYS_SUBSCRIBED: Final = tuple(EventFilter(kind) for kind in (*MEMBER_EVENT_KINDS, "user"))


class HandlerNode(Protocol):
    """The part of `trioserf.node.Node` that handlers use."""

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
        """Deliver events while the block runs."""
        ...

    async def respond(
        self,
        id: int,  # noqa: A002
        payload: bytes,
        by: Responder | None = None,
    ) -> None:
        """Respond to a query."""
        ...

    async def decline(self, id: int, by: Responder | None = None) -> None:  # noqa: A002
        """Report that no response to a query will follow."""
        ...


@attrs.frozen(eq=False, repr=False)
class Handler(ValueObject):
    """A script and the filters of its events."""

    filters: tuple[EventFilter, ...]
    script: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `[FILTER=]SCRIPT`; the filter ends at the first `=`.

        Raises:
            ConfigError: an unknown event, an empty script, or text that is not UTF-8 without NUL.
        """
        events, equals, script = text.partition("=")
        if not equals:
            events, script = "", text
        try:
            filters = EventFilter.parse(events)
        except InvalidFilter as error:
            raise ConfigError(f"Invalid event script: {text!r}: {error}") from None
        if not script.strip():
            raise ConfigError(f"Invalid event script: {text!r}: expected [FILTER=]SCRIPT")
        if "\0" in text:
            raise ConfigError(f"Invalid event script: {text!r}: expected text without NUL")
        try:
            text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise ConfigError(f"Invalid event script: {text!r}: {error.reason}") from None
        return cls(tuple(filters), script)

    def matches(self, event: Event) -> bool:
        """Return whether the script runs on this event."""
        return any(chosen.matches(event) for chosen in self.filters)


@attrs.define(eq=False, repr=False)
class _PendingQuery:
    """A query and the number of scripts that may still respond."""

    query: QueryReceived
    undecided: int
    has_response: bool = False


_Job = tuple[Event, _PendingQuery | None]


class Worker:
    """The queue and the statistics of one handler; `Handlers` runs its script.

    Attributes:
        handler: the handler.
        runs: runs that have begun.
        failures: runs that failed, timeouts included.
        timeouts: runs that took longer than `handler_timeout`.
        dropped: events for which the queue had no room.
        durations: seconds of all runs.
        running: whether the script runs.
        waiting: whether it waits because too many others run.
        last_duration: seconds of the last run.
        send: puts an event into the queue.
        receive: the other end of the queue.
    """

    def __init__(self, handler: Handler, depth: int) -> None:
        self.handler = handler
        self.runs = 0
        self.failures = 0
        self.timeouts = 0
        self.durations = Histogram(DURATIONS)
        self.dropped = 0
        self.running = False
        self.waiting = False
        self.last_duration = 0.0
        self.send, self.receive = trio.open_memory_channel[_Job](depth)

    def drop(self) -> None:
        """Count an event for which the script does not run."""
        self.dropped += 1
        if self.dropped % _DROPS_BETWEEN_WARNINGS == 1:
            _log.warning(
                "handler '%(script)s' is too slow: %(dropped)d events dropped so far",
                {"script": self.handler.script, "dropped": self.dropped},
            )

    def stats(self) -> dict[str, object]:
        """Return the statistics for `info`."""
        return {
            "runs": self.runs,
            "failures": self.failures,
            "dropped": self.dropped,
            "running": self.running,
            "last_duration": round(self.last_duration, 3),
            "queue": self.receive.statistics().current_buffer_used + self.waiting,
        }


class Handlers:
    """All handlers of an agent.

    Args:
        handlers: the scripts.
        node: the source of events.
        options: their limits.
        runner: runs the scripts.
        environ: the environment that all scripts get; default: that of this process.
        counters: the run times of scripts, for metrics.

    Attributes:
        environ: the environment of scripts that start from now on; may be replaced.
    """

    def __init__(
        self,
        handlers: Iterable[Handler],
        node: HandlerNode,
        options: HandlerOptions,
        *,
        runner: ScriptRunner | None = None,
        environ: Mapping[str, str] | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._node = node
        self._timeout = options.timeout or math.inf
        self._event_limiter = trio.CapacityLimiter(options.limit)
        self._query_limiter = trio.CapacityLimiter(options.limit)
        self._depth = options.queue
        self._runner = runner or ShellRunner()
        self.environ = host.environment() if environ is None else environ
        self._counters = counters or Counters()
        self._workers = [Worker(handler, self._depth) for handler in handlers]
        self._running = 0
        self._nursery: trio.Nursery | None = None
        self._responder = Responder(has_responded=True)
        self._events: Subscription | None = None

    def configured(self) -> dict[str, str]:
        """Return the script of each filter, for `info`."""
        return {
            f"{chosen.kind}:{chosen.name}": worker.handler.script
            for worker in self._workers
            for chosen in worker.handler.filters
        }

    def stats(self) -> dict[str, dict[str, object]]:
        """Return the statistics of each handler by `FILTERS=SCRIPT`."""
        return {
            f"{','.join(map(str, worker.handler.filters))}={worker.handler.script}": worker.stats()
            for worker in self._workers
        }

    def workers(self) -> Sequence[Worker]:
        """Return the figures of each handler, for metrics."""
        return tuple(self._workers)

    def totals(self) -> dict[str, int]:
        """Return how many scripts run, and how many wait because too many others do."""
        limiters = (self._event_limiter, self._query_limiter)
        return {
            "running": self._running,
            "waiting": sum(one.statistics().tasks_waiting for one in limiters),
        }

    def replace(self, handlers: Sequence[Handler]) -> None:
        """Use these handlers from now on.

        Handlers that stay keep their queues; removed ones still run their queued events.
        """
        old = {worker.handler: worker for worker in self._workers}
        new = {handler: Worker(handler, self._depth) for handler in handlers if handler not in old}
        self._workers = [old.get(handler) or new[handler] for handler in handlers]
        for handler, worker in old.items():
            if handler not in handlers:
                worker.send.close()
        if self._nursery is not None:
            for worker in new.values():
                self._nursery.start_soon(self._work, worker)
        if self._events is not None:
            self._events.change(*self._filters())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run scripts until the node ends or this is cancelled; both end running scripts."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for worker in self._workers:
                nursery.start_soon(self._work, worker)
            try:
                with self._node.subscribe(
                    *self._filters(), answers=self._responder
                ) as self._events:
                    task_status.started()
                    await self._read(self._events)
            finally:
                self._nursery = self._events = None
                nursery.cancel_scope.cancel()

    def _filters(self) -> list[EventFilter]:
        """Return the filters to subscribe to; queries only if a handler may respond to them."""
        queries = {
            EventFilter("query", chosen.name)
            for worker in self._workers
            for chosen in worker.handler.filters
            if chosen.kind in ("query", "*")
        }
        suspicions = {
            chosen
            for worker in self._workers
            for chosen in worker.handler.filters
            if chosen.kind in ("member-suspect", "member-recovered")
        }
        return [*_ALWAYS_SUBSCRIBED, *sorted(queries | suspicions, key=str)]

    async def _read(self, events: Subscription) -> None:
        coalescer = EventCoalescer()
        while True:
            received: list[Event | Dropped] = []
            deadline = coalescer.deadline
            try:
                if deadline is None:
                    received = await events.receive_some(_AT_ONCE)
                else:
                    with trio.move_on_at(deadline):
                        received = await events.receive_some(_AT_ONCE)
            except trio.EndOfChannel:
                return
            now = trio.current_time()
            for event in received:
                if isinstance(event, Dropped):
                    _log.warning("event handlers: %d events were dropped", event.count)
                elif not coalescer.feed(event, now):
                    self._dispatch(event)
            for coalesced in coalescer.flush(now):
                self._dispatch(coalesced)

    def _dispatch(self, event: Event) -> None:
        name = "" if not hasattr(event, "name") else f": {short_name(event.name)}"
        kind = "user-event" if event.kind == "user" else event.kind
        _log.info("Received event: %s%s", kind, name)
        workers = [worker for worker in self._workers if worker.handler.matches(event)]
        query = _PendingQuery(event, len(workers)) if isinstance(event, QueryReceived) else None
        for worker in workers:
            try:
                worker.send.send_nowait((event, query))
            except trio.WouldBlock:
                worker.drop()
                if query is not None and self._nursery is not None:
                    self._nursery.start_soon(self._decline_if_last, query)

    # --- running ---

    async def _work(self, worker: Worker) -> None:
        async for event, query in worker.receive:
            result = await self._run_in_turn(worker, event)
            if query is None:
                continue
            if result is not None and result.status == 0 and result.output:
                await self._respond(query, result.output)
            else:
                await self._decline_if_last(query)

    async def _run_in_turn(self, worker: Worker, event: Event) -> Result | None:
        """Wait until few enough scripts run, and run this one.

        A query's script has a place until the query's deadline only, and needs none afterwards:
        its response is too late then, but its effects may still be wanted.
        """
        deadline, limiter = math.inf, self._event_limiter
        if isinstance(event, QueryReceived):
            deadline, limiter = event.deadline, self._query_limiter
        place = object()
        worker.waiting = True
        try:
            with trio.move_on_at(deadline) as waiting:
                await limiter.acquire_on_behalf_of(place)
        finally:
            worker.waiting = False
        async with trio.open_nursery() as nursery:
            if not waiting.cancelled_caught:
                nursery.start_soon(_release_at, deadline, limiter, place)
            result = await self._run(worker, event)
            nursery.cancel_scope.cancel()
        return result

    async def _run(self, worker: Worker, event: Event) -> Result | None:
        """Run a script; return None if it did not end within the timeout."""
        script = worker.handler.script
        env = environment(event, self._node.name, self._node.tags, self.environ)
        worker.runs += 1
        worker.running = True
        self._running += 1
        began = trio.current_time()
        result: Result | None = None
        try:
            with trio.move_on_after(self._timeout):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_warn_if_slow, script)
                    result = await self._runner(script, env, standard_input(event))
                    nursery.cancel_scope.cancel()
        finally:
            worker.running = False
            self._running -= 1
            worker.last_duration = trio.current_time() - began
            worker.durations.add(worker.last_duration)
            self._counters.values(f"agent.invoke.{script}").append(worker.last_duration * 1000)
        worker.timeouts += result is None
        if log_run(script, event.kind, result, self._timeout):
            worker.failures += 1
        return result

    async def _respond(self, pending: _PendingQuery, output: bytes) -> None:
        query = pending.query
        try:
            await self._node.respond(query.id, output, self._responder)
        except (NoSuchQuery, TooLarge, Leaving) as error:
            named = {"query": short_name(query.name), "reason": error}
            _log.warning("Failed to respond to query '%(query)s': %(reason)s", named)
            await self._decline_if_last(pending)
        else:
            pending.has_response = True
            pending.undecided -= 1

    async def _decline_if_last(self, pending: _PendingQuery) -> None:
        pending.undecided -= 1
        if pending.undecided > 0 or pending.has_response:
            return
        try:
            await self._node.decline(pending.query.id, self._responder)
        except (NoSuchQuery, Leaving) as error:
            _log.debug(
                "query '%s' needs no response any more: %s", short_name(pending.query.name), error
            )


async def _release_at(deadline: float, limiter: trio.CapacityLimiter, place: object) -> None:
    """Release a place at this instant, or when cancelled."""
    try:
        await trio.sleep_until(deadline)
    finally:
        limiter.release_on_behalf_of(place)


async def _warn_if_slow(script: str) -> None:
    await trio.sleep(WARN_AFTER)
    named = {"script": script, "seconds": WARN_AFTER}
    log_of(script).warning("Script '%(script)s' slow, execution exceeding %(seconds)gs", named)
