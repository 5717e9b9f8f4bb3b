"""The snapshot file: who was here and what we have seen, kept for the next start.

What its lines mean is told in `trioserf.serf.snapshot`. Here they get to the disk: at once after
a quiet time, every half second in a busy one. Losing the last half second in a crash is allowed
for, as the cluster knows it still; losing the file is not. It is therefore only ever appended to,
or replaced in one step by way of `PATH.compact`. A disk that is full or gone stops nothing: what
the file ought to say is in memory, and is written whole as soon as that works again.
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
from trioserf.serf.events import Dropped, Event, MemberEvent
from trioserf.serf.member import Member
from trioserf.serf.snapshot import LamportTimes, SnapshotContents, SnapshotState, parse
from trioserf.wire.serf_messages import Status

FLUSH_INTERVAL: Final = 0.5
"""Seconds between two writes, at least."""
RETRY_INTERVAL: Final = 30.0
"""Seconds until a file that could not be written is tried again."""
CLOCK_INTERVAL: Final = 5.0
"""Seconds after which the clocks are looked at though nothing has happened."""

_COMPACT_SUFFIX = ".compact"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_PRESENT = frozenset({Status.ALIVE, Status.LEAVING})

_log = logging.getLogger("trioserf.agent")


class SnapshotSource(Protocol):
    """What a snapshot asks the node."""

    def members(self) -> Iterable[Member]:
        """Give all members, of any status."""

    def clocks(self) -> tuple[int, int, int]:
        """Give what the clocks of members, user events and queries show: the next times."""


async def load_snapshot(path: Path, files: Files, *, rejoin: bool) -> SnapshotContents:
    """Read the snapshot of the last run, and create it if there was none.

    Faults of its content are logged and passed by; so is a full disk.

    Args:
        path: the file.
        files: where it is.
        rejoin: overlook that the last run ended by leaving.

    Raises:
        ConfigError: it cannot be read or written, or its directory does not exist.
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
    replayed = parse(data or b"", rejoin=rejoin)
    for fault in replayed.errors:
        _log.warning("snapshot %s: %s", path, fault)
    return replayed


def previous_members(
    replayed: SnapshotContents, own_name: str, rng: Random
) -> list[tuple[str, str]]:
    """Give the names and addresses to try to join, in random order and without ourselves."""
    others = [(name, at) for name, at in replayed.alive.items() if name != own_name]
    rng.shuffle(others)
    return others


class SnapshotWriter:
    """Keeps a snapshot file up to date.

    Args:
        path: the file, as `load_snapshot` left it.
        replayed: what it said.
        source: the node.
        files: where the file is.
        tally: takes how long writing takes, for metrics.
    """

    def __init__(
        self,
        path: Path,
        replayed: SnapshotContents,
        source: SnapshotSource,
        files: Files,
        tally: Counters | None = None,
    ) -> None:
        self._path = path
        self._source = source
        self._files = files
        self._state = SnapshotState(replayed)
        self._pending = bytearray()
        self._size = replayed.size
        # The file is not what we think it is: replace it, do not append.
        self._rewrite = not replayed.clean
        self._retry_at: float | None = None
        self._wake = trio.Event()
        self._ended = trio.Event()
        self._lock = trio.Lock()
        tally = tally or Counters()
        self._appends = tally.values("serf.snapshot.appendLine")
        self._compactions = tally.values("serf.snapshot.compact")

    async def run(self, events: AsyncIterable[Event | Dropped]) -> None:
        """Record events until there are no more of them, or until cancelled.

        Either way what is known is written at last. If events were dropped, the members are taken
        from the node instead.

        Args:
            events: all events of the node, subscribed to before this call.
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
        """Write that we leave, down to the disk; nothing is recorded after that.

        Args:
            rejoin: whether the members are kept, for a start that overlooks the leave.
        """
        with trio.CancelScope(shield=True):
            async with self._lock:
                self._pending += self._state.leave(self._clocks().member, keep=rejoin)
                await self._write(sync=True)

    # --- gathering ---

    def _clocks(self) -> LamportTimes:
        member, event, query = self._source.clocks()
        return LamportTimes(member - 1, event - 1, query - 1)

    def _present_members(self) -> tuple[Member, ...]:
        return tuple(m for m in self._source.members() if m.status in _PRESENT)

    async def _listen(self, events: AsyncIterable[Event | Dropped]) -> None:
        async for event in events:
            if isinstance(event, Dropped):
                self._state.resume(self._present_members(), self._clocks())
                self._rewrite = True
            else:
                self._record(event)
            self._wake.set()
        self._ended.set()
        self._wake.set()

    def _record(self, event: Event) -> None:
        lines = self._state.record(event)
        if not self._rewrite:
            self._pending += lines

    # --- writing ---

    async def _keep_writing(self) -> None:
        while not self._ended.is_set():
            self._wake = trio.Event()
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
        """Bring everything to the file, or have it tried again later."""
        try:
            if not (self._rewrite or self._compaction_due()):
                await self._append(sync=sync)
            if self._rewrite or self._compaction_due():
                await self._replace()
        except OSError as error:
            if self._retry_at is None:
                _log.error(
                    "snapshot %s: cannot be written: %s; will try again every %g s",
                    self._path,
                    _reason(error),
                    RETRY_INTERVAL,
                )
            self._rewrite = True
            self._pending.clear()  # the state knows it all
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
            self._rewrite = True  # somebody removed it; what it said is in memory
        else:
            self._size += len(data)
            self._appends.append((trio.current_time() - began) * 1000)

    async def _replace(self) -> None:
        data = self._state.compacted()
        self._pending.clear()
        self._rewrite = False
        began = trio.current_time()
        await self._files.replace(self._path, data, suffix=_COMPACT_SUFFIX, mode=SHARED)
        self._size = len(data)
        self._compactions.append((trio.current_time() - began) * 1000)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
