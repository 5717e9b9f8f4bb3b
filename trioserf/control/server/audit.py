"""The audit log: a JSON line for each change by a client (see control/README.md, § Audit log).

Requests only put lines into a bounded queue. A task writes them in a thread, so that a slow disk
delays no request. The file is opened for each write; a rotated file is made again.
"""

import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import trio

from trioserf.agent.files import PRIVATE
from trioserf.agent.log_lines import utc_text
from trioserf.control.server.json_records import WallClock, utc_now
from trioserf.counters import Counters
from trioserf.dropping_queue import DroppingQueue
from trioserf.errors import ConfigError
from trioserf.exception_groups import unwrap_single_exception
from trioserf.net.threads import run_in_thread
from trioserf.node.timers import AutoResetEvent
from trioserf.operating_system import files as system

_log = logging.getLogger("trioserf.agent.ipc")

STDERR: Final = "-"
MAX_LINES: Final = 8192
MAX_BYTES: Final = 4 * 1024 * 1024
"""Lines and bytes that wait for the disk: seconds of the fastest clients."""
SUMMARY_INTERVAL: Final = 1.0
"""Seconds in which equal refusals of one source are counted in one line."""
MAX_SOURCES: Final = 1024
"""Sources of refusals in that time; those of further ones are counted as `others`."""
RETRY_INTERVAL: Final = 1.0
"""Seconds until a failed write is repeated."""
FLUSH_TIMEOUT: Final = 2.0
"""Seconds for the last lines at the end of the agent."""
_REPORT_INTERVAL: Final = 10.0
"""Seconds between two log lines about dropped lines."""
_BATCH_BYTES: Final = 64 * 1024
_MAX_TEXT: Final = 256
_MAX_ITEMS: Final = 64
"""Characters of a text, and items of a list, in a line; clients choose them."""

Write = Callable[[bytes], Awaitable[tuple[bytes, OSError | None]]]
"""Appends data to the log; returns the data that was not written, and why."""


def append(path: str, data: bytes) -> tuple[bytes, OSError | None]:
    """Append data to a file, which is made with mode 0600, or to stderr if the path is `-`."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | system.AS_IT_IS | system.NO_WAIT
    try:
        descriptor = os.dup(2) if path == STDERR else os.open(path, flags, PRIVATE)
    except OSError as error:
        return data, error
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        return data, error
    finally:
        os.close(descriptor)
    return b"", None


def describe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that may be logged: names and sizes, no payload, key or tag value."""
    return {
        f"{name}_bytes" if name == "payload" else name: _SHOWN[name](value)
        for name, value in values.items()
        if name in _SHOWN
    }


def _text(value: str) -> str:
    return value if len(value) <= _MAX_TEXT else f"{value[:_MAX_TEXT]}…"


def _texts(values: Iterable[str]) -> list[str]:
    texts = list(values)
    more = len(texts) - _MAX_ITEMS
    shown = [_text(text) for text in texts[:_MAX_ITEMS]]
    return [*shown, f"… {more} more"] if more > 0 else shown


def _same(value: Any) -> Any:
    return value


_SHOWN: Final[Mapping[str, Callable[[Any], Any]]] = {
    "name": _text,
    "id": _same,
    "query": _text,
    "payload": len,
    "coalesce": _same,
    "addresses": _texts,
    "replay": _same,
    "prune": _same,
    "set": _texts,
    "delete": _texts,
    "action": _same,
    "nodes": _texts,
    "tags": _texts,
}
"""How each parameter is shown; others are not. Of tags, only the keys."""


class AuditLog:
    """The audit log; made by `open_audit`.

    Args:
        path: the file, for the agent's log.
        write: appends to it.
        wall: the time of day.
        dropped: called with 1 for each line that is lost.
    """

    def __init__(
        self,
        path: str,
        write: Write,
        *,
        wall: WallClock = utc_now,
        dropped: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._path = path
        self._write = write
        self._wall = wall
        self._dropped = dropped
        self._queue: DroppingQueue[bytes] = DroppingQueue(
            MAX_LINES, self._encode_dropped, max_bytes=MAX_BYTES, size_of=len
        )
        self._unwritten = b""
        self._refusals: dict[tuple[str, str, str], int] = {}
        self._summary_at = float("inf")
        self._report_at = 0.0
        self._is_failing = False
        self._wake = AutoResetEvent()
        self._closing = trio.Event()

    def record(
        self, who: str, source: str, command: str, what: Mapping[str, Any], outcome: str
    ) -> None:
        """Queue a line about a command.

        Args:
            who: token, `rpc_auth`, user or address.
            source: the address of the client.
            command: its name in JSON.
            what: see `describe`.
            outcome: `ok` or the code of the error.
        """
        self._put({"who": who, "from": source, "command": command, **what, "outcome": outcome})

    def refuse(self, source: str, command: str, outcome: str) -> None:
        """Count a refused key or user; a line about all equal ones follows within a second."""
        key = source, command, outcome
        if key not in self._refusals and len(self._refusals) >= MAX_SOURCES:
            key = "others", command, outcome
        if not self._refusals:
            self._summary_at = trio.current_time() + SUMMARY_INTERVAL
            self._wake()
        self._refusals[key] = self._refusals.get(key, 0) + 1

    def close(self) -> None:
        """Write what waits, then end `run`."""
        self._closing.set()
        self._wake()

    async def run(self) -> None:
        """Write lines until `close`."""
        while True:
            self._summarise()
            if not self._unwritten and not self._queue:
                if self._closing.is_set():
                    return
                with trio.move_on_at(self._summary_at):
                    await self._wake.wait()
                continue
            self._unwritten = self._unwritten or self._next_batch()
            self._unwritten, error = await self._write(self._unwritten)
            if self._report_failure(error) and await self._wait_to_retry():
                return

    async def _wait_to_retry(self) -> bool:
        """Wait before the next attempt; return True if the log closes, whose lines are lost."""
        if not self._closing.is_set():
            with trio.move_on_after(RETRY_INTERVAL):
                await self._closing.wait()
            return False
        _log.error("audit_log %s: the last lines are lost", self._path)
        return True

    def _report_failure(self, error: OSError | None) -> bool:
        """Log the first of several failures, and their end; return whether there is one."""
        if error is not None and not self._is_failing:
            why = error.strerror or str(error)
            _log.error("audit_log %s: cannot be written: %s; lines wait", self._path, why)
        elif error is None and self._is_failing:
            _log.info("audit_log %s: is written again", self._path)
        self._is_failing = error is not None
        return self._is_failing

    def _summarise(self) -> None:
        """Queue the lines about refusals if they are due."""
        if trio.current_time() < self._summary_at and not self._closing.is_set():
            return
        refusals, self._refusals = self._refusals, {}
        self._summary_at = float("inf")
        for (source, command, outcome), count in refusals.items():
            self._put({"from": source, "command": command, "outcome": outcome, "count": count})

    def _put(self, record: Mapping[str, Any]) -> None:
        if self._queue.put(self._encode(record)):
            self._wake()
            return
        self._dropped(1)
        now = trio.current_time()
        if now >= self._report_at:
            self._report_at = now + _REPORT_INTERVAL
            _log.error("audit_log %s: too many lines wait; further ones are lost", self._path)

    def _next_batch(self) -> bytes:
        batch = bytearray()
        while self._queue and len(batch) < _BATCH_BYTES:
            batch += self._queue.pop()
        return bytes(batch)

    def _encode(self, record: Mapping[str, Any]) -> bytes:
        return json.dumps({"time": utc_text(self._wall()), **record}).encode("ascii") + b"\n"

    def _encode_dropped(self, count: int) -> bytes:
        return self._encode({"command": "audit", "outcome": "dropped", "count": count})


@asynccontextmanager
async def open_audit(
    path: str,
    *,
    wall: WallClock = utc_now,
    counters: Counters | None = None,
    write: Write | None = None,
) -> AsyncIterator[AuditLog | None]:
    """Write an audit log while the block runs, and its last lines afterwards.

    Args:
        path: the file, `-` for stderr, or empty for no audit log.
        wall: the time of day.
        counters: counts lost lines for metrics.
        write: appends to the file; default: `append`, in a thread.

    Raises:
        ConfigError: the file cannot be written.
    """
    if not path:
        yield None
        return

    async def append_in_thread(data: bytes) -> tuple[bytes, OSError | None]:
        # Abandoned only at the end of the agent, if the disk hangs.
        try:
            return await run_in_thread(partial(append, path, data), abandon=True)
        except BlockingIOError as error:  # no thread
            return data, error

    write = write or append_in_thread
    _, error = await write(b"")
    if error is not None:
        raise ConfigError(f"audit_log {path}: cannot be written: {error.strerror}") from error
    dropped = counters.counter("trioserf.dropped.audit").add if counters else lambda _: None
    audit = AuditLog(path, write, wall=wall, dropped=dropped)
    writing = trio.CancelScope(shield=True)

    async def run() -> None:
        with writing:
            await audit.run()

    with unwrap_single_exception():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            try:
                yield audit
            finally:
                audit.close()
                writing.deadline = trio.current_time() + FLUSH_TIMEOUT
