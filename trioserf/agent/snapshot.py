"""Write the snapshot file: members and clocks, kept for the next start.

`trioserf.serf.snapshot` defines the lines (see serf/README.md, § Snapshot file). This module
writes them: at once after a quiet time, else every half second. A crash may lose the last half
second, which the cluster still knows, but never the file: it is only appended to, or replaced
atomically through `PATH.compact`. If the disk is full or missing, the agent goes on and rewrites
the whole file from memory when writing succeeds again.
"""

import errno
import logging
from collections.abc import AsyncIterable, Iterable
from pathlib import Path
from random import Random
from typing import Final, Protocol

import trio

from trioserf.agent.files import SHARED, Files
from trioserf.counters import Counters
from trioserf.errors import ConfigError
from trioserf.node.timers import AutoResetEvent
from trioserf.results import Dropped
from trioserf.serf.events import Event, MemberEvent
from trioserf.serf.member import Member
from trioserf.serf.snapshot import LamportTimes, SnapshotContents, SnapshotState, parse
from trioserf.wire.serf_messages import Status

FLUSH_INTERVAL: Final = 0.5
"""Least seconds between two writes."""
RETRY_INTERVAL: Final = 30.0
"""Seconds until a failed write is retried."""
CLOCK_INTERVAL: Final = 5.0
"""Seconds between checks of the clocks while there are no events."""

_COMPACT_SUFFIX = ".compact"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_PRESENT = frozenset({Status.ALIVE, Status.LEAVING})

_log = logging.getLogger("trioserf.agent")


class SnapshotSource(Protocol):
    """The part of a node that the snapshot reads."""

    def members(self) -> Iterable[Member]:
        """Return all members, of any status."""

    def clocks(self) -> tuple[int, int, int]:
        """Return the next times of the clocks of members, user events and queries."""


async def load_snapshot(path: Path, files: Files, *, rejoin: bool) -> SnapshotContents:
    """Load the snapshot of the last run; create the file if it does not exist.

    Lines that are not valid are logged and skipped; a full disk is ignored.

    Args:
        path: the file.
        files: the file system.
        rejoin: ignore that the last run ended with a leave.

    Raises:
        ConfigError: the file cannot be read or written, or its directory does not exist.
    """
    try:
        data = await files.read(path)
        try:
            if data is None:
                await files.replace(path, b"", suffix=_COMPACT_SUFFIX, mode=SHARED)
            else:
                await files.append(path, b"")
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
    except OSError as error:
        raise ConfigError(
            f"snapshot_path {path}: {_reason(error)}; expected a file that can be read and"
            " written, or created in a directory that exists"
        ) from error
    contents = parse(data or b"", rejoin=rejoin)
    for text in contents.errors:
        _log.warning("snapshot %s: %s", path, text)
    return contents


def previous_members(
    contents: SnapshotContents, own_name: str, rng: Random
) -> list[tuple[str, str]]:
    """Return names and addresses of the other members of the last run, in random order."""
    others = [(name, address) for name, address in contents.alive.items() if name != own_name]
    rng.shuffle(others)
    return others


class SnapshotWriter:
    """Keeps a snapshot file up to date.

    Args:
        path: the file, as `load_snapshot` left it.
        contents: its contents.
        source: the node.
        files: the file system.
        counters: the times of writes, for metrics.
    """

    def __init__(
        self,
        path: Path,
        contents: SnapshotContents,
        source: SnapshotSource,
        files: Files,
        counters: Counters | None = None,
    ) -> None:
        self._path = path
        self._source = source
        self._files = files
        self._state = SnapshotState(contents)
        self._pending = bytearray()
        self._size = contents.size
        # The file differs from the state in memory: replace it, do not append.
        self._rewrite = not contents.clean
        self._retry_at: float | None = None
        self._replace_at: float | None = None
        self._wake = AutoResetEvent()
        self._ended = trio.Event()
        self._lock = trio.Lock()
        counters = counters or Counters()
        self._appends = counters.values("serf.snapshot.appendLine")
        self._compactions = counters.values("serf.snapshot.compact")

    async def run(self, events: AsyncIterable[Event | Dropped]) -> None:
        """Record events until they end, or until cancelled.

        In both cases everything known is written at the end. If events were dropped, the members
        are read from the node instead.

        Args:
            events: all events of the node, from a subscription older than this call.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._record(MemberEvent("member-join", self._present_members()))
                nursery.start_soon(self._listen, events)
                await self._keep_writing()
        finally:
            with trio.CancelScope(shield=True):
                await self._flush(last=True)

    async def leave(self, *, rejoin: bool) -> None:
        """Record our leave and sync it to the disk; nothing is recorded after that.

        Args:
            rejoin: keep the members, for a next start that ignores the leave.
        """
        with trio.CancelScope(shield=True):
            async with self._lock:
                self._pending += self._state.leave(self._clocks().member, keep=rejoin)
                await self._write(sync=True)

    # --- recording ---

    def _clocks(self) -> LamportTimes:
        member, event, query = self._source.clocks()
        return LamportTimes(member - 1, event - 1, query - 1)

    def _present_members(self) -> tuple[Member, ...]:
        return tuple(m for m in self._source.members() if m.status_code in _PRESENT)

    async def _listen(self, events: AsyncIterable[Event | Dropped]) -> None:
        async for event in events:
            if isinstance(event, Dropped):
                self._state.resume(self._present_members(), self._clocks())
                self._rewrite = True
            else:
                self._record(event)
            self._wake()
        self._ended.set()
        self._wake()

    def _record(self, event: Event) -> None:
        lines = self._state.record(event)
        if not self._rewrite:
            self._pending += lines

    # --- writing ---

    async def _keep_writing(self) -> None:
        while not self._ended.is_set():
            await self._flush()
            if self._retry_at is None:
                with trio.move_on_after(FLUSH_INTERVAL):
                    await self._ended.wait()
                with trio.move_on_after(CLOCK_INTERVAL):
                    await self._wake.wait()
            else:
                with trio.move_on_at(self._retry_at):
                    await self._ended.wait()

    async def _flush(self, *, last: bool = False) -> None:
        async with self._lock:
            now = trio.current_time()
            self._pending += self._state.clock_lines(self._clocks().member)
            if self._retry_at is None or now >= self._retry_at or last:
                await self._write()

    async def _write(self, *, sync: bool = False) -> None:
        """Write everything that is pending; after an error, schedule a retry."""
        try:
            if self._rewrite or self._compaction_due():
                await self._replace()
            await self._append(sync=sync)
            if self._rewrite:
                await self._replace(required=True)
        except OSError as error:
            if self._retry_at is None:
                _log.error(
                    "snapshot %(path)s: cannot be written: %(reason)s; will try again every"
                    " %(seconds)g s",
                    {"path": self._path, "reason": _reason(error), "seconds": RETRY_INTERVAL},
                )
            self._rewrite = True
            self._pending.clear()  # the state in memory has everything
            self._retry_at = trio.current_time() + RETRY_INTERVAL
        else:
            if self._retry_at is not None:
                _log.info("snapshot %s: written again", self._path)
            self._retry_at = None

    def _compaction_due(self) -> bool:
        return self._state.compaction_due(self._size + len(self._pending))

    async def _append(self, *, sync: bool) -> None:
        if not self._pending:
            return
        data = bytes(self._pending)
        self._pending.clear()
        began = trio.current_time()
        try:
            await self._files.append(self._path, data, sync=sync)
        except FileNotFoundError:
            self._rewrite = True  # it was removed; its contents are in memory
        else:
            self._size += len(data)
            self._appends.append((trio.current_time() - began) * 1000)

    async def _replace(self, *, required: bool = False) -> None:
        """Replace the file by the state in memory.

        Raises:
            OSError: the disk is full, or the replacement is `required` and cannot be written. If
                it is not required, lines are left to append instead, and `PATH.compact` is tried
                again later.
        """
        now = trio.current_time()
        if not self._rewrite and self._replace_at is not None and now < self._replace_at:
            return
        data = self._state.compacted()
        lines = b"\n" + data if self._rewrite else bytes(self._pending)
        self._pending.clear()
        self._rewrite = False
        try:
            await self._files.replace(self._path, data, suffix=_COMPACT_SUFFIX, mode=SHARED)
        except OSError as error:
            if required or error.errno in _NO_ROOM:
                raise
            if self._replace_at is None:
                _log.error(
                    "snapshot %s: cannot be compacted: %s; it grows, and compaction is tried again"
                    " every %g s",
                    self._path,
                    _reason(error),
                    RETRY_INTERVAL,
                )
            self._replace_at = trio.current_time() + RETRY_INTERVAL
            self._pending[:0] = lines
        else:
            if self._replace_at is not None:
                _log.info("snapshot %s: compacted again", self._path)
            self._replace_at = None
            self._size = len(data)
            self._compactions.append((trio.current_time() - now) * 1000)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
